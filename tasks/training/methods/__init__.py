"""Training methods, one file each; this union is the list of them.

A method is a spec with a literal `kind`, `adapter` (whether it trains weights beside frozen ones) and four functions:
`check(base)` returns why it cannot train that model ("" where it can), `trainable_parameters(base)` estimates how many weights
learn, `wrap(model)` returns the model that learns, and `save(model, folder)` writes it.
"""

from typing import Annotated

from pydantic import Field

from tasks.training.methods.full import Full
from tasks.training.methods.lora import Lora

Method = Annotated[Lora | Full, Field(discriminator="kind")]
