"""What can be asked of the machine."""

from typing import Literal

from pydantic import Field

from tasks.contracts import Spec


class ResourceSpec(Spec):
    """Devices, precision and prices."""

    devices: Literal["auto"] | int = Field(
        default="auto",
        title="Devices",
        description="auto: every GPU there is, or one CPU process. A number: that many processes, 1 to 1024.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", title="Precision", description="auto: bf16 on GPUs that have it, else fp32."
    )
    zero_stage: Literal["auto", 0, 1, 2, 3] = Field(
        default="auto",
        title="ZeRO stage",
        description="auto: 0 on one device, 2 on several, 3 where a device cannot hold the weights.",
    )
    price_per_device_hour: float = Field(default=0.0, ge=0, title="Price", description="USD for one device and hour.")
    watts_per_device: float = Field(
        default=0.0, ge=0, title="Power", description="Watts of one device under load. 0: 65 for a CPU, 700 for a GPU."
    )
