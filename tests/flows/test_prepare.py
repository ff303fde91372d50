"""`tuneflow prepare`: dirty data become tokens and two pages, a second time from the cache; bad data say all that is wrong."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import ModelRef, PreparedData, RunContext, digest_of
from tasks.steps import tracker_of
from tests.flows.conftest import Ended, tuneflow, write_request
from tests.tasks.reporting.test_report import Page
from tests.tasks.test_models import byte_tokenizer

pytestmark = pytest.mark.slow

THINGS = ("bread", "river", "lamp", "violin", "engine", "letter", "copper", "window", "compass", "mirror", "cactus", "blanket")
PLACES = ("harbour", "orchard", "garden", "kitchen", "museum", "station", "library", "bridge", "castle", "meadow", "tower")


def dirty() -> list[dict[str, str]]:
    """132 rows: two repeat another, two have nothing to learn, two are repaired, two are longer than 256 tokens."""
    rows = [
        {
            "question": f"Where is the {thing} of the {place}?",
            "answer": f"The {thing} lies behind the {place}, {len(thing)} steps.",
        }
        for thing in THINGS
        for place in PLACES
    ]
    rows[3] = rows[7] = rows[1]
    rows[10] = rows[10] | {"answer": ""}
    rows[11] = rows[11] | {"question": "  "}
    rows[20] = rows[20] | {"answer": "Itâ€™s behind the old station, donâ€™t look at number 20."}
    rows[21] = rows[21] | {"answer": "A bell \x07 rings <script>alert(1)</script> in row 21."}
    rows[30] = rows[30] | {"answer": " ".join(THINGS * 8)}
    rows[31] = rows[31] | {"answer": " ".join(PLACES * 8)}
    return rows


@dataclass(frozen=True)
class Place:
    """A folder with a workspace that holds models/tiny."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / ".tuneflow" / "runs" / "dirty"

    def prepare(self, name: str, rows: list[dict[str, str]], *arguments: str, **data: Any) -> Ended:
        source = self.folder / f"{name}.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        data = {"source": source.name, "cleaning": {"near_duplicates": 0}, **data}
        request = write_request(self.folder, name=name, base_model={"uri": "models/tiny"}, data=data)
        return tuneflow("prepare", request, *arguments, folder=self.folder)


@pytest.fixture(scope="module")
def place(tiny_base: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("prepare")
    model = shutil.copytree(tiny_base.location, folder / ".tuneflow" / "models" / "tiny")
    byte_tokenizer(eos_token="<end>").save_pretrained(model)
    return Place(folder)


@pytest.fixture(scope="module")
def first(place: Place) -> Ended:
    ended = place.prepare("dirty", dirty(), "--json")
    assert ended.code == 0, ended.err
    return ended


@pytest.fixture(scope="module")
def data(first: Ended) -> PreparedData:
    """What the first command's stdout says."""
    assert len(first.out.splitlines()) == 1
    return PreparedData.model_validate_json(first.out)


def test_every_row_is_accounted_for(data: PreparedData) -> None:
    ledger = data.ledger
    assert (ledger.rows_in, ledger.kept) == (132, 128)
    assert {count.reason: count.rows for count in ledger.dropped} == {
        "exact_duplicate": 2,
        "empty_answer": 1,
        "empty_prompt": 1,
    }
    repaired = {count.reason: count.rows for count in ledger.repaired}
    assert (repaired["repair_encoding"], repaired["strip_control"]) == (1, 1)
    splits = data.splits
    assert splits.train.rows + splits.validation.rows + splits.test.rows == 128
    tokens = (data.tokenized.train, data.tokenized.validation, data.tokenized.test)
    assert sum(part.truncated_rows for part in tokens) == 2
    assert all(part.longest <= 256 for part in tokens)


def test_the_page_says_what_the_value_says(place: Place, data: PreparedData) -> None:
    html = (place.run / "data.html").read_text(encoding="utf-8")
    text = " ".join(Page(html).text.split())
    splits, learned = data.splits, data.tokenized.train.supervised_tokens
    assert (
        f"132 rows in, 128 kept, 4 dropped; {splits.train.rows} to train, {splits.validation.rows} to validate, "
        f"{splits.test.rows} to test; {learned:,} tokens to learn."
    ) in text
    for fact in (
        "− dropped: Exact duplicate 2", "of these repaired: Repair encoding 1", "dirty.jsonl line 11",
        "dirty.jsonl json_lines 132", data.raw.mapping_reason, data.clean.quarantine_uri, "= 0.9",
    ):  # fmt: skip
        assert fact in text, fact
    for check in data.validation.checks:
        assert " ".join(check.found.split()) in text
    assert "http://" not in html and "https://" not in html and "<script" not in html


def test_each_dropped_row_is_shown_with_its_line(place: Place) -> None:
    text = " ".join(Page((place.run / "data.html").read_text(encoding="utf-8")).text.split())
    shown = re.findall(r"(Exact duplicate|Empty answer|Empty prompt) dirty\.jsonl line (\d+)", text)
    assert shown == [("Exact duplicate", "4"), ("Exact duplicate", "8"), ("Empty answer", "11"), ("Empty prompt", "12")]


def test_training_rows_are_shown_token_by_token_the_cut_ones_first(place: Place, data: PreparedData) -> None:
    html = (place.run / "tokens.html").read_text(encoding="utf-8")
    rows = [int(row) for row in re.findall(r'<section id="row-(\d+)">', html)]
    assert len(rows) == 20
    cut = data.tokenized.train.truncated_rows
    assert cut and set(rows[:cut]) <= {30, 31}
    assert html.count('class="gone') >= data.tokenized.train.truncated_tokens
    assert rows[cut:] == sorted(rows[cut:])
    assert "<script" not in html
    assert 'href="tokens.html"' in (place.run / "data.html").read_text(encoding="utf-8")


def test_the_manifest_is_the_data_s_version(place: Place, data: PreparedData) -> None:
    manifest = json.loads((place.run / "dataset.json").read_text(encoding="utf-8"))
    assert manifest == data.manifest.model_dump(mode="json")
    assert digest_of({name: value for name, value in manifest.items() if name != "sha256"}) == manifest["sha256"]
    assert str(place.folder) not in json.dumps(manifest)
    assert manifest["config"]["truncation"] == "cut"


def test_mlflow_keeps_both_pages_and_the_manifest(place: Place, data: PreparedData) -> None:
    tracker = tracker_of(RunContext(name="dirty", workspace=str(place.folder / ".tuneflow")))
    experiment = tracker.client.get_experiment_by_name("dirty")
    assert experiment is not None
    runs = tracker.client.search_runs([experiment.experiment_id], "tags.tuneflow.request_sha256 != ''")
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert {run.info.status for run in parents} == {"FINISHED"}
    assert {file.path for file in tracker.client.list_artifacts(parents[-1].info.run_id)} == {
        "data.html", "tokens.html", "dataset.json",
    }  # fmt: skip
    (used,) = parents[-1].inputs.dataset_inputs
    assert used.dataset.digest == data.manifest.sha256[:36]


def test_a_second_time_all_is_cached_and_the_table_says_so(place: Place, data: PreparedData) -> None:
    ended = place.prepare("dirty", dirty())
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert lines[-1] == "all 5 steps came from the cache"
    for line in (
        "rows in             132", "rows kept           128", "rows dropped        4", "  exact duplicate   2",
        "  repair encoding   1", "rows cut short      2, ", f"quality             {data.validation.quality:.3f} of 1",
        f"page                {place.run / 'data.html'}",
    ):  # fmt: skip
        assert any(found.startswith(line) for found in lines), line
    failed = [check for check in data.validation.checks if not check.passed]
    assert sum(found.startswith(("  fixable", "  note")) for found in lines) == len(failed) >= 4
    assert ended.err.count(": cached (") == 5


def test_bad_data_end_with_2_and_every_fatal_finding(place: Place) -> None:
    rows = [{"question": f"Where is {thing}?", "answer": "" if number > 2 else "here"} for number, thing in enumerate(THINGS)]
    ended = place.prepare("bad", rows, "--json", validation={"minimum_quality": 0.99})
    assert (ended.code, ended.out) == (2, "")
    told = ended.err[ended.err.index("Error: ") :].splitlines()
    assert told[0] == "Error: The data cannot be trained on:"
    assert [line.split()[1] for line in told[1:4]] == ["enough_rows:", "missing_share:", "quality:"]
    assert "bad.jsonl line 4" in told[2]
    assert not (place.run.parent / "bad" / "data.html").exists()
