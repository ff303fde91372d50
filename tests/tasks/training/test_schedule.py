import pytest

from tasks.training.schedule import interval, learning_rate, rate_at, total_steps
from tasks.training.spec import TrainingSpec


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


def test_the_rate_rises_linearly_then_falls_to_its_floor() -> None:
    rates = [rate_at(step, 100, 1.0, warmup_share=0.1, final_share=0.1) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55)  # half of the cosine: the middle of peak and floor
    assert rates[99] == pytest.approx(0.1, abs=1e-3)


def test_automatic_rates_follow_the_kind_of_weights() -> None:
    spec = TrainingSpec()
    assert learning_rate(spec, adapter=True)[0] == 2e-4
    assert learning_rate(spec, adapter=False)[0] == 2e-5
    assert learning_rate(TrainingSpec(learning_rate=0.5), adapter=True) == (0.5, "learning rate 0.5: as asked")


@pytest.mark.parametrize(("asked", "total", "times", "steps"), [(0, 100, 10, 10), (7, 100, 10, 7), (0, 3, 10, 1)])
def test_interval(asked: int, total: int, times: int, steps: int) -> None:
    assert interval(asked, total, times) == steps
