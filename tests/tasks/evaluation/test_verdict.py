import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.contracts import EvaluationReport, TrainedModel
from tasks.evaluation.advice import advise
from tasks.evaluation.benchmarks.held_out import HeldOut
from tasks.evaluation.examples import pick_examples
from tasks.evaluation.items import Result, read_results, write_results
from tasks.evaluation.spec import EvaluationSpec
from tasks.evaluation.verdict import check, judge, report

Pairs = list[tuple[float | None, float | None]]
KNOWN: dict[str, Any] = {"seed": 0, "model_sha256": "a" * 64, "data_sha256": "b" * 64, "items_uri": "items"}


def rows(
    loss: Pairs, exact: list[tuple[bool, bool]] | None = None, groups: list[str] | None = None, other: Any = "base"
) -> list[Result]:
    """Results of (other, tuned) pairs."""
    found = []
    for which, role in enumerate((other, "tuned")):
        for at, pair in enumerate(loss):
            group = groups[at] if groups else str(at)
            result = Result(role, "held_out", at, at, group, pair[which], 3)
            if exact:
                match = exact[at][which]
                result = Result(
                    role, "held_out", at, at, group, pair[which], 3, match, f"{role} {at}", True, 0, f"Q{at}", f"A{at}"
                )
            found.append(result)
    return found


def shifted(n: int, gain: float, spread: float, seed: int = 0) -> Pairs:
    """n items whose tuned loss is lower by exactly `gain` on average."""
    generator = np.random.default_rng(seed)
    base, noise = generator.uniform(1, 3, n), generator.normal(0, 1, n)
    tuned = base - gain + spread * (noise - noise.mean())
    return list(zip(base.tolist(), tuned.tolist(), strict=True))


def judged(items: list[Result], **spec: Any) -> EvaluationReport:
    return judge(items, EvaluationSpec(**({"resamples": 2000} | spec)), **KNOWN)


@pytest.mark.parametrize(
    ("gain", "spread", "n", "compared", "status"),
    [
        (0.5, 0.3, 60, "better", "pass"),
        (-0.5, 0.3, 60, "worse", "fail"),
        (0.0, 0.01, 60, "equivalent", "fail"),
        (0.0, 0.0, 60, "equivalent", "fail"),
        (0.02, 0.5, 20, "not enough data", "inconclusive"),
        (0.5, 0.0, 5, "not enough data", "inconclusive"),  # five items cannot settle anything at 95%
        (0.5, 0.0, 6, "better", "pass"),
    ],
)
def test_the_verdict_follows_from_the_interval(gain: float, spread: float, n: int, compared: str, status: str) -> None:
    found = judged(rows(shifted(n, gain, spread)))
    comparison = found.comparisons[0]
    assert comparison.difference == pytest.approx(gain, abs=1e-9)  # positive is better, though loss is lower
    assert (comparison.verdict, found.verdict.status) == (compared, status)
    assert (comparison.enough > n) == (compared == "not enough data")
    assert len(found.verdict.reasons) == 1


def test_a_reason_holds_the_numbers() -> None:
    pairs: Pairs = [(2.0 + at / 100, 1.5 + at / 100) for at in range(20)]
    (reason,) = judged(rows(pairs), resamples=1000).verdict.reasons
    # Means 2.095 and 1.595; every difference is 0.5, so the interval is a point; Monte Carlo p = 1 / 1001.
    assert reason == (
        "On held_out the tuned model has 1.5950 nats per token of the right answers, the base 2.0950: 0.5000 better "
        "(95% interval 0.5000 to 0.5000, positive is better; p = 0.001; 20 items). The whole interval lies above the "
        "margin of 0: it is better."
    )


def test_scores_are_the_means_of_each_model() -> None:
    exact = [(False, True), (True, True), (False, False), (False, True)] * 5
    found = judged(rows([(2.0, 1.0), (4.0, 2.0)] * 10, exact))
    values = {(s.model, s.metric): (s.value, s.n, s.higher_is_better) for s in found.scores}
    assert values == {
        ("base", "loss"): (3.0, 20, False),
        ("tuned", "loss"): (1.5, 20, False),
        ("base", "exact_match"): (0.25, 20, True),
        ("tuned", "exact_match"): (0.75, 20, True),
    }
    assert all(score.low < score.value < score.high for score in found.scores)


def test_the_incumbent_is_compared_where_it_was_evaluated() -> None:
    items = rows(shifted(30, 0.5, 0.1)) + [r for r in rows(shifted(30, 0.2, 0.1), other="incumbent") if r.role != "tuned"]
    assert [c.against for c in judged(items).comparisons] == ["base", "incumbent"]


def test_margin_is_the_least_gain() -> None:
    items = rows(shifted(60, 0.5, 0.1))
    assert judged(items, margin=0.4).verdict.status == "pass"
    assert judged(items, margin=0.6).verdict.status == "fail"
    assert judged(items, margin=0.6).comparisons[0].verdict == "equivalent"
    # A margin of just what was seen can be neither cleared nor missed, and no number of items would help.
    at_margin = judged(items, margin=0.5)
    assert at_margin.verdict.status == "inconclusive"
    assert at_margin.comparisons[0].enough == 0


def test_metric_decides() -> None:
    exact = [(False, at % 2 == 0) for at in range(40)]
    same_loss: Pairs = [(2.0, 2.0)] * 40
    assert judged(rows(same_loss, exact), metric="exact_match").verdict.status == "pass"
    assert judged(rows(same_loss, exact), metric="loss").verdict.status == "fail"


def test_confidence_widens_and_withholds() -> None:
    items = rows(shifted(30, 0.11, 0.3))
    wide, narrow = (judged(items, confidence=confidence).comparisons[0] for confidence in (0.999, 0.8))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert (wide.verdict, narrow.verdict) == ("not enough data", "better")


def test_resamples_set_the_smallest_p_value() -> None:
    items = rows(shifted(60, 0.5, 0.1))
    assert judged(items, resamples=1000).comparisons[0].p_value == 1 / 1001
    assert judged(items, resamples=3000).comparisons[0].p_value == 1 / 3001


def test_another_metric_that_is_worse_fails_a_better_model() -> None:
    exact = [(True, at % 3 == 0) for at in range(60)]
    found = judged(rows(shifted(60, 0.5, 0.1), exact))
    assert [c.verdict for c in found.comparisons] == ["better", "worse"]
    assert found.verdict.status == "fail"
    assert len(found.verdict.reasons) == 2
    assert "the tuned model has 33.3% of the answers right, the base 100.0%: 66.7% worse" in found.verdict.reasons[1]


def test_items_of_one_group_are_one_observation() -> None:
    pairs = shifted(60, 0.2, 0.5)
    alone, grouped = judged(rows(pairs)), judged(rows(pairs, groups=["one"] * 60))
    assert alone.verdict.status == "pass"
    assert grouped.verdict.status == "inconclusive"


def test_a_metric_that_was_not_measured_settles_nothing() -> None:
    found = judged(rows(shifted(20, 0.5, 0.1)), metric="exact_match")
    assert found.verdict.status == "inconclusive"
    assert "no row of held_out was answered by generation" in found.verdict.reasons[0]
    empty = judged([])
    assert (empty.verdict.status, empty.scores, empty.comparisons) == ("inconclusive", (), ())
    assert "no row with tokens to score" in empty.verdict.reasons[0]


def test_only_items_that_both_models_have_are_compared() -> None:
    pairs = shifted(20, 0.5, 0.0)
    pairs[3] = (None, 9.0)
    comparison = judged(rows(pairs)).comparisons[0]
    assert comparison.n == 19
    assert comparison.difference == pytest.approx(0.5)


def test_the_number_asked_for_settles_it() -> None:
    """With `enough` items of the same kind about four of five evaluations are settled."""
    pairs = shifted(20, 0.1, 0.4)
    spread = np.std([(a or 0) - (b or 0) for a, b in pairs], ddof=1)
    pilot = judged(rows(pairs), resamples=1000).comparisons[0]
    assert pilot.verdict == "not enough data"
    generator = np.random.default_rng(5)
    settled = 0
    for _ in range(200):
        base, n = np.full(pilot.enough, 2.0), pilot.enough
        tuned = base - generator.normal(0.1, spread, n)
        found = judged(rows(list(zip(base.tolist(), tuned.tolist(), strict=True))), resamples=1000)
        settled += found.comparisons[0].verdict == "better"
    assert 0.72 <= settled / 200 <= 0.88


def test_identical_random_models_are_rarely_called_better() -> None:
    generator = np.random.default_rng(1)
    better = 0
    for _ in range(300):
        pair = generator.normal(2, 0.3, (2, 30)).T.tolist()
        better += judged(rows([(a, b) for a, b in pair]), resamples=1000).verdict.status == "pass"
    assert better / 300 <= 0.05


def test_examples_follow_their_rule() -> None:
    exact = [(True, True)] * 4 + [(False, False)] * 4 + [(True, False)] * 4 + [(False, True)] * 4
    shown = pick_examples(rows([(1.0, 1.0)] * 16, exact))
    assert [e.prompt for e in shown] == ["Q12", "Q13", "Q14", "Q8", "Q9", "Q4", "Q5", "Q0"]
    assert (shown[0].reference, shown[0].base, shown[0].tuned) == ("A12", "base 12", "tuned 12")
    assert pick_examples(rows([(1.0, 1.0)] * 4)) == ()


def test_examples_are_cut() -> None:
    long = "p" * 700 + "?"
    items = [
        Result(role, "held_out", 0, 0, "g", 1.0, 1, True, "a" * 700, True, 0, long, "r" * 600)  # type: ignore[arg-type]
        for role in ("base", "tuned")
    ]
    (shown,) = pick_examples(items)
    assert (len(shown.prompt), len(shown.reference), len(shown.tuned)) == (600, 600, 600)
    assert shown.prompt.endswith("?")
    assert shown.tuned.endswith("…")


def test_a_report_can_be_made_again_from_its_files(tmp_path: Path, trained_model: Callable[..., TrainedModel]) -> None:
    items = rows(shifted(30, 0.5, 0.1), [(False, at % 2 == 0) for at in range(30)])
    write_results(tmp_path / "items.parquet", items)
    assert read_results(tmp_path / "items.parquet") == items
    speed = {
        "model": "base", "prompt_tokens": 5, "output_tokens": 6, "first_token_ms_p50": 1.0, "first_token_ms_p95": 2.0,
        "tokens_per_second": 100.0, "peak_memory_gib": 0.5,
    }  # fmt: skip
    (tmp_path / "speed.json").write_text(json.dumps([speed]), encoding="utf-8")
    history = tmp_path / "history.jsonl"
    history.write_text('{"step": 1, "validation_loss": 1.0}\n{"step": 2, "validation_loss": 2.0}\n', encoding="utf-8")
    spec, trained = EvaluationSpec(resamples=1000), trained_model()
    made = [report(tmp_path, spec=spec, trained=trained, seed=3, items_uri="u", history=history, seconds=1) for _ in range(2)]
    assert made[0] == made[1]
    assert EvaluationReport.model_validate_json(made[0].model_dump_json()) == made[0]
    assert (made[0].model_sha256, made[0].items_uri, len(made[0].speed)) == (trained.sha256, "u", 1)
    assert any("rose to 2.0000 by step 2" in advice for advice in made[0].advice)
    own = [r.loss or 0 for r in items if r.role == "tuned"]
    assert made[0].scores[1].value == pytest.approx(sum(own) / 30)
    other = report(tmp_path, spec=spec, trained=trained, seed=4, items_uri="u")
    assert other.scores[0].low != made[0].scores[0].low


@pytest.mark.parametrize(
    ("trained", "history", "said"),
    [
        ({}, [(5, 2.0), (10, 1.5), (15, 1.9)], "Validation loss was lowest at step 10 (1.5000) and rose to 1.9000"),
        ({}, [(5, 2.0), (10, 1.5)], "Validation loss still fell at the last step (2.0000 to 1.5000 at step 10)"),
        ({"train_loss": 0.2, "validation_loss": 1.5}, [], "Training loss (0.2000) is far below validation loss"),
        ({"validation_loss": None}, [], "There were no validation rows"),
    ],
)
def test_advice_on_training_needs_its_evidence(
    trained: dict[str, Any], history: list[tuple[int, float]], said: str, trained_model: Callable[..., TrainedModel]
) -> None:
    items = rows(shifted(30, 0.5, 0.1), [(True, True)] * 30)
    steps = [{"step": step, "validation_loss": loss} for step, loss in history] + [{"step": 99, "loss": 1.0}]
    found = advise(items, [], EvaluationSpec(), trained_model(**trained), steps)
    assert len(found) == 1
    assert found[0].startswith(said)
    assert advise(items, [], EvaluationSpec(), trained_model(), [{"step": 1, "validation_loss": 1.0}]) == ()


def test_advice_on_the_items_needs_its_evidence(trained_model: Callable[..., TrainedModel]) -> None:
    def advice(items: list[Result]) -> str:
        found = judged(items)
        return "\n".join(advise(items, found.comparisons, EvaluationSpec(), trained_model(), []))

    assert "Exact match was not computed" in advice(rows(shifted(30, 0.5, 0.1)))
    noisy = judged(rows(shifted(20, 0.02, 0.5))).comparisons[0]
    assert f"20 items are too few; about {noisy.enough} would settle it" in advice(rows(shifted(20, 0.02, 0.5)))
    assert "come from 1 groups, and 6 are the fewest" in advice(rows(shifted(20, 0.5, 0.1), groups=["g"] * 20))
    items = rows(shifted(10, 0.5, 0.1), [(True, True)] * 10)
    cut = [Result(**(vars(item) | {"cut": 4, "finished": False})) for item in items]
    assert "10 of 10 prompts lost their beginning" in advice(cut)
    assert "10 of 10 answers of the tuned model were stopped by max_new_tokens" in advice(cut)


@pytest.mark.parametrize(
    ("spec", "known", "said"),
    [
        ({"metric": "exact_match", "benchmarks": [HeldOut(generated_items=0)]}, {}, "generated_items is 0"),
        ({"metric": "exact_match"}, {"task": "text"}, "plain text has no answers"),
        ({"metric": "exact_match", "margin": 1.0}, {}, "no model is better by 1 or more"),
        ({"benchmarks": [HeldOut(), HeldOut()]}, {}, "names held_out 2 times"),
        ({"benchmarks": [HeldOut(max_new_tokens=64)]}, {"max_positions": 64}, "leaves no room for a prompt"),
        ({"benchmarks": [HeldOut(items=5)]}, {}, "fewer than 6 items"),
        ({"metric": "exact_match", "benchmarks": [HeldOut(generated_items=3)]}, {}, "generated_items is 3"),
        ({"resamples": 1000, "confidence": 0.999}, {}, "use at least 10000"),
    ],
)
def test_check_finds_what_cannot_work(spec: dict[str, Any], known: dict[str, Any], said: str) -> None:
    (problem,) = check(EvaluationSpec(**spec), **known)
    assert said in problem


def test_check_finds_all_at_once_and_nothing_in_the_defaults() -> None:
    assert check(EvaluationSpec(), task="chat", max_positions=2048) == []
    both = EvaluationSpec(metric="exact_match", margin=2, benchmarks=[HeldOut(generated_items=0)])
    assert len(check(both, task="text")) == 3
