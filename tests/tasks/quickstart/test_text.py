import json
from itertools import chain
from pathlib import Path
from random import Random

from tasks.quickstart import world
from tasks.quickstart.skills import clean_rows
from tasks.quickstart.text import write_corpus


def seeded() -> Random:
    return Random(0)


def test_the_corpus_has_as_many_texts_as_asked_and_the_same_bytes_again(tmp_path: Path) -> None:
    characters = write_corpus(tmp_path / "a.jsonl", 300, seed=5)
    write_corpus(tmp_path / "b.jsonl", 300, seed=5)
    write_corpus(tmp_path / "c.jsonl", 300, seed=6)
    texts = [json.loads(line)["text"] for line in (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(texts) == 300
    assert sum(map(len, texts)) == characters
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    assert (tmp_path / "a.jsonl").read_bytes() != (tmp_path / "c.jsonl").read_bytes()


def test_the_corpus_holds_no_chat_form(tmp_path: Path) -> None:
    write_corpus(tmp_path / "a.jsonl", 300, seed=0)
    assert not {"<|im_start|>", "assistant", "user"} & set((tmp_path / "a.jsonl").read_text(encoding="utf-8").split())


def test_the_world_is_unambiguous() -> None:
    words = list(chain.from_iterable(world.OPPOSITES))
    assert len(words) == len(set(words))
    named = [*world.NAMES, *world.TOWNS, *world.GOODS, *world.ANIMALS, *world.COLOURS]
    assert len(named) == len(set(named))
    assert not set(world.PLEASANT) & set(world.UNPLEASANT)
    assert set(world.COLOUR_OF.values()) <= set(world.COLOURS)


def test_people_share_nothing() -> None:
    one, other = world.people(seeded(), 2)
    assert not set(vars(one).values()) & set(vars(other).values())


def test_clean_rows_are_distinct_and_complete() -> None:
    rows = clean_rows(500, seeded())
    assert len({(row.instruction, row.input) for row in rows}) == 500
    assert all(row.instruction and row.output.endswith(".") for row in rows)


def test_sums_are_right() -> None:
    sums = [row.output.rstrip(".").split() for row in clean_rows(500, seeded()) if row.output.startswith("The sum")]
    assert sums
    assert all(int(words[3]) + int(words[5]) == int(words[7]) for words in sums)


def test_articles_and_lists() -> None:
    assert world.with_article("owl") == "an owl"
    assert world.with_article("toad") == "a toad"
    assert world.listing(["salt", "tea"]) == "salt and tea"
    assert world.listing(["salt", "tea", "rope"]) == "salt, tea and rope"
