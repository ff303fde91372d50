import pytest

from tasks.contracts import TokenizedDataset, TokenizedSplit
from tasks.training.schedule import (
    expected_rows,
    interval,
    learning_rate,
    pack_length,
    rate_at,
    total_steps,
    training_forecast,
)
from tasks.training.spec import AdvancedTraining, TrainingSpec


@pytest.mark.parametrize(
    ("spec", "sequences", "steps"),
    [
        ({"epochs": 1, "batch_size": 10}, 100, 10),
        ({"epochs": 1, "batch_size": 10}, 101, 11),
        ({"epochs": 0.5, "batch_size": 10}, 100, 5),
        ({"epochs": 3, "batch_size": 10, "max_steps": 7}, 100, 7),
    ],
)
def test_total_steps(spec: dict[str, float], sequences: int, steps: int) -> None:
    assert total_steps(TrainingSpec.model_validate(spec), sequences) == steps


def rates(**asked: object) -> list[float]:
    """Those of a hundred steps with a peak of 1 and a warm-up of ten."""
    spec = AdvancedTraining.model_validate({"warmup_share": 0.1, "final_rate_share": 0.1, **asked})
    return [rate_at(step, 100, 1.0, spec) for step in range(100)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "wsd"])
def test_every_schedule_warms_up_linearly_to_the_peak(schedule: str) -> None:
    found = rates(schedule=schedule)
    assert found[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert found[10] == max(found) == 1.0
    assert rates(schedule=schedule, warmup_share=0.0)[0] == 1.0


def test_the_cosine_falls_to_its_floor() -> None:
    found = rates()
    assert found[55] == pytest.approx(0.55)  # half of the cosine: the middle of peak and floor
    assert found[99] == pytest.approx(0.1, abs=1e-3)
    assert rates(final_rate_share=0.0)[99] == pytest.approx(0.0, abs=1e-3)


def test_the_line_falls_by_as_much_each_step() -> None:
    found = rates(schedule="linear")
    assert [found[step] for step in (10, 40, 70)] == pytest.approx([1.0, 0.7, 0.4])
    assert found[99] == pytest.approx(0.11)  # the next would be the floor


def test_the_constant_rate_stays() -> None:
    assert set(rates(schedule="constant")[10:]) == {1.0}


def test_wsd_stays_then_falls_as_one_minus_the_root() -> None:
    found = rates(schedule="wsd", decay_share=0.25)
    assert set(found[10:76]) == {1.0}
    assert found[84] == pytest.approx(1 - 0.9 * 0.6)  # 9 of 25 steps: the root is 0.6
    assert found[91] == pytest.approx(1 - 0.9 * 0.8)
    assert 0.1 < found[99] < 0.12
    assert rates(schedule="wsd", decay_share=0.5)[84] < found[84]
    assert [rate_at(step, 1, 1.0, AdvancedTraining(schedule="wsd", warmup_share=0.0)) for step in range(1)] == [1.0]


def test_automatic_rates_follow_the_kind_of_weights() -> None:
    spec = TrainingSpec()
    assert learning_rate(spec, adapter=True)[0] == 2e-4
    assert learning_rate(spec, adapter=False)[0] == 2e-5
    assert learning_rate(TrainingSpec(learning_rate=0.5), adapter=True) == (0.5, "learning rate 0.5: as asked")


@pytest.mark.parametrize(("asked", "total", "times", "steps"), [(0, 100, 10, 10), (7, 100, 10, 7), (0, 3, 10, 1)])
def test_interval(asked: int, total: int, times: int, steps: int) -> None:
    assert interval(asked, total, times) == steps


def tokenized(sequences: int, tokens: int, longest: int, max_length: int = 512) -> TokenizedDataset:
    train = TokenizedSplit.model_construct(sequences=sequences, tokens=tokens, longest=longest)
    return TokenizedDataset.model_construct(train=train, max_length=max_length)


@pytest.mark.parametrize(
    ("asked", "limit", "longest", "length"),
    [(0, 4096, 100, 1024), (0, 512, 100, 512), (256, 512, 100, 256), (2048, 512, 100, 512), (256, 512, 300, 300)],
)
def test_a_pack_is_as_long_as_asked_and_never_shorter_than_the_longest_sequence(
    asked: int, limit: int, longest: int, length: int
) -> None:
    assert pack_length(TrainingSpec(max_length=asked), limit, longest) == length


@pytest.mark.parametrize(
    ("spec", "rows", "tokens", "sentence"),
    [
        ({"batch_size": 10}, 1000, 200_000, "200 steps of 10 sequences: 2 passes over 1000 sequences, by training.epochs"),
        ({"batch_size": 10, "packing": True}, 196, 200_000,
         "about 40 steps of 10 packs of 512 tokens: 2 passes over 1000 sequences in about 196 packs, by training.epochs"),
        ({"batch_size": 10, "packing": True, "max_steps": 10}, 196, 50_000,
         "about 10 steps of 10 packs of 512 tokens: 0.5 passes over 1000 sequences in about 196 packs, by training.max_steps"),
    ],
)  # fmt: skip
def test_with_packing_the_forecast_counts_packs(spec: dict[str, int], rows: int, tokens: int, sentence: str) -> None:
    data = tokenized(1000, 100_000, 90)
    asked = TrainingSpec.model_validate(spec)
    assert expected_rows(asked, data) == rows
    forecast, reasons = training_forecast(asked, data, adapter=True)
    assert (forecast, reasons[0]) == (tokens, sentence)
