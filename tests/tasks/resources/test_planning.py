"""Every choice of a plan with its reason, on machines that need not be there."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.contracts import HardwarePlan, ModelRef
from tasks.errors import RequestError
from tasks.resources.hardware import Machine
from tasks.resources.memory import training_gib
from tasks.resources.planning import choose_devices, choose_micro_batch, choose_precision, choose_stage, plan_training
from tasks.resources.spec import ResourceSpec
from tests.tasks.resources.conftest import CPU, EIGHT, OLD

MakeModel = Callable[..., ModelRef]
CPU_BF16 = Machine("cpu", "Xeon", devices=1, memory_gib=16.0, cores=8, has_bf16=True)


@pytest.mark.parametrize(
    ("machine", "asked", "devices", "reason"),
    [
        (EIGHT, "auto", 8, "8 device(s): every NVIDIA H100 of this machine"),
        (EIGHT, 3, 3, "3 device(s): as asked"),
        (OLD, "auto", 1, "1 device(s): every Tesla T4 of this machine"),
        (CPU, "auto", 1, "1 device: no GPU was found; one process uses all 8 cores"),
        (CPU, 8, 8, "8 device(s): as asked"),
    ],
)
def test_devices(machine: Machine, asked: Any, devices: int, reason: str) -> None:
    assert choose_devices(ResourceSpec(devices=asked), machine) == (devices, reason)


@pytest.mark.parametrize(
    ("machine", "asked", "message"),
    [
        (EIGHT, 9, "resources.devices is 9, but this machine has 8 GPU(s). Use 1 to 8, or auto."),
        (CPU, 9, "resources.devices is 9, but this machine has 8 CPU core(s). Use 1 to 8, or auto."),
        (CPU, 0, "resources.devices is 0, but this machine has 8 CPU core(s). Use 1 to 8, or auto."),
        (OLD, -1, "resources.devices is -1, but this machine has 1 GPU(s). Use 1 to 1, or auto."),
    ],
)
def test_devices_that_are_not_there(machine: Machine, asked: int, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        choose_devices(ResourceSpec(devices=asked), machine)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("machine", "asked", "precision", "reason"),
    [
        (EIGHT, "auto", "bf16", "bf16: NVIDIA H100 has bf16 units"),
        (OLD, "auto", "fp32", "fp32: Tesla T4 has no bf16 units, and fp16 would need loss scaling"),
        (CPU, "auto", "fp32", "fp32: Some CPU has no bf16 units"),
        (CPU_BF16, "auto", "fp32", "fp32: Xeon has bf16 units, but small models gain little and lose digits"),
        (CPU, "bf16", "bf16", "bf16: as asked"),
        (OLD, "fp16", "fp16", "fp16: as asked"),
        (EIGHT, "fp32", "fp32", "fp32: as asked"),
    ],
)
def test_precision(machine: Machine, asked: Any, precision: str, reason: str) -> None:
    assert choose_precision(ResourceSpec(precision=asked), machine) == (precision, reason)


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(RequestError) as caught:
        choose_precision(ResourceSpec(precision="fp16"), CPU)
    assert str(caught.value) == "resources.precision is fp16, which CPUs do not train in. Use fp32, bf16 or auto."


@pytest.mark.parametrize(
    ("asked", "devices", "billions", "stage", "reason"),
    [
        ("auto", 1, 100, 0, "ZeRO 0: one device has nothing to divide"),
        ("auto", 8, 20, 2, "ZeRO 2: gradients and optimizer states are divided; the weights fit on each device"),
        ("auto", 8, 21, 3, "ZeRO 3: the weights (42.0 GiB) fill more than half of a device (80 GiB)"),
        (1, 8, 21, 1, "ZeRO 1: as asked"),
        (0, 8, 21, 0, "ZeRO 0: as asked"),
    ],
)
def test_stage(model_of: MakeModel, asked: Any, devices: int, billions: int, stage: int, reason: str) -> None:
    model = model_of(parameters=billions * 2**30)
    assert choose_stage(ResourceSpec(zero_stage=asked), model, "bf16", EIGHT, devices) == (stage, reason)


def linear(size: int) -> float:
    """GiB: one for the model, half of one for each sequence."""
    return 1 + size / 2


@pytest.mark.parametrize(
    ("asked", "share", "limit", "size", "reason"),
    [
        (0, 16, 9.0, 16, "micro-batch 16: about 9.00 GiB of 9.0 GiB, sequences of up to 99 tokens"),
        (0, 16, 8.9, 8, "micro-batch 8: about 5.00 GiB of 8.9 GiB, sequences of up to 99 tokens"),
        (0, 5, 2.6, 3, "micro-batch 3: about 2.50 GiB of 2.6 GiB, sequences of up to 99 tokens"),
        (0, 16, 0.5, 1, "micro-batch 1: about 1.50 GiB of 0.5 GiB, sequences of up to 99 tokens"),
        (4, 16, 0.5, 4, "micro-batch 4: as asked"),
        (32, 16, 99.0, 16, "micro-batch 16: as asked, cut to a device's share"),
    ],
)
def test_micro_batch(asked: int, share: int, limit: float, size: int, reason: str) -> None:
    assert choose_micro_batch(asked, share, 99, linear, limit) == (size, reason)  # type: ignore[arg-type]


def plan(machine: Machine, base: ModelRef, spec: ResourceSpec | None = None, **changes: Any) -> HardwarePlan:
    asked: dict[str, Any] = {
        "trainable": 2**20, "batch_size": 64, "micro_batch_size": 0, "longest": 512, "tokens": 10**6,
        "activation_checkpointing": False, "rate": 1e12,
    }  # fmt: skip
    return plan_training(spec or ResourceSpec(), machine, base, **(asked | changes))


def test_a_plan_for_eight_gpus(model_of: MakeModel) -> None:
    found = plan(EIGHT, model_of(), more_reasons=("because",))
    assert (found.accelerator, found.backend, found.devices, found.threads) == ("cuda", "nccl", 8, 12)
    assert (found.precision, found.zero_stage, found.micro_batch, found.accumulation) == ("bf16", 2, 8, 1)
    assert found.reasons == (
        "8 device(s): every NVIDIA H100 of this machine",
        "bf16: NVIDIA H100 has bf16 units",
        "ZeRO 2: gradients and optimizer states are divided; the weights fit on each device",
        f"micro-batch 8: about {found.memory_gib:.2f} GiB of 72.0 GiB, sequences of up to 512 tokens",
        "nccl: the transport of GPUs",
        "because",
    )


def test_a_plan_for_a_cpu(model_of: MakeModel) -> None:
    found = plan(CPU, model_of(parameters=2**20, hidden_size=64, layers=2, vocabulary=512), ResourceSpec(devices=2))
    assert (found.accelerator, found.backend, found.devices, found.threads) == ("cpu", "gloo", 2, 4)
    assert (found.micro_batch, found.accumulation) == (32, 1)
    assert "of 7.2 GiB" in found.reasons[3]  # two processes share the memory


@pytest.mark.parametrize(
    ("batch", "devices", "micro", "accumulation"), [(64, 1, 8, 8), (64, 8, 8, 1), (65, 8, 8, 2), (10, 3, 3, 2), (1, 8, 1, 1)]
)
def test_micro_batches_make_up_the_batch(model_of: MakeModel, batch: int, devices: int, micro: int, accumulation: int) -> None:
    found = plan(EIGHT, model_of(), ResourceSpec(devices=devices), batch_size=batch, micro_batch_size=micro)
    assert (found.micro_batch, found.accumulation) == (micro, accumulation)
    assert found.devices * found.micro_batch * found.accumulation >= batch


def test_less_memory_means_smaller_micro_batches_that_still_make_up_the_batch(model_of: MakeModel) -> None:
    found = plan(OLD, model_of(parameters=2**28), longest=2048)
    assert 1 <= found.micro_batch < 64
    assert found.memory_gib <= 0.9 * OLD.memory_gib
    assert found.micro_batch * found.accumulation >= 64
    assert plan(OLD, model_of(parameters=2**28), longest=2048, activation_checkpointing=True).micro_batch > found.micro_batch


def test_what_does_not_fit_is_refused_with_ways_out(model_of: MakeModel) -> None:
    base = model_of(parameters=30 * 2**30)
    needed = training_gib(base, base.parameters, "fp32", 0, 1, 1, 512, "cuda", False)
    with pytest.raises(RequestError) as caught:
        plan(OLD, base, trainable=base.parameters)
    assert str(caught.value) == (
        f"Training needs about {needed:.1f} GiB a device, and 13.5 GiB can be used. Try method.kind: lora, a smaller "
        f"training.max_length or micro_batch_size, training.advanced.activation_checkpointing, or more devices."
    )


def test_a_micro_batch_that_was_asked_for_is_held_against_the_memory_too(model_of: MakeModel) -> None:
    plan(OLD, model_of(parameters=2**28), micro_batch_size=1, longest=2048)
    with pytest.raises(RequestError, match="Training needs about"):
        plan(OLD, model_of(parameters=2**28), micro_batch_size=64, longest=2048)


def test_what_is_not_known_is_measured(model_of: MakeModel) -> None:
    found = plan(CPU, model_of(parameters=2**20, hidden_size=64, layers=2, vocabulary=512), rate=None)
    assert found.hours > 0
    # 10**6 tokens x 6 operations x 2**20 weights, at 10**9 to 10**14 operations a second, half of them used
    assert 6e12 / 1e14 / 3600 < found.hours < 2 * 6.3e12 / 1e9 / 3600


def test_prices_change_the_forecast_and_no_decision(model_of: MakeModel) -> None:
    plain = plan(EIGHT, model_of())
    priced = plan(EIGHT, model_of(), ResourceSpec(price_per_device_hour=2.5, watts_per_device=350))
    assert priced.cost_usd == pytest.approx(2.5 * 8 * priced.hours)
    assert priced.energy_kwh == pytest.approx(plain.energy_kwh / 2)
    assert plain.cost_usd == 0
    assert priced.identity() == plain.identity()


@pytest.mark.parametrize(
    "bad", [{"price_per_device_hour": -1}, {"watts_per_device": -1}, {"devices": "all"}, {"zero_stage": 4}]
)
def test_what_cannot_be_asked(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ResourceSpec(**bad)
