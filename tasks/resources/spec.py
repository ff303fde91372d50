"""What can be asked of the machine."""

from typing import Annotated, Literal

from pydantic import Field

from tasks.contracts import Spec

AllDevices = Annotated[Literal["auto"], Field(title="All there are")]
SomeDevices = Annotated[int, Field(title="So many", json_schema_extra={"minimum": 1, "maximum": 1024})]


class ResourceSpec(Spec):
    """Devices, precision and prices."""

    devices: AllDevices | SomeDevices = Field(
        default="auto",
        title="Devices",
        description="All there are (auto): every GPU, or one CPU process where there is none. So many: processes, 1 to 1024.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", title="Precision", description="auto: bf16 on GPUs that have it, else fp32."
    )
    zero_stage: Literal["auto", 0, 1, 2, 3] = Field(
        default="auto",
        title="ZeRO stage",
        description="auto: 0 on one device, 2 on several, 3 where a device cannot hold the weights.",
    )
    price_per_device_hour: float = Field(
        default=0.0,
        ge=0,
        title="Price",
        description="USD for one device and hour, 0 or more; for the forecast of what the run costs.",
    )
    watts_per_device: float = Field(
        default=0.0,
        ge=0,
        title="Power",
        description="Watts of one device under load, 0 or more. 0: 65 for a CPU, 700 for a GPU.",
    )
