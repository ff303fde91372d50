"""Every method trains a tiny model, on one rank and on two."""

import json
from typing import Any

import pytest

from tasks.models import weights_digest
from tasks.training import checkpoint
from tasks.training.methods.adalora import AdaLora
from tasks.training.methods.custom import Custom
from tasks.training.methods.full import Full
from tasks.training.methods.lora import Lora
from tasks.training.methods.qlora import QLora
from tasks.training.spec import AdvancedTraining
from tests.tasks.training.conftest import cpu_plan, losses
from tests.tasks.training.ranks import run

pytestmark = pytest.mark.slow

METHODS = {
    "full": Full(),
    "lora": Lora(rank=4, dropout=0.1),
    "dora": Lora(rank=4, weight_decomposed=True),
    "pissa": Lora(rank=4, init="pissa"),
    "olora": Lora(rank=4, init="olora"),
    "qlora": QLora(rank=4, dropout=0.1),
    "adalora": AdaLora(rank=2, initial_rank=4, dropout=0.1),
    "ia3": Custom(config="{peft_type: IA3, target_modules: [k_proj, down_proj], feedforward_modules: [down_proj]}"),
    "own": Custom(adapter_class="tests.tasks.training.own_adapter:Scales", config="{start: 1.0}"),
}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@each_method
def test_a_method_learns_and_the_same_request_gives_the_same_weights(make_job: Any, method: Any) -> None:
    jobs = [make_job(name, method, epochs=2) for name in ("one", "other")]
    results = [run(job) for job in jobs]
    first, *_, last = losses(jobs[0])
    assert last < first
    assert losses(jobs[0]) == losses(jobs[1])
    assert weights_digest(jobs[0].out / "model") == weights_digest(jobs[1].out / "model")
    assert {result["trainable_parameters"] for result in results} == {method.trainable_parameters(jobs[0].base)}


@each_method
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_training_ends_with_the_same_weights(make_job: Any, method: Any, ranks: int) -> None:
    plan = cpu_plan(devices=ranks, micro_batch=16 // ranks, zero_stage=2 if ranks > 1 else 0)
    advanced = AdvancedTraining(checkpoint_steps=3)
    whole, broken = (make_job(name, method, plan, epochs=1, advanced=advanced) for name in ("whole", "broken"))
    run(whole)
    assert not run(broken, until=lambda: checkpoint.newest_step(broken.checkpoints) >= 3)
    found, _ = checkpoint.newest(broken.checkpoints)
    assert found is not None
    assert run(broken)["resumed_from"] == found.step >= 3
    assert weights_digest(broken.out / "model") == weights_digest(whole.out / "model")
    assert losses(broken) == losses(whole)


@each_method
def test_every_zero_stage_that_a_method_allows_gives_the_same_loss(make_job: Any, method: Any) -> None:
    most, _ = method.most_divided()
    jobs = []
    for stage in range(most + 1):
        jobs.append(make_job(f"zero-{stage}", method, cpu_plan(devices=2, micro_batch=8, zero_stage=stage)))
        run(jobs[-1])
    for job in jobs[1:]:
        assert losses(job) == pytest.approx(losses(jobs[0]), rel=1e-4)


def test_adalora_takes_rank_away_until_what_was_asked_for_is_left(make_job: Any) -> None:
    job = make_job(method=AdaLora(rank=2, initial_rank=4, targets="q_proj,v_proj"), epochs=2)
    result = run(job)
    assert len(result["details"]) == 4
    assert sum(result["details"].values()) == 4 * 2
    points = [json.loads(line) for line in (job.out / "history.jsonl").read_text().splitlines()]
    ranks = [point["active_ranks"] for point in points if "active_ranks" in point]
    assert ranks[0] == 16
    assert ranks[-1] == 8
    assert ranks == sorted(ranks, reverse=True)
