"""Children of training rows: few enough, of their parent's split, of no other's text, and the same whoever makes them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from tasks.contracts import DatasetSplits, Ledger, ModelRef
from tasks.data import splitting
from tasks.data.augmenting import worker
from tasks.data.augmenting.augment import augment, wanted_rows
from tasks.data.augmenting.job import ParaphraseJob
from tasks.data.running import several
from tasks.data.shards import read_rows, read_shard, write_shard
from tasks.data.spec import AugmentationSpec, SplittingSpec

Any_ = Callable[..., Any]
NAMES = ("train", "validation", "test")
TOWNS = ("harbour", "market", "bridge", "castle", "garden", "station", "library", "theatre", "museum", "fountain")


def rows_about(count: int) -> list[dict[str, str]]:
    def question(n: int) -> str:
        return f"Please tell me, how far the old {TOWNS[n % 10]} is from the {TOWNS[n // 10 % 10]} number {n}."

    return [{"question": question(n), "answer": f"It is {n}."} for n in range(count)]


@pytest.fixture
def prepared(clean: Any_, write: Any_, folder: Any_) -> Any_:
    """Splits of some rows, and where they lie."""

    def run(rows: list[dict[str, Any]], weights: tuple[float, ...] = (1.0,), **fields: Any) -> tuple[DatasetSplits, Path]:
        value, place = clean(write(rows), cleaning={"near_duplicates": 0}, **fields)
        out: Path = folder("split")
        return splitting.split(value, SplittingSpec(test=0.2, validation=0.1), weights, place, out, "mem://split", 0), out

    return run


@pytest.fixture
def more(folder: Any_) -> Any_:
    def run(
        splits: DatasetSplits, place: Path, seed: int = 0, rewrite: Any = None, **fields: Any
    ) -> tuple[DatasetSplits, Path]:
        spec = AugmentationSpec(**({"minimum_rows": 10_000} | fields))
        out: Path = folder("more")
        options = {"rewrite": rewrite} if rewrite else {}
        return augment(splits, spec, {name: place / name for name in NAMES}, out, "mem://more", seed, **options), out

    return run


def children_in(out: Path) -> list[dict[str, Any]]:
    return [row for row in read_rows(out / "train") if row["parent"] is not None]


def by_row(place: Path, name: str = "train") -> Mapping[int, dict[str, Any]]:
    return {row["row"]: row for row in read_rows(place / name)}


def test_children_differ_from_their_parents_in_what_is_asked_alone(prepared: Any_, more: Any_) -> None:
    splits, place = prepared(rows_about(100))
    value, out = more(splits, place)
    parents, children = by_row(place), children_in(out)
    assert value.synthetic == len(children) == value.train.rows - splits.train.rows
    assert len(children) > 0.9 * splits.train.rows
    for child in children:
        parent = parents[child["parent"]]
        assert {name: child[name] for name in ("file", "line", "source", "group")} == {
            name: parent[name] for name in ("file", "line", "source", "group")
        }
        assert child["messages"][0]["content"] != parent["messages"][0]["content"]
        assert child["messages"][1:] == parent["messages"][1:]
        assert str(child["line"] - 1) in child["messages"][0]["content"]  # the number
    assert {child["operation"] for child in children} == set(AugmentationSpec().operations)
    assert (value.validation, value.test) == (splits.validation, splits.test)
    assert value.sha256 != splits.sha256
    rows = list(read_rows(out / "train"))
    numbers = [row["row"] for row in rows]
    assert numbers == sorted(set(numbers))
    assert [row for row in rows if row["parent"] is None] == [
        row | {"parent": None, "operation": None} for row in parents.values()
    ]
    assert [shard.name for shard in value.train.shards] == sorted(path.name for path in (out / "train").iterdir())
    assert sum(shard.rows for shard in value.train.shards) == len(rows)


def test_only_users_are_edited_and_code_is_not(prepared: Any_, more: Any_) -> None:
    turns = [
        {"role": "system", "content": "you answer every question about towns"},
        {"role": "user", "content": "tell me something about the harbour"},
        {"role": "assistant", "content": "there are many ships around here"},
        {"role": "user", "content": "for item in range(10):\n    print(item)"},
        {"role": "tool", "content": "some words from another program"},
        {"role": "user", "content": "and now something about the market"},
        {"role": "assistant", "content": "people buy bread there every day"},
    ]
    rows = [{"messages": [turn | {"content": f"{turn['content']} {n}"} for turn in turns]} for n in range(30)]
    _, out = more(*prepared(rows), per_row=3, share=0.7)
    edited = set()
    for child in children_in(out):
        for at, (turn, before) in enumerate(zip(child["messages"], turns, strict=True)):
            if turn["content"] != f"{before['content']} {child['line'] - 1}":
                edited.add(at)
    assert edited == {1, 5}


LIMITS = [
    (
        {"minimum_rows": 10},
        0,
        "no rows were made from others: there are 100 to train on, and data.augmentation.minimum_rows is 10",
    ),
    ({"minimum_rows": 130}, 30, "data.augmentation.minimum_rows is 130"),
    ({"minimum_rows": 1_000}, 100, "data.augmentation.share is 0.5"),
    ({"minimum_rows": 1_000, "share": 0.25}, 33, "data.augmentation.share is 0.25"),
    ({"minimum_rows": 1_000, "share": 0.9, "per_row": 3}, 300, "data.augmentation.per_row is 3"),
]


@pytest.mark.parametrize(("fields", "wanted", "why"), LIMITS)
def test_how_many_are_wanted(fields: dict[str, Any], wanted: int, why: str, prepared: Any_) -> None:
    splits, _ = prepared(rows_about(20))
    splits = splits.model_copy(update={"train": splits.train.model_copy(update={"rows": 100})})
    found, said = wanted_rows(splits, AugmentationSpec(**fields))
    assert (found, why in said) == (wanted, True)


@pytest.mark.parametrize("fields", [{"per_row": 1, "share": 0.9}, {"share": 0.1}, {"minimum_rows": 75}])
def test_no_more_than_wanted(fields: dict[str, Any], prepared: Any_, more: Any_) -> None:
    splits, place = prepared(rows_about(100))
    value, _ = more(splits, place, **fields)
    wanted = wanted_rows(splits, AugmentationSpec(**({"minimum_rows": 10_000} | fields)))[0]
    assert value.synthetic + sum(count.rows for count in value.not_taken) == wanted
    assert value.synthetic / value.train.rows <= fields.get("share", 0.5)
    assert value.reasons[-1].startswith(f"there were {splits.train.rows} rows to train on, so {wanted} more were to be made")


def test_enough_rows_stay_as_they_are(prepared: Any_, more: Any_) -> None:
    splits, place = prepared(rows_about(30))
    value, out = more(splits, place, minimum_rows=5)
    assert value == splits.model_copy(update={"reasons": value.reasons})
    assert list(out.iterdir()) == []


def test_plain_text_has_nothing_to_edit(prepared: Any_, more: Any_) -> None:
    splits, place = prepared([{"text": f"Some plain text about the {town} and {n}"} for n, town in enumerate(TOWNS * 3)])
    value, _ = more(splits, place)
    assert value.synthetic == 0
    assert value.reasons[-1].startswith("no rows were made from others: a plain text has no side that is asked")


def test_what_cannot_be_edited_or_repeats_another_is_counted(prepared: Any_, more: Any_) -> None:
    rows = [{"question": f"{n} + {n} = ?", "answer": f"{2 * n}"} for n in range(40)]
    splits, place = prepared(rows)
    value, _ = more(splits, place)
    assert value.synthetic == 0
    assert {count.reason: count.rows for count in value.not_taken} == {"nothing_to_edit": splits.train.rows}
    few = [{"question": f"cats {n}", "answer": f"{2 * n}"} for n in range(40)]
    splits, place = prepared(few)
    value, out = more(splits, place, per_row=10, share=0.9, operations=["letter_swap"])
    assert {child["messages"][0]["content"].split()[0] for child in children_in(out)} == {"ctas"}
    assert value.synthetic == splits.train.rows  # one each: all others would say the same
    wanted = wanted_rows(splits, AugmentationSpec(minimum_rows=10_000, per_row=10, share=0.9))[0]
    assert {count.reason: count.rows for count in value.not_taken} == {"exact_duplicate": wanted - splits.train.rows}


def test_a_child_that_says_what_a_held_out_row_says_is_not_taken(prepared: Any_, more: Any_) -> None:
    """Each row without a stop is what its neighbour with one becomes when the stop is dropped."""
    rows = [{"question": f"tell me about {n} please{stop}", "answer": f"{n} it is"} for n in range(60) for stop in ("", ".")]
    splits, place = prepared(rows)
    held = {row["messages"][0]["content"] for name in NAMES[1:] for row in read_rows(place / name)}
    value, out = more(splits, place, operations=["punctuation_drop"])
    assert not held & {child["messages"][0]["content"] for child in children_in(out)}
    assert "exact_duplicate" in {count.reason for count in value.not_taken}


def test_the_same_whatever_the_order_and_the_company(prepared: Any_, more: Any_) -> None:
    def said(rows: list[dict[str, str]]) -> dict[str, set[str]]:
        _, out = more(*prepared(rows), per_row=1, share=0.9)
        found: dict[str, set[str]] = {}
        for child in children_in(out):
            found.setdefault(child["messages"][1]["content"], set()).add(child["messages"][0]["content"])
        return found

    rows = rows_about(60)
    assert said(rows) == said(rows[::-1])
    some, all_of_them = said(rows[:40]), said(rows)
    assert {answer: texts for answer, texts in all_of_them.items() if answer in some} == some


def test_seed_and_operations_count(prepared: Any_, more: Any_) -> None:
    splits, place = prepared(rows_about(60))
    assert more(splits, place)[0] == more(splits, place)[0]
    assert more(splits, place)[0].train.sha256 != more(splits, place, seed=1)[0].train.sha256
    _, out = more(splits, place, operations=["whitespace"])
    assert {child["operation"] for child in children_in(out)} == {"whitespace"}


def test_repeated_rows_have_children_once(prepared: Any_, more: Any_) -> None:
    splits, place = prepared(rows_about(60), weights=(2.0,))
    value, out = more(splits, place, per_row=1, share=0.9)
    assert value.synthetic <= splits.train.rows // 2
    assert len({child["parent"] for child in children_in(out)}) == value.synthetic > 0


@pytest.mark.slow
def test_processes_change_nothing(prepared: Any_, folder: Any_) -> None:
    splits, place = prepared(rows_about(60))
    spec, files = AugmentationSpec(minimum_rows=10_000), {name: place / name for name in NAMES}
    one = augment(splits, spec, files, folder("one"), "mem://more", 0)
    with several(2) as run:
        assert augment(splits, spec, files, folder("two"), "mem://more", 0, run=run) == one


def test_the_ledger_balances(prepared: Any_, more: Any_) -> None:
    splits, place = prepared(rows_about(60))
    value, _ = more(splits, place)
    kept = value.train.rows + value.validation.rows + value.test.rows
    assert Ledger(rows_in=60, kept=kept, synthetic=value.synthetic).kept == 60 + value.synthetic


def test_options_that_ask_for_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="operations is empty and paraphrase names no model"):
        AugmentationSpec(minimum_rows=5, operations=[])
    with pytest.raises(ValidationError, match=r"paraphrase_low 0\.5 must be below paraphrase_high 0.5"):
        AugmentationSpec(paraphrase_low=0.5, paraphrase_high=0.5)
    assert AugmentationSpec().minimum_rows == 0  # off


def in_other_words(texts: Path, out: Path) -> None:
    """Stands for a model: of four texts one is said in other words, one loses its number, one stays, one has no end."""
    for path in sorted(texts.glob("*.parquet")):
        table = read_shard(path)
        said = []
        for number, text in enumerate(table.column("text").to_pylist()):
            other = text.replace("Please tell me, how far", "I would like to know how distant")
            said.append([other, "I would like to know how far that is.", text, other][number % 4])
        finished = pa.array([number % 4 != 3 for number in range(len(said))])
        write_shard(out / path.name, pa.table({"row": table.column("row"), "text": pa.array(said), "finished": finished}))


def test_paraphrases_are_taken_where_they_keep_what_they_must(prepared: Any_, more: Any_) -> None:
    splits, place = prepared(rows_about(90))
    value, out = more(splits, place, rewrite=in_other_words, paraphrase="some/model", operations=[], per_row=1)
    children = children_in(out)
    assert children
    assert all(child["messages"][0]["content"].startswith("I would like to know how distant") for child in children)
    assert {child["operation"] for child in children} == {"paraphrase"}
    counts = {count.reason: count.rows for count in value.not_taken}
    assert set(counts) == {"paraphrase_other_numbers", "paraphrase_too_alike", "paraphrase_without_end"}
    assert value.synthetic + sum(counts.values()) == splits.train.rows
    mixed, out = more(splits, place, rewrite=in_other_words, paraphrase="some/model", operations=["whitespace"])
    assert {child["operation"] for child in children_in(out)} == {"paraphrase", "whitespace"}
    assert mixed.synthetic > value.synthetic


@pytest.mark.parametrize("template", [True, False])
def test_a_tiny_model_says_something(
    template: bool, tiny_base: ModelRef, make_tokenizer: Any_, chatml: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The model knows nothing: what is tested is that every row gets its text, in place, however the batches fall."""
    import shutil

    model = tmp_path / "model"
    shutil.copytree(make_tokenizer(chatml if template else None), model)
    shutil.copytree(tiny_base.location, model, dirs_exist_ok=True)
    texts = ["tell me about the harbour", "what is it", "words " * 300, "and the market"]
    asked = pa.table({"row": [7, 8, 9, 11], "way": [0, 4, 2, 7], "text": texts})
    write_shard(tmp_path / "asked" / "part-00000-00000.parquet", asked)
    found = []
    for size in (1, 4):
        job = ParaphraseJob(
            model=model, trust_remote_code=False, texts=tmp_path / "asked", out=tmp_path / f"out{size}", device="cpu",
            threads=1, batch_size=size,
        )  # fmt: skip
        path = tmp_path / "job.json"
        path.write_text(job.model_dump_json())
        assert worker.main([str(path)]) == 0
        table = read_shard(job.out / "part-00000-00000.parquet")
        assert table.column("row").to_pylist() == [7, 8, 9, 11]
        found.append([(row["text"], row["finished"]) for row in table.to_pylist()])
    assert found[0] == found[1]
    assert found[0][2] == ("", False)  # longer than the model can hold
    assert template or all(text for text, _ in found[0][:2])  # with this template it says words that no tokenizer knows
    assert '"done": 4, "total": 4' in capsys.readouterr().out


def test_a_missing_model_is_an_error_with_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = ParaphraseJob(
        model=tmp_path / "no", trust_remote_code=False, texts=tmp_path, out=tmp_path, device="cpu", threads=1
    )  # fmt: skip
    path = tmp_path / "job.json"
    path.write_text(job.model_dump_json())
    assert worker.main([str(path)]) == 2
    assert "No tokenizer can be loaded from" in capsys.readouterr().err
