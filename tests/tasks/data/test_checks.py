"""Findings are counted, named with their rows, and stop the run only where nothing mends them."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from tasks.contracts import Check, ValidationReport
from tasks.data import checks, loading
from tasks.data.expectations import Rule, count_unexpected
from tasks.data.spec import CleaningSpec, DataSpec, ValidationSpec
from tasks.errors import DatasetError, StageError

Any_ = Callable[..., Any]


@pytest.fixture
def validate(load: Any_, write: Any_, folder: Any_) -> Any_:
    def run(rows: list[Any], **fields: Any) -> ValidationReport:
        spec = DataSpec.model_validate({"source": write(rows), **fields})
        raw, place = load(spec.source, **fields)
        return checks.validate(raw, spec.validation, spec.cleaning, place, folder("checked"))

    return run


def numbered(count: int) -> list[dict[str, str]]:
    return [{"question": f"question {n}", "answer": f"answer {n}"} for n in range(count)]


def named(report: ValidationReport) -> dict[str, Check]:
    return {check.name: check for check in report.checks}


DIRTY = [
    *numbered(12),
    {"question": "question 1", "answer": "answer 1"},
    {"question": "schÃ¶n", "answer": "a"},
    {"question": "lost \ufffd", "answer": "b"},
    {"question": "con\x00trol", "answer": "c"},
    {"question": "space ", "answer": "d"},
    {"question": "echo", "answer": "Echo"},
    {"question": "none", "answer": ""},
    {"question": "", "answer": "none"},
]
REPAIRS = ("empty_answer", "empty_prompt", "repair_encoding", "strip_control", "strip_whitespace", "exact_duplicates")


def test_clean_rows_have_quality_one(validate: Any_) -> None:
    report = validate(numbered(12))
    assert (report.quality, report.repairs, report.passed) == (1.0, (), True)
    assert all(check.passed for check in report.checks)
    checks.raise_if_failed(report)


def test_every_finding_is_counted_once(validate: Any_) -> None:
    report = validate(DIRTY)
    found = {name: check.rows for name, check in named(report).items() if not check.passed}
    assert found == {
        "answer_present": 1, "prompt_present": 1, "encoding_right": 1, "encoding_whole": 1, "no_control_characters": 1,
        "trimmed": 1, "answer_is_not_prompt": 1, "no_exact_duplicates": 1,
    }  # fmt: skip
    assert report.repairs == REPAIRS
    assert report.passed
    assert named(report)["no_exact_duplicates"].examples[0].endswith("data.jsonl line 13")
    assert named(report)["answer_present"].examples[0].endswith("data.jsonl line 19")
    assert named(report)["enough_rows"].found == "17 usable rows of 20"


def test_quality_is_the_weighted_mean_of_its_components(validate: Any_) -> None:
    report = validate(DIRTY)
    # Of 20 rows: 1 without answer, 1 repeated, 2 with bad encoding, none with bad roles, 1 without prompt, 1 echo.
    shares = {part.name: (part.share, part.weight) for part in report.components}
    assert shares == {
        "answered": (0.95, 3), "unique": (0.95, 2), "encoding": (0.9, 1), "roles": (1.0, 1), "prompted": (0.95, 1),
        "not_echoed": (0.95, 1),
    }  # fmt: skip
    assert report.quality == pytest.approx((3 * 0.95 + 2 * 0.95 + 0.9 + 1 + 0.95 + 0.95) / 9)


@pytest.mark.parametrize(
    ("option", "value", "check"),
    [
        ("repair_encoding", False, "encoding_right"),
        ("strip_control", False, "no_control_characters"),
        ("strip_whitespace", False, "trimmed"),
        ("exact_duplicates", False, "no_exact_duplicates"),
    ],
)
def test_a_repair_that_is_off_mends_nothing(validate: Any_, option: str, value: object, check: str) -> None:
    report = validate(DIRTY, cleaning=CleaningSpec.model_validate({option: value}))
    assert option not in report.repairs
    assert named(report)[check].severity == "info"
    assert named(report)[check].found.endswith(f"(data.cleaning.{option} is off)")


def test_what_would_mend_is_named_as_the_option_that_it_is(validate: Any_) -> None:
    rows = [*numbered(12), {"question": "<b>Who?</b> <br> <p>Tell me.</p>", "answer": "Write to ann@example.org."}]
    found = {check.name: check.found for check in validate(rows).checks}
    assert found["no_email"].endswith("(data.cleaning.personal_data is not redact)")
    assert found["no_html"].endswith("(data.cleaning.html is not strip)")


def test_written_line_breaks_are_mended_only_where_a_file_is_full_of_them(validate: Any_) -> None:
    def found(share: int) -> Check:
        rows = [
            row | {"answer": row["answer"] + ("\\nand so on" if n % share == 0 else "")} for n, row in enumerate(numbered(200))
        ]
        return named(validate(rows))["no_written_line_breaks"]

    assert (found(1).severity, found(1).rows) == ("fixable", 200)
    assert (found(100).severity, found(100).rows) == ("info", 2)
    assert found(100).found == "2 of 200 rows otherwise (few in each file, so taken as meant)"


def test_exact_duplicates_count_as_unusable_only_where_they_go(validate: Any_) -> None:
    rows = [*numbered(5), *numbered(5)]
    assert named(validate(rows))["enough_rows"].found == "5 usable rows of 10"
    report = validate(rows, cleaning=CleaningSpec(exact_duplicates=False))
    assert named(report)["enough_rows"].found == "10 usable rows of 10"


FATAL = {
    "rows": ({"minimum_rows": 13}, "enough_rows: 12 usable rows of 14; expected at least 13"),
    "missing": ({"maximum_missing": 0.1}, r"missing_share: 14.3% of the rows have no answer; expected at most 10%.*line 13"),
    "quality": ({"minimum_quality": 0.99}, "quality: quality 0.9[0-9]+; expected at least 0.99"),
}


@pytest.mark.parametrize("name", FATAL)
def test_fatal_limits(name: str, validate: Any_) -> None:
    limits, message = FATAL[name]
    rows = [*numbered(12), {"question": "x", "answer": ""}, {"question": "y"}]
    checks.raise_if_failed(validate(rows))
    report = validate(rows, validation=ValidationSpec.model_validate(limits))
    assert not report.passed
    with pytest.raises(DatasetError, match=message):
        checks.raise_if_failed(report)


def test_all_fatal_findings_come_at_once(validate: Any_, load: Any_, write: Any_, folder: Any_) -> None:
    raw, place = load(write(numbered(3)))
    bare = {"question": "x", "answer": ""}
    with pytest.raises(DatasetError, match="rows whose answer is empty in every case"):
        load(write([bare] * 3))
    limits = ValidationSpec(minimum_rows=5, minimum_quality=1.0)
    report = checks.validate(raw, limits, CleaningSpec(), place, folder("checked"))
    assert [check.name for check in report.checks if not check.passed] == ["enough_rows"]
    report = validate([*numbered(2), bare, bare, bare], validation=limits)
    with pytest.raises(DatasetError) as error:
        checks.raise_if_failed(report)
    assert [line.split(":")[0] for line in str(error.value).splitlines()[1:]] == [
        "- enough_rows",
        "- missing_share",
        "- quality",
    ]


def test_roles_and_missing_turns(validate: Any_) -> None:
    good = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    rows = [good, {"messages": good["messages"][:1]}, {"messages": [{"role": "narrator", "content": "x"}, *good["messages"]]}]
    report = validate(rows)
    assert named(report)["has_answer_turn"].rows == named(report)["roles_known"].rows == 1
    assert report.repairs == ("unknown_role", "no_assistant_turn")


def test_text_has_no_prompt_checks(validate: Any_) -> None:
    report = validate([{"text": f"text {n}"} for n in range(12)])
    assert "prompt_present" not in named(report)
    assert report.quality == 1.0


def test_label_balance(validate: Any_) -> None:
    rows = [{"text": f"text {n}", "label": "rare" if n == 0 else "usual"} for n in range(20)]
    check = named(validate(rows))["label_balance"]
    assert (check.passed, check.severity) == (False, "info")
    assert check.found == "2 labels, the largest 19.0 times as often as the rarest"


def test_shards_add_up(validate: Any_, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = validate(DIRTY)
    monkeypatch.setattr(loading, "SHARD_ROWS", 7)
    parts = validate(DIRTY)
    assert parts.dataset_sha256 != whole.dataset_sha256  # other shards
    assert parts.model_copy(update={"dataset_sha256": whole.dataset_sha256}) == whole


def test_a_rule_that_cannot_be_computed_is_no_finding() -> None:
    frame = pd.DataFrame({"a": [1]})
    rule = Rule("bad", "missing", "column_values_to_be_in_set", {"value_set": [1]})
    with pytest.raises(StageError, match="The check bad could not be computed"):
        count_unexpected(frame, [rule])


def test_nothing_is_printed(validate: Any_, capfd: pytest.CaptureFixture[str]) -> None:
    validate(DIRTY)
    assert capfd.readouterr() == ("", "")
