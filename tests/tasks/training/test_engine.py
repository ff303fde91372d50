"""DeepSpeed's configuration, the optimizers, and what a rank holds of a model."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import ModelRef
from tasks.models import weights_digest
from tasks.training import engine
from tasks.training.methods.full import Full
from tasks.training.methods.lora import Lora
from tasks.training.methods.qlora import QLora
from tasks.training.optimizers import check_group, check_optimizer, make_optimizer
from tasks.training.spec import AdvancedTraining, TrainingSpec
from tests.tasks.training.conftest import cpu_plan, losses
from tests.tasks.training.ranks import run, start


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {"stage": 0}),
        ({"zero_stage": 2}, {"stage": 2}),
        (
            {"zero_stage": 2, "offload": "cpu"},
            {"stage": 2, "offload_optimizer": {"device": "cpu", "pin_memory": False}},
        ),
        (
            {"zero_stage": 3, "offload": "cpu", "accelerator": "cuda"},
            {
                "stage": 3,
                "offload_optimizer": {"device": "cpu", "pin_memory": True},
                "offload_param": {"device": "cpu", "pin_memory": True},
            },
        ),
        (
            {"zero_stage": 3, "offload": "nvme", "offload_folder": "/fast", "accelerator": "cuda"},
            {
                "stage": 3,
                "offload_optimizer": {"device": "nvme", "pin_memory": True, "nvme_path": "/fast"},
                "offload_param": {"device": "nvme", "pin_memory": True, "nvme_path": "/fast"},
            },
        ),
    ],
)
def test_the_plan_says_what_is_divided_and_where_it_lies(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    assert engine.configuration(cpu_plan(**changes), TrainingSpec())["zero_optimization"] == expected


def test_batches_clipping_and_precision_reach_deepspeed() -> None:
    plan = cpu_plan(micro_batch=3, accumulation=5, precision="bf16")
    found = engine.configuration(plan, TrainingSpec(advanced=AdvancedTraining(clip_norm=0.5)))
    assert found["train_micro_batch_size_per_gpu"] == 3
    assert found["gradient_accumulation_steps"] == 5
    assert found["gradient_clipping"] == 0.5
    assert (found["bf16"], found["fp16"]) == ({"enabled": True}, {"enabled": False})


@pytest.mark.parametrize(
    ("kind", "name"), [("adamw", "AdamW"), ("adamw_8bit", "AdamW8bit"), ("paged_adamw_8bit", "PagedAdamW8bit")]
)
def test_the_optimizer_is_the_one_that_was_asked_for_with_its_settings(kind: Any, name: str) -> None:
    import torch

    advanced = AdvancedTraining(optimizer=kind, beta1=0.8, beta2=0.95, weight_decay=0.1)
    made = make_optimizer([torch.nn.Parameter(torch.zeros(4))], cpu_plan(), TrainingSpec(advanced=advanced), 3e-4)
    group = made.param_groups[0]
    assert type(made).__name__ == name
    assert (group["lr"], tuple(group["betas"]), group["weight_decay"]) == (3e-4, (0.8, 0.95), 0.1)


def test_adamw_is_one_kernel_but_where_its_states_lie_elsewhere() -> None:
    import torch

    for offload, fused in (("none", True), ("cpu", False)):
        plan = cpu_plan(offload=offload, zero_stage=2)
        made = make_optimizer([torch.nn.Parameter(torch.zeros(4))], plan, TrainingSpec(), 3e-4)
        assert made.param_groups[0]["fused"] is fused


def test_an_optimizer_that_moves_its_states_needs_a_gpu() -> None:
    assert "no GPU was found. Use adamw_8bit, or adamw." in check_optimizer("paged_adamw_8bit", "cpu")
    assert check_optimizer("paged_adamw_8bit", "cuda") == ""
    assert check_optimizer("adamw_8bit", "cpu") == ""


def test_moments_in_8_bits_need_the_same_machines_to_the_end() -> None:
    told = check_group("adamw_8bit", 3, 0, "auto")
    assert "Set resources.least_nodes: 3, so that training waits for it, or use adamw." in told
    assert check_group("adamw_8bit", 3, 2, 2) != ""
    assert check_group("adamw_8bit", 3, 3, 2) == check_group("adamw_8bit", 3, 1, 0) == check_group("adamw", 3, 1, 2) == ""
    assert check_group("adamw_8bit", 1, 0, "auto") == ""


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_moments_in_8_bits_learn_about_the_same_and_end_with_the_same_bits_after_a_kill(make_job: Any, ranks: int) -> None:
    from tasks.training import checkpoint

    plan = cpu_plan(devices=ranks, micro_batch=16 // ranks, zero_stage=2 if ranks > 1 else 0)
    eight = {"advanced": AdvancedTraining(optimizer="adamw_8bit", checkpoint_steps=3), "epochs": 2}
    plain = make_job("plain", Full(), plan, epochs=2)
    whole, broken = (make_job(name, Full(), plan, **eight) for name in ("whole", "broken"))
    run(plain)
    run(whole)
    assert losses(whole) == pytest.approx(losses(plain), rel=0.02)
    assert losses(whole) != losses(plain)
    assert not run(broken, until=lambda: checkpoint.newest_step(broken.checkpoints) >= 6)
    assert run(broken)["resumed_from"] >= 6
    assert weights_digest(broken.out / "model") == weights_digest(whole.out / "model")


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_offloading_changes_no_loss(make_job: Any, stage: int) -> None:
    jobs = [make_job(where, Full(), cpu_plan(zero_stage=stage, offload=where)) for where in ("none", "cpu")]
    for job in jobs:
        run(job)
    assert losses(jobs[1]) == pytest.approx(losses(jobs[0]), rel=1e-5)


def hold(path: Path) -> int:
    """Write how many bytes of weights this rank holds, once its model is loaded and once the engine has it."""
    import torch

    asked = json.loads(path.read_text())
    methods = {"full": Full(), "lora": Lora(rank=4), "qlora": QLora(rank=4)}
    method, plan = methods[asked["method"]], cpu_plan(devices=2, zero_stage=asked["stage"])
    engine.start_processes(plan)
    config = engine.configuration(plan, TrainingSpec())
    with engine.announced(config):
        model = method.load(ModelRef.model_validate(asked["base"]), torch.float32)
        loaded = bytes_of(model)
        started = engine.start(method.wrap(model), config, plan, TrainingSpec(), 1e-3)
    parts = [getattr(weight, "ds_tensor", weight) for weight in started.module.parameters()]
    kept = sum(part.numel() * part.element_size() for part in parts)
    path.with_name(f"held-{os.environ['RANK']}.json").write_text(json.dumps([loaded, kept]))
    return 0


def bytes_of(model: Any) -> int:
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_under_zero_3_a_rank_holds_its_part_alone(tiny_base: ModelRef, tmp_path: Path, method: str) -> None:
    held = {}
    for stage in (2, 3):
        path = tmp_path / str(stage) / "asked.json"
        path.parent.mkdir()
        path.write_text(json.dumps({"method": method, "stage": stage, "base": tiny_base.model_dump(mode="json")}))
        for process in start(hold, path, world=2):
            process.join()
        assert (path.parent / "held-0.json").exists(), (path.parent / "rank-0.log").read_text()
        held[stage] = json.loads((path.parent / "held-0.json").read_text())
    assert held[3][1] == pytest.approx(held[2][1] / 2, rel=0.02)
    if method == "qlora":
        assert held[3][0] == held[2][0]  # 4-bit weights are read whole, and divided by the engine
    else:
        assert held[3][0] == 0  # each weight is divided as it is read


def save_twice(path: Path) -> int:
    """Save a model, whole, before and after a step under ZeRO 3."""
    import torch

    method, plan = Full(), cpu_plan(devices=2, zero_stage=3)
    engine.start_processes(plan)
    config = engine.configuration(plan, TrainingSpec())
    with engine.announced(config):
        model = method.load(ModelRef.model_validate_json(path.read_text()), torch.float32)
        started = engine.start(method.wrap(model), config, plan, TrainingSpec(), 1e-2)
    for name in ("before", "after"):
        with engine.whole_parameters(started, plan):
            if os.environ["RANK"] == "0":
                method.save(started.module, path.with_name(name))
        started.backward(started(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False).logits.square().mean())
        started.step()
    return 0


@pytest.mark.slow
def test_what_is_divided_is_put_together_to_be_saved_and_learns_on(tiny_base: ModelRef, tmp_path: Path) -> None:
    path = tmp_path / "base.json"
    path.write_text(tiny_base.model_dump_json())
    for process in start(save_twice, path, world=2):
        process.join()
    assert (tmp_path / "after").exists(), (tmp_path / "rank-0.log").read_text()
    base = weights_digest(Path(tiny_base.location))
    assert weights_digest(tmp_path / "before") == base
    assert weights_digest(tmp_path / "after") != base
