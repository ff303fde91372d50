"""HTML goes from prose and nowhere else."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data.markup import holds_html, strip_html

Real = Callable[[str], str]

STRIPPED = {
    "paragraphs": ("<p>One &amp; two.</p>\n<p>Three&nbsp;four.</p>", "One & two.\n\nThree four."),
    "lines": ("One<br>two<br/>three<BR />four", "One\ntwo\nthree\nfour"),
    "inline": ('See <a href="https://x.org/?a=1&amp;b=2">the <b>page</b></a>!', "See the page!"),
    "items": ("Buy:<ul><li>milk</li><li>eggs</li></ul>Done", "Buy:\n\n- milk\n- eggs\n\nDone"),
    "cells": ("<table><tr><td>a</td><td>b</td></tr></table>", "a\tb"),
    "powers": ("E = mc<sup>2</sup>, H<sub>2</sub>O", "E = mc^2, H_2O"),
    "code becomes backticks": ("Use <code>ls</code> there.", "Use `ls` there."),
    "comments": ("a<!-- hidden <b> -->b", "ab"),
    "entities": ("Grace&apos;s caf&eacute; &#8211; &#x263A; R&amp;amp;B", "Grace's café – ☺ R&B"),
    "outside fences alone": ("<b>Run</b>\n```\n<b>x</b> &amp;\n```", "Run\n```\n<b>x</b> &amp;\n```"),
    "outside backticks alone": ("<i>The</i> `<i>&lt;` one", "The `<i>&lt;` one"),
}
STAYS = {
    "page": "<html><body><p>Hello</p></body></html>",
    "form": '<p>Name</p><input type="text">',
    "source layout": "<div>\n    <p>Hello</p>\n</div>",
    "script": "<p>a</p><script>let a = 1</script>",
    "program": "for (int i = 0; i < n; i++) {\n  s += '<br>';\n}",
    "template": "<p>Hello {{ name }}</p>",
    "placeholder": "Dear <your name>, replace <MASK> in <sep> and <Song>",
    "generics": "A List<String> of vector<int> and #include <stdio.h>",
    "comparison": "if a<b and b>c then i<p or p>q",
    "speaks of tags": "The <b> tag makes text bold: <b>so</b>",
    "asks in Chinese": "最基本的标签是 <p>段落</p>",
    "lone inline tag": "the index <i> of the list",
    "spells a tag": "write &lt;b&gt;so&lt;/b&gt;",
    "no entity": "AT&T; a &foo; b &copy c=1&amp",
    "link parameters": "https://x.org/?a=1&copy=2&lt=3",
}


@pytest.mark.parametrize("name", STRIPPED)
def test_prose_loses_its_html(name: str) -> None:
    text, expected = STRIPPED[name]
    mended, changed = strip_html(pl.Series([text, "plain"]))
    assert (mended.to_list(), changed.to_list()) == ([expected, "plain"], [True, False])
    assert not strip_html(mended)[1].any()


@pytest.mark.parametrize("name", STAYS)
def test_html_that_is_meant_stays(name: str) -> None:
    mended, changed = strip_html(pl.Series([STAYS[name]]))
    assert (mended.to_list(), changed.to_list()) == ([STAYS[name]], [False])


def test_a_row_that_asks_for_html_keeps_it() -> None:
    texts = pl.Series(["Make this bold in HTML: hello", "<b>hello</b>", "Who?", "<b>Ann</b>"])
    alone, _ = strip_html(texts)
    together, changed = strip_html(texts, rows=pl.Series([0, 0, 1, 1]))
    assert alone.to_list() == ["Make this bold in HTML: hello", "hello", "Who?", "Ann"]
    assert together.to_list() == ["Make this bold in HTML: hello", "<b>hello</b>", "Who?", "Ann"]
    assert changed.to_list() == [False, False, False, True]
    assert holds_html(texts, pl.Series([0, 0, 1, 1])).to_list() == changed.to_list()


PIECES = [
    "<p>",
    "</p>",
    "<br>",
    "<b>",
    "</b>",
    "<li>",
    "&amp;",
    "amp;",
    "&lt;",
    "b&gt;",
    "&nbsp;",
    "`",
    "```",
    "\n",
    " ",
    "a",
    "<!--",
    "-->",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=10).map("".join))
def test_stripped_twice_is_stripped_once(text: str) -> None:
    once, _ = strip_html(pl.Series([text]))
    assert strip_html(once)[0].equals(once)


def gpteacher(path: str) -> tuple[pl.Series, pl.Series]:
    content = json.loads(Path(path).read_text())
    turns = [(row, text) for row, one in enumerate(content) for text in (one["instruction"], one["input"], one["response"])]
    return pl.Series([text for _, text in turns]), pl.Series([row for row, _ in turns])


@pytest.mark.parametrize("name", ["gpteacher/codegen.json", "gpteacher/toolformer.json"])
def test_code_in_real_rows_stays(name: str, real: Real) -> None:
    texts, rows = gpteacher(real(name))
    mended, changed = strip_html(texts, rows)
    assert changed.sum() == 0
    assert mended.equals(texts)


def test_real_web_text_loses_its_entities(real: Real) -> None:
    lines = Path(real("chat_formats/c4_demo.jsonl")).read_text().splitlines()
    texts = pl.Series([json.loads(line)["text"] for line in lines])
    mended, changed = strip_html(texts)
    assert changed.sum() == 3
    assert mended.to_list() == [text.replace("&apos;", "'") for text in texts]
