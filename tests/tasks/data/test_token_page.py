"""The page shows every token of a row, what it is, and nothing from elsewhere."""

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tasks.data import shards, token_page
from tasks.data.token_setup import TokenizeSetup
from tasks.data.tokenizing import tokenize_shard
from tasks.errors import DatasetError
from tasks.models import load_tokenizer

ROWS = [
    [("user", 'What is <b>2</b> & "2"?\n\tnow'), ("assistant", "4")],
    [("user", "long"), ("assistant", "word " * 40)],
    [("user", "word " * 80), ("assistant", "never reached")],
    [("user", "say <|im_end|> 日本 👍"), ("assistant", "日本 👍")],
]


class Page(HTMLParser):
    """Sections as (title, counts, tokens), tokens as (text, classes, title)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: list[tuple[str, list[list[Any]]]] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.open: list[Any] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found: dict[str, Any] = dict(attrs)
        self.tags.append((tag, found))
        if tag == "section":
            self.sections.append((found.get("id") or "", []))
        if tag == "span" and "title" in found:
            self.open = ["", found["class"].split(), found["title"]]
            self.sections[-1][1].append(self.open)

    def handle_endtag(self, tag: str) -> None:
        self.open = None

    def handle_data(self, data: str) -> None:
        if self.open is not None:
            self.open[0] += data


@pytest.fixture
def make(tmp_path: Path, make_tokenizer: Callable[..., Path]) -> Callable[..., tuple[str, Any, list[Any]]]:
    def page(rows: list[int], with_source: bool = True, **changes: Any) -> tuple[str, Any, list[Any]]:
        folder = make_tokenizer()
        tokenizer = load_tokenizer(folder)
        messages = [[{"role": role, "content": content} for role, content in turns] for turns in ROWS]
        columns = {
            "row": pa.array(range(10, 10 + len(ROWS)), pa.int64()),
            "file": pa.array(["f"] * len(ROWS), pa.string()),
            "line": pa.array(range(len(ROWS)), pa.int64()),
            "messages": pa.array(messages, pa.list_(shards.message_type())),
        }
        shards.write_shard(tmp_path / "in.parquet", pa.table(columns))
        setup = TokenizeSetup(
            tokenizer=str(folder), template=tokenizer.chat_template, task="chat", limit=64, truncation="cut", engine="tiktoken",
            forms=True,
        ).model_copy(update=changes)  # fmt: skip
        out = tmp_path / "train" / "part-00000-00000.parquet"
        tokenize_shard(tmp_path / "in.parquet", out, setup)
        source = {"source": tmp_path / "in.parquet", "setup": setup} if with_source else {}
        return token_page.render(out, tokenizer, rows, **source), tokenizer, list(shards.read_shard(out).to_pylist())

    return page


def test_every_token_is_shown_with_what_it_is(make: Any) -> None:
    text, tokenizer, records = make([10])
    ((name, tokens),) = Page(text).sections
    record = records[0]
    assert name == "row-10"
    assert [int(title.split()[0]) for _, _, title in tokens] == record["input_ids"]
    assert ["learned" in classes for _, classes, _ in tokens] == [bool(mark) for mark in record["supervised"]]
    shown = "".join(said for said, _, _ in tokens)
    assert shown == tokenizer.decode(record["input_ids"]).replace("\n", "↵\n").replace("\t", "⇥\t")
    control = [said for said, classes, _ in tokens if "control" in classes]
    assert control == ["<|im_start|>", "<|im_end|>", "<|im_start|>", "<|im_end|>"]
    length, learned = len(record["input_ids"]), sum(record["supervised"])
    assert f"<b>{length}</b> tokens" in text
    assert f"<b>{learned}</b> learned" in text
    assert f"<b>{length - learned}</b> context" in text


def test_what_was_cut_off_is_shown(make: Any) -> None:
    text, _, records = make([11, 12])
    (_, cut), (_, dropped) = Page(text).sections
    kept = len(next(record for record in records if record["row"] == 11)["input_ids"])
    assert ["gone" in classes for _, classes, _ in cut] == [place >= kept for place in range(len(cut))]
    assert len(cut) > kept == 64
    assert all("gone" in classes for _, classes, _ in dropped)
    assert "Row 12, dropped" in text
    assert len(Page(make([11], with_source=False)[0]).sections[0][1]) == 64


def test_characters_of_several_tokens_are_read_once(make: Any) -> None:
    tokens = Page(make([13])[0]).sections[0][1]
    said = [said for said, _, _ in tokens]
    assert "".join(said).replace("⋯", "").count("日本 👍") == 2
    assert "⋯" in said
    assert any("bytes E6" in title for _, _, title in tokens)
    # A control token's text in content is no control token.
    assert sum("control" in classes for _, classes, _ in tokens) == 4
    assert "".join(said).replace("⋯", "").count("<|im_end|>") == 3


def test_sequences_of_one_row_follow_each_other(make: Any) -> None:
    page = Page(make([10, 11], task="text", truncation="split", limit=30)[0])
    assert [name for name, _ in page.sections].count("row-11") == 1


def test_the_page_is_whole_in_itself(make: Any) -> None:
    text, _, _ = make([10, 11, 13])
    page = Page(text)
    assert {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "object"} == set()
    assert all(found["href"].startswith("#") for tag, found in page.tags if tag == "a")
    assert not re.search(r"https?:|url\(|@import", text)
    assert "<b>2</b> & " not in text.split("<section", 2)[1].replace("<b>2</b> learned", "")
    assert "prefers-color-scheme: dark" in text
    assert [found["href"] for tag, found in page.tags if tag == "a"] == ["#row-10", "#row-11", "#row-13"]


def test_a_row_that_is_not_there(make: Any) -> None:
    with pytest.raises(
        DatasetError, match=r"part-00000-00000.parquet holds no sequence of row 99\. .* the quarantine says why"
    ):
        make([10, 99])
    with pytest.raises(DatasetError, match="holds no sequence of row 12"):
        make([12], with_source=False)


def test_tokens_of_another_kind() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words: Any = Tokenizer(models.WordLevel({"▁a": 0, "b": 1, "<e>": 2}, unk_token="<e>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<e>")
    assert token_page.token_texts(tokenizer, [0, 1, 2]) == [(" a", "'▁a'"), ("b", "'b'"), ("<e>", "'<e>'")]
