import re
import xml.etree.ElementTree as ET
from typing import Any

import matplotlib
import pytest

from tasks.contracts import Count, FinetuneResult, Ledger
from tasks.reporting import evidence, figures

NAMES = ("ledger", "loss", "scores", "differences", "tokens", "steps")


def draw(name: str, result: FinetuneResult, history: list[dict[str, float]]) -> str:
    data, report = result.data, result.evaluation
    return {
        "ledger": lambda: figures.row_ledger(data.ledger, data.splits),
        "loss": lambda: figures.loss_curve(history, result.model.best_step),
        "scores": lambda: evidence.scores(report),
        "differences": lambda: evidence.differences(report),
        "tokens": lambda: figures.token_use(data.tokenized),
        "steps": lambda: figures.step_seconds(result.steps),
    }[name]()


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_a_labelled_themed_svg(name: str, released: FinetuneResult, history: list[dict[str, float]]) -> None:
    svg = draw(name, released, history)
    root = ET.fromstring(svg)  # noqa: S314
    assert root.get("role") == "img"
    assert len(root.get("aria-label", "")) > 40
    assert "var(--fig-blue, #0072b2)" in svg
    assert "#000000" not in svg
    assert all(i.startswith(f"{name}-") for i in re.findall(r'id="([^"]*)"', svg))
    assert "http" not in svg


@pytest.mark.parametrize("name", NAMES)
def test_a_figure_is_the_same_twice_and_leaves_no_setting_behind(
    name: str, released: FinetuneResult, history: list[dict[str, float]]
) -> None:
    before: dict[str, Any] = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        first = draw(name, released, history)
    assert draw(name, released, history) == first
    assert dict(matplotlib.rcParams) == before


def test_findings_are_in_words(released: FinetuneResult, history: list[dict[str, float]]) -> None:
    ledger, splits = released.data.ledger, released.data.splits
    assert figures.ledger_finding(ledger, splits) == (
        "Of 3,000 rows in, 2,740 were kept and 260 dropped (Exact duplicate 118, Near duplicate 64, No answer 69, Empty 9); "
        "train has 2,329, validation 137, test 274."
    )
    assert "the weights of step 261 were kept (0.8713)" in figures.loss_finding(history, 261)
    assert "Loss against the base: better (gain +2.3178" in evidence.differences_finding(released.evaluation)
    assert figures.tokens_finding(released.data.tokenized) == (
        "Of 174,342 tokens, 37,497 (21.5%) are learned and the rest is context; 444 tokens of 12 rows were cut off."
    )
    assert figures.steps_finding(released.steps) == (
        "9 steps took 2 min 23 s, 4 of them from the cache; the longest was train with 1 min 25 s."
    )


def test_what_is_empty_draws_nothing(hostile: FinetuneResult) -> None:
    assert figures.row_ledger(Ledger(rows_in=0, kept=0), hostile.data.splits) == ""
    assert figures.loss_curve([], 0) == ""
    assert figures.token_use(hostile.data.tokenized) == ""
    assert figures.step_seconds([]) == ""


def test_many_reasons_are_folded_into_one(released: FinetuneResult) -> None:
    dropped = tuple(Count(reason=f"reason_{at}", rows=at) for at in range(1, 13))
    svg = figures.row_ledger(Ledger(rows_in=100, kept=22, dropped=dropped), released.data.splits)
    assert "5 other reasons" in svg
    assert "Reason 12" in svg
    assert "Reason 5<" not in svg


def test_a_loss_without_validation_draws(history: list[dict[str, float]]) -> None:
    trained = [point for point in history if "loss" in point]
    assert "validation loss" not in figures.loss_curve(trained, 292)


def test_a_standalone_figure_is_a_whole_file(released: FinetuneResult) -> None:
    svg = evidence.scores(released.evaluation, standalone=True)
    assert svg.startswith('<svg width="720"')
    assert ET.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314
