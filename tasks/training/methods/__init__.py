"""Training methods, one file each; this union is the list of them.

A method is a spec with a literal `kind`, `adapter` (whether it trains weights beside frozen ones) and these functions:
`check(base)` returns why it cannot train that model ("" where it can; without a base: why it can train none), `most_divided()`
the highest ZeRO stage that works with the reason, `trainable_parameters(base)` counts the weights that learn without loading
one, `load(base, dtype)` returns the base as it trains it, `wrap(model)` the model that learns, `save(model, folder)` writes it,
and `driver(engine, total_steps, plan)` returns what acts between steps.
"""

from collections.abc import Collection
from typing import Annotated

from pydantic import Field

from tasks.training.methods.adalora import AdaLora
from tasks.training.methods.custom import Custom
from tasks.training.methods.full import Full
from tasks.training.methods.lora import Lora
from tasks.training.methods.qlora import QLora

Method = Annotated[Lora | QLora | AdaLora | Full | Custom, Field(discriminator="kind")]


def check_formats(method: Lora | QLora | AdaLora | Full | Custom, formats: Collection[str]) -> str:
    """Why a model that `method` trains cannot be written in all of `formats`; "" where it can."""
    if "adapter" in formats and not method.adapter:
        return f"release.formats asks for adapter, but method {method.kind} trains no adapter; use safetensors."
    if "adapter" in formats and isinstance(method, Custom) and method.adapter_class:
        return f"release.formats asks for adapter, but {method.adapter_class} is none that PEFT loads; use safetensors."
    return ""
