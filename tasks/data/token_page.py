"""A page that shows rows token by token: what is learned, what is context, and what was cut off."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tasks.data.fast_tokens import byte_letters
from tasks.data.token_setup import TokenizeSetup, encoder_for
from tasks.encryption import vault
from tasks.errors import DatasetError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Kind = Literal["learned", "context", "gone"]
_SAID: Mapping[Kind, str] = {
    "learned": "learned: the loss is computed on it",
    "context": "context: read, not learned",
    "gone": "cut off: longer than the limit, not in the data",
}
_SHOWN = {"\n": "↵\n", "\r": "␍", "\t": "⇥\t", "\x00": "␀", "\u00a0": "⍽"}
_CONTINUED = bytes(range(0x80, 0xC0))  # bytes that go on with a character
_MOST = 20_000  # tokens of one sequence that are shown
_STYLE = """
:root { color-scheme: light dark; --page: #f5f6f8; --card: #fff; --ink: #1b1f24; --soft: #5b6470; --line: #e1e5ea;
  --accent: #0067a3; --learned: #c9efdd; --learned-2: #b2e5cd; --learned-ink: #06402b; --edge: #0b7a57; --context: #eef1f5;
  --context-2: #e3e8ee; --context-ink: #39424d; --gone: #fde3d3; --gone-2: #fad5bf; --gone-ink: #8a2d05; }
@media (prefers-color-scheme: dark) { :root { --page: #0f1216; --card: #171b21; --ink: #e7eaee;
  --soft: #9ba5b1; --line: #2a3038;
  --accent: #6cb8ea; --learned: #11402f; --learned-2: #16503b; --learned-ink: #b9f2da; --edge: #4fd0a5; --context: #222932;
  --context-2: #2a323d; --context-ink: #c4ccd6; --gone: #47200f; --gone-2: #562912; --gone-ink: #ffc3a1; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1100px; padding: 28px 20px 64px; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 22px; line-height: 1.3; letter-spacing: -.01em; margin: 0 0 6px; }
h2 { font-size: 16px; margin: 0; }
p { margin: 4px 0; max-width: 78ch; }
a { color: var(--accent); }
.soft { color: var(--soft); }
header, section { background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  padding: 22px 26px; margin-bottom: 18px; }
.legend, .rows { display: flex; flex-wrap: wrap; gap: 8px 18px; margin: 14px 0 0; padding: 0; list-style: none;
  font-size: 14px; }
.rows { gap: 6px; }
.rows a { display: block; padding: 2px 11px; border: 1px solid var(--line); border-radius: 999px; text-decoration: none; }
.rows a:hover, .rows a:focus-visible { border-color: var(--accent); }
.counts { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 14px; margin: 4px 0 14px; color: var(--soft); }
.counts b { color: var(--ink); font-variant-numeric: tabular-nums; }
.bar { display: flex; height: 6px; border-radius: 3px; overflow: hidden; margin-bottom: 14px; background: var(--context); }
.bar i { display: block; }
.bar .learned { background: var(--edge); }
.bar .context { background: var(--context-2); } .bar .gone { background: var(--gone-ink); }
.text { margin: 0; white-space: pre-wrap; tab-size: 4;
  font: 14px/1.95 ui-monospace, "SF Mono", Menlo, Consolas, "Noto Sans Mono", monospace; }
.text span, .legend span { border-radius: 3px; padding: 2px 0; }
.learned { background: var(--learned); color: var(--learned-ink); box-shadow: inset 0 -2px 0 var(--edge); }
.learned.odd { background: var(--learned-2); }
.context { background: var(--context); color: var(--context-ink); } .context.odd { background: var(--context-2); }
.gone { background: var(--gone); color: var(--gone-ink); text-decoration: line-through; }
.gone.odd { background: var(--gone-2); }
.text span:hover { outline: 2px solid var(--accent); outline-offset: -1px; }
.control { font-weight: 700; }
.legend span { padding: 2px 8px; }
"""


@dataclass(frozen=True)
class Shown:
    """One sequence: its ids and what each token is."""

    title: str
    ids: Sequence[int]
    kinds: Sequence[Kind]


def render(
    shard: Path,
    tokenizer: "PreTrainedTokenizerFast",
    rows: Sequence[int],
    source: Path | None = None,
    setup: TokenizeSetup | None = None,
) -> str:
    """One HTML page, without scripts or anything from elsewhere, with every token of the rows.

    Args:
        shard: sequences, as `tokenize_shard` writes them.
        tokenizer: what gives the tokens their texts.
        rows: numbers of rows; each is shown with all its sequences.
        source: the shard of rows that the sequences were made from; with it and `setup`, what was cut off is shown too.
        setup: how the shard was tokenized.

    Raises:
        DatasetError: the shard has no such row.
    """
    found = _read(shard, rows)
    missing = [row for row in rows if not found[row]]
    whole = _uncut(source, setup, rows) if source and setup else {}
    nowhere = [row for row in missing if row not in whole]
    if nowhere:
        raise DatasetError(
            f"{shard} holds no sequence of row {', '.join(map(str, nowhere))}. Rows that are nowhere among the shards were "
            f"dropped: the quarantine says why."
        )
    sections = [_section(row, _shown(row, found[row], whole.get(row, [])), tokenizer) for row in dict.fromkeys(rows)]
    links = "".join(f'<li><a href="#row-{row}">row {row}</a></li>' for row in dict.fromkeys(rows))
    legend = "".join(
        f'<li><span class="{kind}">{said.partition(":")[0]}</span>{said.partition(":")[2]}</li>' for kind, said in _SAID.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">'
        f"<title>Tokens of {escape(shard.name)}</title><style>{_STYLE}</style></head><body>"
        f'<header><h1>What is learned, token by token</h1><p class="soft">{escape(shard.parent.name)}/{escape(shard.name)}. '
        "Point at a token to see its number and its text. ↵ is a line break, ⇥ a tab, ⋯ the rest of a character; "
        "bold tokens are control tokens.</p>"
        f'<ul class="legend">{legend}</ul><ul class="rows" aria-label="Rows">{links}</ul></header>'
        f"{''.join(sections)}</body></html>\n"
    )


def _read(shard: Path, rows: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    wanted = pa.array(rows, pa.int64())
    found: dict[int, list[dict[str, Any]]] = {row: [] for row in rows}
    for batch in pq.ParquetFile(vault.source(shard)).iter_batches(batch_size=2_000, columns=["row", "input_ids", "supervised"]):
        for record in batch.filter(pc.is_in(batch.column("row"), wanted)).to_pylist():
            found[record["row"]].append(record)
    return found


def _uncut(source: Path, setup: TokenizeSetup, rows: Sequence[int]) -> dict[int, list[tuple[int, int]]]:
    """Of each row all tokens and marks, as if there were no limit."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(vault.source(source), filters=[("row", "in", list(rows))]).combine_chunks()
    block, places, _ = encoder_for(setup).encode(pa.table(table))
    numbers = table.column("row").to_pylist()
    whole: dict[int, list[tuple[int, int]]] = {}
    for index, place in enumerate(places):
        stretch = slice(block.bounds[index], block.bounds[index + 1])
        pairs = zip(block.ids[stretch].tolist(), block.marks[stretch].tolist(), strict=True)
        whole.setdefault(numbers[place], list(pairs))
    return whole


def _shown(row: int, records: Sequence[Mapping[str, Any]], whole: Sequence[tuple[int, int]]) -> list[Shown]:
    """The sequences of a row; where it is one that was cut, with what is gone from its end."""
    if len(records) > 1 or not whole:
        return [_kept(row, number, len(records), record) for number, record in enumerate(records, 1)]
    kept = len(records[0]["input_ids"]) if records else 0
    ids = [token for token, _ in whole]
    kinds: list[Kind] = ["gone" if place >= kept else "learned" if mark else "context" for place, (_, mark) in enumerate(whole)]
    return [Shown(f"Row {row}" + ("" if records else ", dropped"), ids, kinds)]


def _kept(row: int, number: int, count: int, record: Mapping[str, Any]) -> Shown:
    title = f"Row {row}" + (f", sequence {number} of {count}" if count > 1 else "")
    return Shown(title, record["input_ids"], ["learned" if mark else "context" for mark in record["supervised"]])


def _section(row: int, sequences: Sequence[Shown], tokenizer: "PreTrainedTokenizerFast") -> str:
    control = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    parts = []
    for index, one in enumerate(sequences):
        counts = {kind: list(one.kinds).count(kind) for kind in _SAID}
        shares = "".join(f'<i class="{kind}" style="flex:{count}"></i>' for kind, count in counts.items() if count)
        numbers = "".join(f"<span><b>{count:,}</b> {_SAID[kind].partition(':')[0]}</span>" for kind, count in counts.items())
        texts = token_texts(tokenizer, one.ids[:_MOST])
        tokens = "".join(
            _token(token, text, kind, place, token in control)
            for place, (token, text, kind) in enumerate(zip(one.ids, texts, one.kinds, strict=False))
        )
        left = f'<p class="soft">{len(one.ids) - _MOST:,} more tokens are not shown.</p>' if len(one.ids) > _MOST else ""
        name = f' id="row-{row}"' if index == 0 else ""
        parts.append(
            f'<section{name}><h2>{escape(one.title)}</h2><div class="counts"><span><b>{len(one.ids):,}</b> tokens</span>'
            f'{numbers}</div><div class="bar" aria-hidden="true">{shares}</div><div class="text">{tokens}</div>{left}</section>'
        )
    return "".join(parts)


def _token(token: int, text: tuple[str, str], kind: Kind, place: int, is_control: bool) -> str:
    classes = kind + " odd" * (place % 2) + " control" * is_control
    shown = "".join(_SHOWN.get(character, character) for character in text[0])
    return f'<span class="{classes}" title="{token} {escape(text[1])}, {kind}">{escape(shown)}</span>'


def token_texts(tokenizer: "PreTrainedTokenizerFast", ids: Sequence[int]) -> list[tuple[str, str]]:
    """What each token says, once to be read and once to be exact.

    A character of several tokens is read at the first of them and is dots in the others; what is no character is its bytes.
    """
    names = [str(name) for name in tokenizer.convert_ids_to_tokens(list(ids))]
    letters, vocabulary = byte_letters(), tokenizer.get_vocab()
    if any(letter not in vocabulary for letter in letters):
        return [(name.replace("▁", " "), repr(name)) for name in names]
    added = tokenizer.added_tokens_decoder
    raw = [
        b"" if token in added or any(letter not in letters for letter in name) else bytes(letters[letter] for letter in name)
        for token, name in zip(ids, names, strict=True)
    ]
    found = []
    for place, (name, own) in enumerate(zip(names, raw, strict=True)):
        try:
            text = own.decode() if own else name
            found.append((text, repr(text)))
        except UnicodeDecodeError:
            found.append((_readable(own, raw[place + 1 : place + 4]), f"bytes {own.hex(' ').upper()}"))
    return found


def _readable(own: bytes, following: Sequence[bytes]) -> str:
    """The characters that begin in some bytes, with what completes the last of them; dots where none begins."""
    begun = own.lstrip(_CONTINUED)
    if not begun:
        return "⋯"
    whole = begun + b"".join(following)
    for end in range(len(begun), min(len(begun) + 4, len(whole) + 1)):
        try:
            return whole[:end].decode()
        except UnicodeDecodeError:
            continue
    return f"‹{own.hex(' ').upper()}›"
