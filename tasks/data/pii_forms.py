"""The forms of personal data and secrets: for each kind a gate over columns, patterns, and a check of each match.

A pattern's last group, where it has one, is what counts and is redacted.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable
from math import log2
from typing import NamedTuple

Check = Callable[[re.Match[str]], bool] | None
Pattern = tuple[re.Pattern[str], Check]


class Form(NamedTuple):
    """How a kind is recognized.

    Args:
        gates: every text with a match matches one of them too, in the language of polars. Several small patterns are read
            much faster than one large one.
        patterns: Python's patterns, each with a check of its matches; None: every match counts.
    """

    gates: tuple[str, ...]
    patterns: tuple[Pattern, ...]


def digits_of(text: str) -> str:
    """The ASCII digits alone."""
    return "".join(character for character in text if character.isascii() and character.isdigit())


def entropy(text: str) -> float:
    """Shannon entropy of the characters, in bits each."""
    return -sum(count / len(text) * log2(count / len(text)) for count in Counter(text).values())


def _before(match: re.Match[str], length: int = 40) -> str:
    return match.string[max(0, match.start() - length) : match.start()]


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of ISO/IEC 7812-1."""
    doubled = [int(digit) * (2 if index % 2 else 1) for index, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


# Lengths of card numbers by their first digits (ISO/IEC 7812 issuers).
_CARDS = re.compile(
    r"4(?:\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-5]|[689]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}|6(?:011|5\d\d|4[4-9]\d)\d{12}|62\d{14,17}"
)


_SUM = re.compile(r"(?:[=+*/×÷]|(?i:result|sum|total|product|difference|equals?|answer)(?: is)?:?)\s*\Z")


def _is_card(match: re.Match[str]) -> bool:
    digits = digits_of(match[0])
    return _CARDS.fullmatch(digits) is not None and luhn(digits) and not _SUM.search(_before(match))


_FILES = ("png", "jpg", "jpeg", "gif", "svg", "webp", "css", "js", "ts", "json", "py", "html", "xml", "txt", "pdf")


def _is_email(match: re.Match[str]) -> bool:
    name, _, domain = match[0].rpartition("@")
    return domain.rpartition(".")[2].lower() not in _FILES and name != "git" and ".." not in match[0]


# ITU-T E.164 country codes.
_COUNTRIES = re.compile(
    r"1|7|2(?:0|1[1-3689]|2\d|3\d|4\d|5[0-8]|6\d|7|9[01789])|3(?:[0-469]|5\d|7\d|8[0-35-79])|4(?:[013-9]|2[013])"
    r"|5(?:[1-8]|0\d|9\d)|6(?:[0-6]|7[02-9]|8\d|9[0-2])|8(?:[1246]|5[02356]|8[0-8])|9(?:[0-58]|6\d|7\d|9\d)"
)


def _is_international(match: re.Match[str]) -> bool:
    groups = re.findall(r"\d+", match[0])
    digits = "".join(groups)
    addend = re.search(r"(\+?)[0-9][0-9 ().-]*\s*\Z", _before(match))
    if (addend and not addend[1]) or _SUM.search(_before(match)):
        return False
    return 8 <= len(digits) <= 15 and _COUNTRIES.match(digits) is not None and len(digits) >= 1.8 * len(groups)


def _is_announced(match: re.Match[str]) -> bool:
    digits = digits_of(match[1])
    return 7 <= len(digits) <= 15 and len(set(digits)) > 2 and not (digits == match[1] and digits.endswith("000"))


def _beside_han(match: re.Match[str]) -> bool:
    return re.search("[\u4e00-\u9fff]", match.string) is not None and len(set(match[0])) > 3


_VERSION = re.compile(
    r"(?i)(?:\b(?:v|ver|version|release|build|section|chapter|clause|figure|table|step|rfc|oid|firmware|driver|patch|update)"
    r"\.?[ :#=]{0,2}|[A-Za-z][\w+-]*[/-]|§ ?|版本 ?)\Z"
)
_ADDRESS = re.compile(r"(?i)\b(?:ip|ipv4|addr|address|host|server|dns|gateway|ping|router|subnet)\b|//\Z")


def _is_address(match: re.Match[str]) -> bool:
    """An IPv4 address of a host; sections and versions count up from small numbers or follow their name."""
    octets = [int(part) for part in match[0].split(".")]
    before = _before(match)
    is_network = octets[3] == 0 and re.match(r"/[0-9]{1,2}\b", match.string[match.end() : match.end() + 4])
    if max(octets) > 255 or octets[0] in (0, 127, 255) or is_network or _VERSION.search(before[-20:]):
        return False
    return max(octets) > 9 or _ADDRESS.search(before) is not None


def _is_address_6(match: re.Match[str]) -> bool:
    try:
        address = ipaddress.IPv6Address(match[0])
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_multicast)


def _is_chinese_id(match: re.Match[str]) -> bool:
    """GB 11643: region, date of birth, ISO 7064 mod 11-2."""
    digits = match[0].upper()
    weights = [7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2]
    total = sum(int(digit) * weight for digit, weight in zip(digits, weights, strict=False))
    return "10X98765432"[total % 11] == digits[17]


def _is_spanish_id(match: re.Match[str]) -> bool:
    """DNI and NIE: the letter is the number modulo 23."""
    text = match[0].replace("-", "").upper()
    number = text[:-1].translate(str.maketrans("XYZ", "012"))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == text[-1]


def _is_cpf(match: re.Match[str]) -> bool:
    """Brazil's CPF: two check digits modulo 11."""
    digits = [int(digit) for digit in digits_of(match[0])]
    for length in (9, 10):
        total = sum(digit * (length + 1 - index) for index, digit in enumerate(digits[:length]))
        if total * 10 % 11 % 10 != digits[length]:
            return False
    return len(set(digits)) > 1


def _is_nir(match: re.Match[str]) -> bool:
    """France's NIR: key = 97 - number modulo 97; 2A and 2B stand for 19 and 18."""
    text = match[0].replace(" ", "").upper().replace("2A", "19").replace("2B", "18")
    return 97 - int(text[:13]) % 97 == int(text[13:])


_ODD = dict(zip("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", (
    1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25,
    24, 23,
), strict=True))  # fmt: skip


def _is_codice_fiscale(match: re.Match[str]) -> bool:
    """Italy's codice fiscale: the last letter is a sum over the others modulo 26 (decree of 23 December 1976)."""
    text = match[0].upper()
    total = sum(_ODD[c] if index % 2 == 0 else int(c) if c.isdigit() else ord(c) - 65 for index, c in enumerate(text[:15]))
    return chr(65 + total % 26) == text[15]


_VERHOEFF = ("0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258")


def _is_aadhaar(match: re.Match[str]) -> bool:
    """India's Aadhaar: Verhoeff's check digit over the dihedral group D5."""
    value = 0
    for index, digit in enumerate(reversed(digits_of(match[1]))):
        value = _dihedral(value, int(_VERHOEFF[index % 8][int(digit)]))
    return value == 0


def _dihedral(one: int, two: int) -> int:
    if one < 5:
        return (one + two) % 5 if two < 5 else 5 + (one + two) % 5
    return 5 + (one - two) % 5 if two < 5 else (one - two) % 5


_PLACEHOLDER = re.compile(
    r"(?i)your|example|placeholder|x{4}|dummy|sample|changeme|insert|redacted|process\.env|os\.environ|\*{3}"
)


def _is_secret(match: re.Match[str]) -> bool:
    """Random letters and digits rather than words."""
    value = match[match.lastindex or 0]
    digits = sum(character.isdigit() for character in value)
    return digits >= 2 and len(value) - digits >= 2 and entropy(value) >= 3.2 and not _PLACEHOLDER.search(value)


def _is_password(match: re.Match[str]) -> bool:
    """A password in an address: `scott:tiger@` and `user:password@` stand in every manual."""
    return len(match[1]) >= 6 and re.search(r"[0-9]", match[1]) is not None and not re.search(r"[<>{}$*]", match[1])


def _is_key_block(match: re.Match[str]) -> bool:
    return sum(len(run) for run in re.findall(r"[A-Za-z0-9+/=]{16,}", match[0])) >= 64


def _patterns(*entries: tuple[str, Check]) -> tuple[Pattern, ...]:
    return tuple((re.compile(pattern, re.ASCII), check) for pattern, check in entries)  # ASCII: 卡号4111 is no word


_BEFORE, _AFTER = r"(?<![\w.,+*/=$#:-])(?<!<<)", r"(?![\w=*/-]|[.,][0-9])"  # a number that is no part of another or of a sum
_DIGITS = r"[0-9](?:[ .\-()/]{0,3}[0-9]){6}"
_PHONE_WORDS = (
    r"(?i:\b(?:tel|phone|telephone|cell ?phone|cell|mobile|call|text|fax|whatsapp|sms|dial|contact|telefon|telefone|handy|móvil"
    r"|tél|téléphone|teléfono|celular)\b|电话|手机|手機|電話|联系方式|致电|拨打)"
)
_BETWEEN = r"(?i:[\s:.,#=*\"'-]|\bnumbers?\b|\bno\b|\bnr\b|\bis\b|\bus\b|\bme\b|\bat\b|\bon\b|\bto\b|号码|号|是|为|：|\(){0,12}"
_KEY_WORDS = (
    r"(?:api|access|secret|auth|private|client|account|bearer|refresh)[_\- ]?(?:key|token|secret)|secret|token"
    r"|passw(?:or)?d|pwd|bearer"
)
_BLOCK = r"(?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
_VALUE = r"[A-Za-z0-9_+/=.-]{16,}"
_DOMAIN = r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}"

FORMS: dict[str, Form] = {
    "api_key": Form(
        (
            r"AKIA|ASIA|gh[oprsu]_|github_pat_|glpat-|npm_|xox[abeoprs]-|sk-|[rs]k_|hf_|AIza|eyJ|SG\.|PRIVATE KEY",
            r"://[^\s/@]+@",
            r"(?i:key|token|secret|passwd|password|pwd|bearer)[\"']?\s{0,3}(?:[:=]|is\b|[ ])\s{0,3}[\"']?[A-Za-z0-9_+/=.-]{16}",
        ),
        _patterns(
            (r"\b(?:AKIA|ASIA)[A-Z2-7]{16}\b", None),
            (r"\bgh[oprsu]_[A-Za-z0-9]{36,251}\b|\bgithub_pat_[A-Za-z0-9_]{82}\b", None),
            (r"\bglpat-[\w-]{20}\b|\bnpm_[A-Za-z0-9]{36}\b", None),
            (r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}", _is_secret),
            (r"(?<![\w-])sk-[A-Za-z0-9_-]{20,}|\b[rs]k_(?:live|test)_[A-Za-z0-9]{16,}|\bhf_[A-Za-z0-9]{30,}", _is_secret),
            (r"\bAIza[A-Za-z0-9_-]{35}|\bSG\.[\w-]{22}\.[\w-]{43}", None),
            (r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}", None),
            (rf"-----BEGIN {_BLOCK}(?:(?s:.{{0,8000}}?)-----END {_BLOCK}|(?:\s+[A-Za-z0-9+/=]{{32,}})+)", _is_key_block),
            (r"\b[a-z][a-z0-9+]{1,20}://[^\s:/@\"']{1,60}:([^\s:/@\"']{3,100})@[\w.-]", _is_password),
            (rf"(?i:{_KEY_WORDS})[\"']?\s{{0,3}}(?:[:=]|is\b|(?<=[Bb]earer) )\s{{0,3}}[\"']?({_VALUE})", _is_secret),
        ),
    ),
    "email": Form(
        (r"[A-Za-z0-9_%+-]@[A-Za-z0-9]",),
        _patterns(
            (r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9_](?:[A-Za-z0-9._%+-]{0,62}[A-Za-z0-9_+-])?"
             rf"@{_DOMAIN}(?![A-Za-z0-9-]|\.[A-Za-z0-9])", _is_email),
        ),
    ),
    "ip": Form(
        (r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]", r"[0-9A-Fa-f]:[0-9A-Fa-f]{0,4}:"),
        _patterns(
            (r"(?<![\w.:,-])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?![\w-]|\.[0-9])", _is_address),
            # Global, unique local and link local addresses begin so.
            (r"(?i)(?<![\w:.])(?:[23][0-9a-f]{3}|f[cd][0-9a-f]{2}|fe80):[0-9a-f:]{1,34}[0-9a-f:](?![\w:])", _is_address_6),
        ),
    ),
    "card": Form(
        (_DIGITS,),
        _patterns(
            (rf"{_BEFORE}(?:[0-9]{{13,19}}|[0-9]{{4}}(?:[ -][0-9]{{4}}){{3}}(?:[ -][0-9]{{1,3}})?|3[0-9]{{3}}[ -][0-9]{{6}}[ -]"
             rf"[0-9]{{4,5}}){_AFTER}", _is_card),
        ),
    ),
    "national_id": Form(
        (_DIGITS, r"[A-Za-z]{6}[0-9]{2}[A-Za-z][0-9]{2}[A-Za-z]"),
        _patterns(
            (rf"{_BEFORE}(?!000|666|9)[0-9]{{3}}-(?!00)[0-9]{{2}}-(?!0000)[0-9]{{4}}{_AFTER}", None),
            (r"(?<![0-9A-Za-z])[1-8][0-9]{5}(?:19|20)[0-9]{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])[0-9]{3}[0-9Xx]"
             r"(?![0-9A-Za-z])", _is_chinese_id),
            (rf"{_BEFORE}(?:[0-9]{{8}}-?|[XYZ]-?[0-9]{{7}}-?)[A-HJ-NP-TV-Z]{_AFTER}", _is_spanish_id),
            (rf"{_BEFORE}[0-9]{{3}}\.[0-9]{{3}}\.[0-9]{{3}}-[0-9]{{2}}{_AFTER}", _is_cpf),
            (rf"{_BEFORE}[12] ?[0-9]{{2}} ?(?:0[1-9]|1[0-2]) ?(?:[0-9]{{2}}|2[ABab])(?: ?[0-9]{{3}}){{2}} ?[0-9]{{2}}{_AFTER}",
             _is_nir),
            (r"\b[A-Za-z]{6}[0-9]{2}[A-EHLMPRSTa-ehlmprst][0-9]{2}[A-Za-z][0-9]{3}[A-Za-z]\b", _is_codice_fiscale),
            (r"(?i:aadhaar|aadhar|uidai|आधार)[^0-9\n]{0,30}([2-9][0-9]{3} ?[0-9]{4} ?[0-9]{4})(?![0-9])", _is_aadhaar),
        ),
    ),
    "phone": Form(
        (_DIGITS,),
        _patterns(
            (r"(?<![\w.+*/=)-])(?<![0-9] )\+[1-9](?:[ .\-()]{0,2}[0-9]){6,14}(?![0-9=*/])", _is_international),
            (rf"{_BEFORE}(?:\+?1[ .-])?(?:\([1-9][0-9]{{2}}\) ?|[1-9][0-9]{{2}}-)[0-9]{{3}}[ .-][0-9]{{4}}{_AFTER}", None),
            (rf"{_BEFORE}(?:1\.)?[2-9][0-9]{{2}}\.[2-9][0-9]{{2}}\.[0-9]{{4}}{_AFTER}", None),
            (rf"{_PHONE_WORDS}{_BETWEEN}(\(?\+?[0-9](?:[ .\-()/]{{0,3}}[0-9]){{6,14}})(?![0-9%]|[.,][0-9])", _is_announced),
            (r"(?<![0-9A-Za-z.+-])1[3-9][0-9]{9}(?![0-9A-Za-z.%])", _beside_han),
        ),
    ),
}  # fmt: skip
