"""What a training computes, put together from its settings and its data for whoever plans the hardware."""

from tasks.contracts import ModelRef, TokenizedDataset
from tasks.resources.spec import Workload
from tasks.training.methods import Method
from tasks.training.methods.lora import Lora
from tasks.training.methods.qlora import QLora
from tasks.training.schedule import VALIDATIONS, expected_rows, interval, pack_length, total_steps, training_forecast
from tasks.training.spec import USUAL_LENGTH, TrainingSpec

OTHERS = (Lora(), QLora())  # named where a method does not fit
_FEW = 64  # tokens
_MOMENT_BYTES = {"adamw": 8, "adamw_8bit": 2, "paged_adamw_8bit": 2}


def workload(training: TrainingSpec, method: Method, data: TokenizedDataset) -> Workload:
    """Rows, lengths and positions of a whole training."""
    tokens, reasons = training_forecast(training, data, adapter=method.adapter)
    longest = pack_length(training, data.max_length, data.train.longest) if training.packing else data.train.longest
    fill = 1.0 if training.packing else max(0.05, data.packing_efficiency)
    total = total_steps(training, expected_rows(training, data))
    validations = -(-total // interval(training.advanced.validate_steps, total, VALIDATIONS))
    return Workload(
        batch_size=training.batch_size, micro_batch_size=training.micro_batch_size,
        longest=max(8, longest, data.validation.longest), tokens=max(1, round(tokens / fill)),
        validated=validations * data.validation.tokens,
        supervised=min(1.0, data.train.supervised_tokens / max(1, data.train.tokens)),
        checkpointing=training.advanced.activation_checkpointing, moment_bytes=_MOMENT_BYTES[training.advanced.optimizer],
        reasons=reasons,
    )  # fmt: skip


def smallest(training: TrainingSpec) -> Workload:
    """The least that a training can be: rows of a few tokens, one at a time."""
    return Workload(
        batch_size=1, longest=_FEW, tokens=_FEW, checkpointing=training.advanced.activation_checkpointing,
        moment_bytes=_MOMENT_BYTES[training.advanced.optimizer],
    )  # fmt: skip


def guessed(training: TrainingSpec, method: Method, base: ModelRef, size: int) -> Workload:
    """About the same before the data are prepared: a token is four bytes of a source file, and rows are as long as allowed."""
    longest = min(training.max_length or USUAL_LENGTH, base.max_positions)
    tokens = max(longest, size // 4)
    rows = max(1, tokens // longest)
    total = total_steps(training, rows)
    return Workload(
        batch_size=training.batch_size, micro_batch_size=training.micro_batch_size, longest=longest,
        tokens=total * training.batch_size * longest if training.max_steps else round(tokens * training.epochs),
        checkpointing=training.advanced.activation_checkpointing, moment_bytes=_MOMENT_BYTES[training.advanced.optimizer],
        reasons=(f"the data are not prepared yet: about {tokens:,} tokens, from {size:,} bytes of source files",),
    )  # fmt: skip
