"""The resources stage's step."""

from dataclasses import asdict

from tasks.contracts import HardwarePlan, ModelRef, TokenizedDataset
from tasks.resources.hardware import find_machine
from tasks.resources.planning import plan_training
from tasks.resources.spec import ResourceSpec
from tasks.steps import StepContext, step


@step("plan", version=2, environment=lambda: asdict(find_machine()))
def plan_hardware(
    context: StepContext,
    spec: ResourceSpec,
    base: ModelRef,
    data: TokenizedDataset,
    pack: int,
    trainable: int,
    batch_size: int,
    micro_batch_size: int,
    tokens: int,
    activation_checkpointing: bool,
    reasons: tuple[str, ...],
) -> HardwarePlan:
    """Decide devices, precision, ZeRO stage and batches, each with its reason; `pack` is the tokens of a pack, 0 without."""
    return plan_training(
        spec, find_machine(), base, trainable=trainable, batch_size=batch_size, micro_batch_size=micro_batch_size,
        longest=max(8, pack, data.train.longest, data.validation.longest), tokens=tokens,
        activation_checkpointing=activation_checkpointing, more_reasons=reasons,
    )  # fmt: skip
