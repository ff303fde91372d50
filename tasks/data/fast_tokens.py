"""Texts to token ids at speed: tiktoken built from a tokenizer's own tokenizer.json, where it gives the very same ids.

tiktoken needs about an eighth of the processor time of the tokenizers library for the same byte-level BPE. Whether it is the
same is not believed but tried, on real texts and on hostile ones; wherever one id differs, transformers does the work.
"""

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tasks.encryption import vault

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Engine = Literal["tiktoken", "transformers"]
Ids = NDArray[np.int32]
Bounds = NDArray[np.int64]

# The pattern inside the tokenizers library's ByteLevel pre-tokenizer; its origin is GPT-2's encoder.py.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_BETWEEN = "\U0010fffc"  # stands between two texts of one call
_CALL = 1 << 20  # characters of one call
_SAMPLE_CHARACTERS = 4_000_000
_LONGEST_SAMPLE = 20_000
_ENTRIES = 4_000  # entries of the vocabulary that the gate tries alone
_NASTY = (
    "", " ", "  ", "   \t \n", "\n", "\n\n\n", "\r\n", "a\r\nb\r\n\r\n", " \n ", "a  b   c    d", "trailing   ",
    "\ttab\t\ttab", "x" * 2_000, "ab" * 700, "!" * 500, " " * 300, "\n" * 300, "word" + " " * 100 + "word", "1", "12", "123",
    "1234567890", "3.14159e-10", "1,000,000.00", "٣٤٥", "½²Ⅷ", "I'm you're WE'LL don'T he'S ſ'ſ 'S'T'RE", "it’s", "'",
    "''", "' s", "a_b-c.d/e\\f", "{}[]()<>«»", "https://example.org/a?b=c&d=%20#e", "<b>bold</b> &amp; <!-- x -->",
    "def f(x):\n    return x ** 2\n\n\tif x:\n\t\tpass", "👍", "👩\u200d👩\u200d👧\u200d👦 family", "🏳️\u200d🌈", "🇩🇪🇫🇷", "👍🏽",
    "a\u0301e\u0308", "\u0301", " \u0301x", ">\u0338", "\ufe0f", "\u200d", "e\u0301 é ｆｕｌｌ", "\u1112\u1161\u11ab 한글",
    "Å Å ﬁ", "日本語のテキスト。", "中文，没有空格的句子！123", "ไทย", "हिन्दी में", "שלום עולם", "مرحبا بالعالم",
    "\u202eabc\u202c", "a\u200bb\ufeffc", "\u00a0nbsp\u00a0", "\u2028\u2029\x85\x0b\x0c", "\x00", "a\x00b",
    "\x01\x1b[0m\x7f", "\x1c\x1d\x1e\x1f", "\ufffd\ufffd", "\ue000\ue001", "\U0001f9ff\U000e0041", "ẞß ŉ İı", "𝕳𝖊𝖑𝖑𝖔", "ǅ ǆ",
)  # fmt: skip


class TextEncoder(Protocol):
    """Texts to ids."""

    engine: Engine

    def encode(self, texts: Sequence[str], control: bool = False) -> tuple[Ids, Bounds]:
        """The ids of all texts in a row, and where each text's begin: text i has `ids[bounds[i]:bounds[i + 1]]`.

        Args:
            texts: what is encoded; nothing is put before or after it.
            control: whether the texts of control tokens are control tokens; else they are plain text.
        """
        ...

    def characters(self, text: str, ids: Ids, counts: Sequence[int]) -> list[int]:
        """How many characters of `text`, whose ids are `ids`, are whole within its first `count` tokens, for each count."""
        ...


class TransformersEncoder:
    """The tokenizer itself, whatever it is."""

    engine: Engine = "transformers"

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        self.tokenizer = tokenizer

    def encode(self, texts: Sequence[str], control: bool = False) -> tuple[Ids, Bounds]:
        """See TextEncoder; equal texts are encoded once."""
        unlike = list(dict.fromkeys(texts))
        if not unlike:
            return np.zeros(0, np.int32), np.zeros(1, np.int64)
        found = self.tokenizer(unlike, add_special_tokens=False, split_special_tokens=not control)["input_ids"]
        known = {text: np.asarray(ids, np.int32) for text, ids in zip(unlike, found, strict=True)}
        return joined([known[text] for text in texts])

    def characters(self, text: str, ids: Ids, counts: Sequence[int]) -> list[int]:
        """See TextEncoder."""
        places = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return [places[count][0] if count < len(places) else len(text) for count in counts]


@dataclass(frozen=True)
class _Parts:
    """What tiktoken is built from. Its own numbers are ranks; `ids` turns them into the tokenizer's ids."""

    pattern: str
    ranks: dict[bytes, int]
    control: dict[str, int]
    plain: dict[str, int]
    ids: Ids
    sizes: NDArray[np.int64]  # bytes of each rank
    composed: bool  # whether texts are brought to NFC first


class TiktokenEncoder:
    """Byte-level BPE through tiktoken; the few texts that its engine cannot take go to the tokenizer itself."""

    engine: Engine = "tiktoken"

    def __init__(self, parts: _Parts, tokenizer: "PreTrainedTokenizerFast") -> None:
        from tiktoken import Encoding

        self.parts, self.exact = parts, TransformersEncoder(tokenizer)
        self.between = len(parts.ids)
        added = {**parts.control, **parts.plain}
        self.encoding = Encoding(
            "own", pat_str=parts.pattern, mergeable_ranks=parts.ranks, special_tokens={**added, _BETWEEN: self.between}
        )
        self.allowed = {True: set(added), False: set(parts.plain)}
        largest = int(parts.ids.max())
        self.sizes = np.zeros(largest + 1, np.int64)
        self.sizes[parts.ids] = parts.sizes

    def encode(self, texts: Sequence[str], control: bool = False) -> tuple[Ids, Bounds]:
        """See TextEncoder; many texts are one call, with a token of our own between them."""
        found: list[tuple[Ids, Bounds]] = []
        for start, end in _calls(texts):
            found.append(self._together(texts[start:end], control))
        if len(found) == 1:
            return found[0]
        lengths = [np.diff(bounds) for _, bounds in found]
        ids = [ids for ids, _ in found]
        return np.concatenate([np.zeros(0, np.int32), *ids]), starts_of(np.concatenate([np.zeros(0, np.int64), *lengths]))

    def characters(self, text: str, ids: Ids, counts: Sequence[int]) -> list[int]:
        """See TextEncoder."""
        if self.parts.composed and not _is_settled(text):
            return self.exact.characters(text, ids, counts)
        raw, ends = text.encode(), np.concatenate([[0], np.cumsum(self.sizes[ids])])
        return [len(raw[: int(ends[min(count, len(ids))])].decode("utf-8", "ignore")) for count in counts]

    def _together(self, texts: Sequence[str], control: bool) -> tuple[Ids, Bounds]:
        odd = [index for index, text in enumerate(texts) if not _is_settled(text)] if self.parts.composed else []
        usual = list(texts)
        for index in odd:
            usual[index] = ""
        found = self._at_once(usual, control)
        if found is None:
            return joined([self._alone(text, control) for text in texts])
        if not odd:
            return found
        ids, bounds = found
        parts = np.split(ids, bounds[1:-1])
        for index in odd:
            parts[index] = self._alone(texts[index], control)
        return joined(parts)

    def _at_once(self, texts: Sequence[str], control: bool) -> tuple[Ids, Bounds] | None:
        """None where a text needs more stack than the engine has, or holds the character that stands between texts."""
        allowed = self.allowed[control] | {_BETWEEN}
        try:
            ranks = self.encoding.encode_to_numpy(_BETWEEN.join(texts), allowed_special=allowed, disallowed_special=())
        except ValueError:
            return None
        marks = np.flatnonzero(ranks == self.between)
        if len(marks) != len(texts) - 1:
            return None
        ids = self.parts.ids[np.delete(ranks, marks)]
        return ids, np.concatenate([[0], marks - np.arange(len(marks)), [len(ids)]]).astype(np.int64)

    def _alone(self, text: str, control: bool) -> Ids:
        if not self.parts.composed or _is_settled(text):
            try:
                ranks = self.encoding.encode_to_numpy(text, allowed_special=self.allowed[control], disallowed_special=())
            except ValueError:
                pass
            else:
                return self.parts.ids[ranks]
        return self.exact.encode([text], control)[0]


def text_encoder(tokenizer: "PreTrainedTokenizerFast", sample: Sequence[str]) -> tuple[TextEncoder, str]:
    """The fastest encoder that gives the tokenizer's own ids, and why it is that one.

    Args:
        tokenizer: a transformers tokenizer.
        sample: real texts; at most some four million characters of them are compared.
    """
    fast = build(tokenizer)
    if isinstance(fast, str):
        return TransformersEncoder(tokenizer), f"tokens by transformers: {fast}"
    exact, real, hostile = TransformersEncoder(tokenizer), _sample(sample), hostile_texts(tokenizer)
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    for texts in (real, hostile, (_BETWEEN, f"a{_BETWEEN} b")):
        difference = first_difference(fast, exact, texts, added)
        if difference:
            return exact, f"tokens by transformers: {difference}"
    compared = f"the same ids as transformers' on {len(real):,} real and {len(hostile):,} hostile texts"
    return fast, f"tokens by tiktoken, built from the tokenizer's own files: {compared}"


def encoder_of(tokenizer: "PreTrainedTokenizerFast", engine: Engine) -> TextEncoder:
    """The encoder that a gate has chosen before, without trying it again."""
    fast = build(tokenizer) if engine == "tiktoken" else ""
    return TransformersEncoder(tokenizer) if isinstance(fast, str) else fast


def build(tokenizer: "PreTrainedTokenizerFast") -> TiktokenEncoder | str:
    """tiktoken with the tokenizer's vocabulary, merges and pattern; a sentence where it cannot be the same."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return "the tokenizer has no tokenizer.json"
    parts = _read(json.loads(backend.to_str()))
    if isinstance(parts, str):
        return parts
    try:
        return TiktokenEncoder(parts, tokenizer)
    except ValueError as error:
        return f"tiktoken cannot use its pattern: {error}"


def first_difference(one: TextEncoder, other: TextEncoder, texts: Sequence[str], controls: Sequence[str] | None = None) -> str:
    """Where two encoders first differ, both with control tokens and without, as a sentence; "" where they do not.

    Args:
        one: the encoder in question.
        other: the one that is right.
        texts: what is encoded.
        controls: the texts of added tokens. Where a text holds none of them, `other` says the same of it both ways and is
            asked once; None: it is asked twice.
    """
    ids, bounds = other.encode(texts, control=False)
    right = np.split(ids, bounds[1:-1])
    for control in (False, True):
        if control:
            odd = [place for place, text in enumerate(texts) if controls is None or _may_hold(text, controls)]
            again, ends = other.encode([texts[place] for place in odd], control=True)
            for index, place in enumerate(odd):
                right[place] = again[ends[index] : ends[index + 1]]
        ids, bounds = one.encode(texts, control)
        expected, places = joined(right)
        if np.array_equal(ids, expected) and np.array_equal(bounds, places):
            continue
        for index, text in enumerate(texts):
            left = ids[bounds[index] : bounds[index + 1]]
            if not np.array_equal(left, right[index]):
                found = f"{left[:8].tolist()} for {text[:40]!r}, transformers {right[index][:8].tolist()}"
                return f"{one.engine} gives {vault.told(found)}"
    return ""


def _may_hold(text: str, controls: Sequence[str]) -> bool:
    """Whether a text may hold one of some texts, now or once it is normalized."""
    return not text.isascii() or any(control in text for control in controls)


def hostile_texts(tokenizer: "PreTrainedTokenizerFast", seed: int = 0) -> list[str]:
    """Texts on which encoders differ if anywhere: odd characters, control texts, entries of the vocabulary and mixtures."""
    added = sorted(token.content for token in tokenizer.added_tokens_decoder.values())[:64]
    around = [form for text in added for form in (text, f"a{text}b", f" {text} ", f"\n{text}\n\n", text[:-1], text * 2)]
    random, entries = Random(seed), sorted(_words(tokenizer))  # noqa: S311 - picks texts, keeps no secret
    picked = entries if len(entries) <= _ENTRIES else random.sample(entries, _ENTRIES)
    made = ["".join(random.choices(entries, k=12)) for _ in range(500)] if entries else []
    mixed = ["".join(random.choices(_NASTY[:12] + _NASTY[24:], k=6)) for _ in range(300)]
    return [*_NASTY, *around, *picked, *made, *mixed]


def joined(parts: Sequence[Ids]) -> tuple[Ids, Bounds]:
    """Arrays one after the other, and where each begins."""
    lengths = np.fromiter((len(part) for part in parts), np.int64, len(parts))
    return np.concatenate([np.zeros(0, np.int32), *parts]).astype(np.int32), starts_of(lengths)


def starts_of(lengths: NDArray[np.int64]) -> Bounds:
    """Where each of several stretches begins, and at last where all end."""
    bounds = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=bounds[1:])
    return bounds


def _calls(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Runs of texts of about a million characters."""
    start = characters = 0
    for index, text in enumerate(texts):
        if characters and characters + len(text) > _CALL:
            yield start, index
            start, characters = index, 0
        characters += len(text) + 1
    if start < len(texts):
        yield start, len(texts)


def _sample(texts: Sequence[str]) -> list[str]:
    picked, left = [], _SAMPLE_CHARACTERS
    for text in texts:
        picked.append(text[:_LONGEST_SAMPLE])
        left -= len(picked[-1])
        if left <= 0:
            break
    return picked


def _is_settled(text: str) -> bool:
    """Whether bringing a text to NFC changes nothing in any version of Unicode."""
    if text.isascii():
        return True
    if not unicodedata.is_normalized("NFC", text):
        return False
    return text.isprintable() or all(unicodedata.category(character) != "Cn" for character in set(text))


def _read(described: Mapping[str, Any]) -> _Parts | str:
    """The parts of a byte-level BPE from its tokenizer.json; a sentence where it is something else."""
    model, pattern = described["model"], _pattern(described.get("pre_tokenizer") or {})
    normalizer = (described.get("normalizer") or {}).get("type", "")
    problem = (
        f"its model is {model['type']}, not BPE" if model["type"] != "BPE"
        else f"it normalizes text ({normalizer})" if normalizer not in ("", "NFC")
        else "its pre-tokenizer is not one pattern before byte level" if not pattern
        else "its merges are random or for parts of words" if model.get("dropout") or any(
            model.get(name) for name in ("continuing_subword_prefix", "end_of_word_suffix")
        )
        else _why_added_differ(described["added_tokens"])
    )  # fmt: skip
    return problem or _ranked(described, pattern, composed=bool(normalizer))


def _ranked(described: Mapping[str, Any], pattern: str, composed: bool) -> _Parts | str:
    """Number bytes first and then what merges make, in the order of the merges; added tokens last."""
    vocabulary, letters = described["model"]["vocab"], byte_letters()
    if any(letter not in vocabulary for letter in letters):
        return "its vocabulary lacks single bytes"
    pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in described["model"]["merges"])
    made = dict.fromkeys(first + second for first, second in pairs)
    tokens = [*letters, *(token for token in made if token not in letters)]
    added = {token["content"]: token["id"] for token in described["added_tokens"]}
    unmade = vocabulary.keys() - set(tokens) - added.keys()
    if unmade and described["model"].get("ignore_merges"):
        return f"{len(unmade)} entries of its vocabulary come from no merge, such as {min(unmade)!r}"
    if not all(token in vocabulary for token in tokens):
        return "a merge makes a token that is not in its vocabulary"
    written = [bytes(letters[letter] for letter in token) for token in tokens]
    first = len(tokens)
    numbers = {content: first + index for index, content in enumerate(added)}
    control = {token["content"] for token in described["added_tokens"] if token["special"]}
    return _Parts(
        pattern=pattern,
        ranks={text: rank for rank, text in enumerate(written)},
        control={text: rank for text, rank in numbers.items() if text in control},
        plain={text: rank for text, rank in numbers.items() if text not in control},
        ids=np.asarray([*(vocabulary[token] for token in tokens), *added.values()], np.int32),
        sizes=np.asarray([len(text) for text in [*written, *(content.encode() for content in added)]], np.int64),
        composed=composed,
    )


def _pattern(described: Mapping[str, Any]) -> str:
    """The pattern by which a pre-tokenizer splits before byte-level BPE; "" where it does something else."""
    steps = described["pretokenizers"] if described.get("type") == "Sequence" else [described]
    last = steps[-1] if steps else {}
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        return ""
    if len(steps) == 1:
        return _GPT2 if last.get("use_regex", True) else ""
    split = steps[0]
    plain = split.get("type") == "Split" and split.get("behavior") == "Isolated" and not split.get("invert")
    if len(steps) == 2 and plain and not last.get("use_regex", True):
        return str(split["pattern"].get("Regex", ""))
    return ""


def _why_added_differ(added: Sequence[Mapping[str, Any]]) -> str:
    """Why added tokens cannot be found as tiktoken finds them; "" where they can."""
    for token in added:
        if any(token.get(flag) for flag in ("lstrip", "rstrip", "single_word")):
            return f"its token {token['content']!r} depends on what stands beside it"
        if not token["content"] or _BETWEEN in token["content"]:
            return f"its token {token['content']!r} cannot be looked for"
    texts = sorted(token["content"] for token in added)
    # tiktoken takes the first that fits and tokenizers the longest: they differ where one begins another.
    for one, other in pairwise(texts):
        if other.startswith(one):
            return f"its token {one!r} is the beginning of {other!r}"
    return ""


def byte_letters() -> dict[str, int]:
    """The letter that stands for each byte in a byte-level vocabulary (GPT-2's encoder.py), and the byte."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + index): byte for index, byte in enumerate(hidden)}


def _words(tokenizer: "PreTrainedTokenizerFast") -> Iterator[str]:
    """The entries of a byte-level vocabulary that are whole characters, as text."""
    letters = byte_letters()
    for token in tokenizer.get_vocab():
        if all(letter in letters for letter in token):
            try:
                yield bytes(letters[letter] for letter in token).decode()
            except UnicodeDecodeError:
                continue
