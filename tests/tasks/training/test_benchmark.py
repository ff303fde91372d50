"""The benchmark of training runs, and its table is of what it measured."""

from benchmarks.training import WAYS, limit, measure, new_model, rows, table


def test_a_way_is_measured_beside_its_limit() -> None:
    report = measure("bare", steps=1)
    assert 0 < report["speed"] < 1.5 * report["limit"]
    assert report["mib"] > 0
    assert limit(new_model()) > 0
    assert rows(50) == rows(50)
    assert 31 <= min(map(len, rows(50))) <= max(map(len, rows(50))) <= 241


def test_the_table_has_a_line_for_each_way_that_was_measured() -> None:
    padded, ours = list(WAYS)[3], list(WAYS)[1]
    found = {
        ours: {"speed": 2000.0, "limit": 2500.0, "mib": 812.4}, padded: {"speed": 1000.0, "limit": 2500.0, "mib": 900.0},
        "TRL, padded": {},
    }  # fmt: skip
    lines = list(table(found))
    assert len(lines) == 4
    assert lines[2] == f"| {ours} | 2,000 | 80% | 2.00 | 812 |"
    assert lines[3] == f"| {padded} | 1,000 | 40% | 1.00 | 900 |"
