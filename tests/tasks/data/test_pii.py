"""Personal data are found by their form, numbers that only look like them are not."""

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data import presidio
from tasks.data.pii import KINDS, find, redact, spans_of
from tasks.data.pii_forms import entropy, luhn
from tasks.errors import RequestError

KEY_BLOCK = (
    "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEabc0123456789+/ABCDEFabcdef01234567\n" * 3 + "-----END RSA PRIVATE KEY-----"
)
FOUND = {
    "email": [
        "jane.doe@acme.org", "abc@qq.com", "bob+x@mail.example.co.uk", "x_y@a-b.io",
    ],
    "phone": [
        "212-555-0187", "(212) 555-0187", "1-800-555-0199", "212.555.0187", "+49 30 1234567", "+44 20 7946 0958",
        "+15551234567", "+33 1 23 45 67 89", "+55 11 91234-5678",
    ],
    "card": [
        "4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005", "3782 822463 10005", "6011111111111117",
    ],
    "ip": [
        "81.2.69.142", "192.168.1.17", "2001:0db8:85a3::8a2e:0370:7334", "fe80::1",
    ],
    "national_id": [
        "536-90-4399", "12345678Z", "X1234567L", "11010519491231002X", "529.982.247-25", "1 84 12 76 451 089 46",
        "RSSMRA85T10A562S",
    ],
    "api_key": [
        "AKIAIOSFODNN7EXAMPLE", "ghp_" + "aB3" * 12, "xoxb-123456789012-abcdEFGHijkl", "sk-proj-abcDEF123456ghiJKL7890mnop",
        "hf_abcdefghijKLMNOPQRST1234567890abcd",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NSJ9.abcDEF123456", KEY_BLOCK,
    ],
}  # fmt: skip
ANNOUNCED = {  # what only a word before it, or beside it, makes certain
    "tel: [030 / 1234567]": "phone",
    "Tél. : [01 23 45 67 89]": "phone",
    "phone number is [555-1234]": "phone",
    "Telefon [0171/1234567]": "phone",
    "请拨打[010-12345678]": "phone",
    "我的手机号是 [13812345678]": "phone",
    "host [1.2.3.4]": "ip",
    "http://[8.8.4.4]:80/x": "ip",
    "Aadhaar number [2341 2341 2346]": "national_id",
    "api_key = '[k3Jd82hfKq93ZxLm0Pq1]'": "api_key",
    "Authorization: Bearer [9f8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c]": "api_key",
    "postgres://bob:[s3cr3tX]@db.host/x": "api_key",
}
NOT_FOUND = [
    "version 1.2.3.4", "v10.20.30.40", "Chrome/91.0.44.12", "section 2.1.3.4", "1.2.3.4", "127.0.0.1", "netmask 255.255.255.0",
    "10.0.0.0/8", "999.1.1.1", "12:30:45", "std::vector a::b", "00:1A:2B:3C:4D:5E", "150-50-1000=800", "1000-200-4000",
    "ISBN 978-0-14-312656-0", "9780143126560", "3.14159265358979", "2021-12-20 12:30:45", "the years 2010 2011 2012 2013",
    "call 1000000 times", "x = +12345678", "5 + 123456789", "472547338\n+960397912423686", "sum is 4111111111111111",
    "order 1234567890123456", "1,234,567,890", "550e8400-e29b-41d4-a716-446655440000", "4111 1111 1111 1112",
    "000-12-3456", "666-12-3456", "912-12-3456", "536-00-4399", "12345678A", "11010519491231002Y", "111.111.111-11",
    "@decorator.name", "icon@2x.png", "git@github.com:a/b", "a @ b.c", "user@localhost", "sk-fading-circle-element-one-two",
    "password = your_password_here", "token = process.env.TOKEN_VALUE1", "mysql://scott:tiger@localhost",
    "The secret is responsibility and accountability", "-----BEGIN PRIVATE KEY-----\n...\n-----END PRIVATE KEY-----",
]  # fmt: skip


AROUND = ("{}", "Take {} now.", "({})", "这是{}。", "<{}>,\n", "'{}'")


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, texts in FOUND.items() for text in texts])
def test_each_form_is_found_and_redacted(kind: str, text: str) -> None:
    texts = pl.Series(["nothing", *(around.format(text) for around in AROUND)])
    counts = find(texts)
    assert {name: found.to_list() for name, found in counts.items() if found.sum()} == {kind: [0, 1, 1, 1, 1, 1, 1]}
    redacted, changed = redact(texts)
    assert redacted.to_list() == ["nothing", *(around.format(f"[{kind.upper()}]") for around in AROUND)]
    assert {name for name, mask in changed.items() if mask.any()} == {kind}
    assert not any(mask.any() for mask in redact(redacted)[1].values())


@pytest.mark.parametrize("text", ANNOUNCED)
def test_words_before_make_numbers_certain(text: str) -> None:
    kind, marked = ANNOUNCED[text], text.replace("[", "").replace("]", "")
    before, _, rest = text.partition("[")
    assert redact(pl.Series([marked]))[0].to_list() == [f"{before}[{kind.upper()}]{rest.partition(']')[2]}"]


@pytest.mark.parametrize("text", NOT_FOUND)
def test_what_only_looks_like_them_stays(text: str) -> None:
    assert spans_of(text) == []
    assert redact(pl.Series([text]))[0].to_list() == [text]


def test_only_the_kinds_asked_for() -> None:
    texts = pl.Series(["a@b.org, +49 30 1234567, a@b.org"])
    assert {kind: counts.to_list() for kind, counts in find(texts, ["email"]).items()} == {"email": [2]}
    assert redact(texts, ["phone"])[0].to_list() == ["a@b.org, [PHONE], a@b.org"]
    with pytest.raises(RequestError, match=r"Unknown kind of personal data 'mail'\. Did you mean 'email'"):
        find(texts, ["mail"])


def test_the_surer_kind_holds_where_two_overlap() -> None:
    text = "https://me:pa55word@mail.example.org/ and tel 4111 1111 1111 1111"
    assert redact(pl.Series([text]))[0].to_list() == ["https://me:[API_KEY]@mail.example.org/ and tel [CARD]"]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from([*(text for texts in FOUND.values() for text in texts), " ", ", ", "x", "1", "+", "是"]), max_size=6
    )
)
def test_redacting_leaves_nothing_to_find(pieces: list[str]) -> None:
    text = " ".join(pieces)
    counts = find(pl.Series([text]))
    redacted, changed = redact(pl.Series([text]))
    assert {kind: mask[0] for kind, mask in changed.items()} == {kind: counts[kind][0] > 0 for kind in KINDS}
    assert sum(found[0] for found in counts.values()) == sum(redacted[0].count(f"[{kind.upper()}]") for kind in KINDS)


HOSTILE = ["1" * 50_000, "+1 " * 20_000, "a@" * 20_000, "a." * 20_000 + "@", "eyJaaaaaaaaa." * 5_000, "://a:" * 10_000,
           "-----BEGIN PRIVATE KEY-----" * 500, "token=" * 10_000, "tel" + " " * 20_000, "f:" * 20_000,
           "1." * 20_000]  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_texts_take_no_longer_than_they_are_long(number: int) -> None:
    redacted, _ = redact(pl.Series([HOSTILE[number]]))
    assert len(redacted) == 1


def test_check_digits_and_entropy() -> None:
    assert luhn("79927398713")  # the example of ISO/IEC 7812-1's patent, US 2950048
    assert [digit for digit in "0123456789" if luhn("7992739871" + digit)] == ["3"]
    assert entropy("aaaa") == 0
    assert entropy("abcd") == 2


@pytest.fixture
def fresh() -> Iterator[None]:
    presidio._analyzer.cache_clear()
    yield
    presidio._analyzer.cache_clear()


class FakeAnalyzer:
    """Answers as presidio_analyzer.AnalyzerEngine does, by looking words up."""

    KNOWN = (
        ("Ada Lovelace", "PERSON", 0.85),
        ("Lovelace", "LOCATION", 0.6),
        ("Paris", "LOCATION", 0.85),
        ("555", "US_SSN", 0.05),
    )

    def __init__(self, *, nlp_engine: Any, supported_languages: list[str]) -> None:
        self.nlp_engine, self.supported_languages = nlp_engine, supported_languages

    def analyze(self, *, text: str, language: str, entities: list[str], score_threshold: float) -> list[Any]:
        assert language in self.supported_languages
        assert language in self.nlp_engine.nlp
        return [
            SimpleNamespace(entity_type=entity, start=text.index(word), end=text.index(word) + len(word), score=score)
            for word, entity, score in self.KNOWN
            if word in text and entity in entities and score >= score_threshold
        ]


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    spacy: Any = ModuleType("spacy")
    spacy.blank = spacy.load = lambda name: name
    spacy.util = SimpleNamespace(is_package=lambda name: name == "installed")
    analyzer: Any = ModuleType("presidio_analyzer")
    analyzer.AnalyzerEngine = FakeAnalyzer
    engines: Any = ModuleType("presidio_analyzer.nlp_engine")
    engines.SpacyNlpEngine = SimpleNamespace
    for module in (spacy, analyzer, engines):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_without_presidio_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(RequestError, match=r"pip install 'tuneflow\[presidio\]'"):
        presidio.presidio_find(pl.Series(["x"]), ["email"])


def test_presidio_finds_names_beside_our_forms(faked: None) -> None:
    texts = pl.Series(["Ada Lovelace of Paris, ada@x.org, 555", "", "Paris"])
    kinds = ["person", "location", "email", "national_id"]
    redacted, changed = presidio.presidio_redact(texts, kinds, model="installed")
    assert redacted.to_list() == ["[PERSON] of [LOCATION], [EMAIL], 555", "", "[LOCATION]"]
    assert {kind: mask.to_list() for kind, mask in changed.items()} == {
        "person": [True, False, False], "location": [True, False, True], "email": [True, False, False],
        "national_id": [False, False, False],
    }  # fmt: skip
    assert presidio.presidio_find(texts, ["location"], model="installed")["location"].to_list() == [2, 0, 1]


def test_presidio_needs_a_model_for_names(faked: None) -> None:
    texts = pl.Series(["Ada"])
    with pytest.raises(RequestError, match="Presidio finds person by a spaCy model, and none is named"):
        presidio.presidio_find(texts, ["person"])
    with pytest.raises(RequestError, match="The spaCy model 'en_core_web_lg' is not installed here"):
        presidio.presidio_find(texts, ["person"], model="en_core_web_lg")
    with pytest.raises(RequestError, match="Unknown kind of personal data 'name'"):
        presidio.presidio_find(texts, ["name"])
