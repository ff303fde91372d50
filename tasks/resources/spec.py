"""What can be asked of the machine."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tasks.contracts import Spec, Switch, Value

AllDevices = Annotated[Literal["auto"], Field(title="All there are")]
SomeDevices = Annotated[int, Field(title="So many", json_schema_extra={"minimum": 1, "maximum": 1024})]


class ResourceSpec(Spec):
    """Devices, precision, memory and prices."""

    devices: AllDevices | SomeDevices = Field(
        default="auto",
        title="Devices",
        description="Of each machine. All there are (auto): every GPU, or one CPU process where there is none. So many: "
        "processes, 1 to 1024.",
    )
    nodes: int = Field(
        default=0,
        ge=0,
        le=1024,
        title="Machines",
        description="How many like this one train together, 0 to 1024. 0: as many as hosts are named, else this one.",
    )
    least_nodes: int = Field(
        default=0,
        ge=0,
        le=1024,
        title="Least machines",
        description="With fewer than these training waits for machines that were lost, 0 to 1024. 0: one is enough to go on.",
    )
    hosts: list[str] = Field(
        default_factory=list,
        title="Hosts",
        description="Names of the machines that train together, as ssh knows them. None: this one.",
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", title="Precision", description="auto: bf16 on GPUs that have it, else fp32."
    )
    zero_stage: Literal["auto", 0, 1, 2, 3] = Field(
        default="auto",
        title="ZeRO stage",
        description="auto: 0 on one device, 2 on several, 3 where the weights must be divided.",
    )
    tensor_parallel: int = Field(
        default=1,
        ge=1,
        le=64,
        title="Tensor parallelism",
        description="Devices of one machine that divide each linear layer of the model among them, 1 to 64. 1: each holds the "
        "whole model. For method full.",
    )
    offload: Literal["auto", "none", "cpu", "nvme"] = Field(
        default="auto",
        title="Offload",
        description="Where the optimizer's states lie, and under ZeRO 3 the weights: on the GPU (none), in main memory or on "
        "a fast disk, which takes longer. auto: off the GPU where nothing else fits.",
    )
    offload_folder: str = Field(
        default="", title="Offload folder", description="A folder on a fast local disk, for the offload nvme alone."
    )
    probe: Switch = Field(
        default="auto",
        title="Probe",
        description="Try some passes before training, to find the micro-batch that fits and is fastest, and the speed. auto: "
        "on GPUs alone.",
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
        description="Watts of one device under load, 0 or more. 0: what the price list says of it, else 65 for a CPU and 700 "
        "for a GPU.",
    )
    region: str = Field(
        default="world",
        min_length=1,
        title="Region",
        description="Whose electricity is used, for the forecast of CO2: a name of the price list, such as world, eu or us.",
    )
    offers: str = Field(
        default="",
        title="Price list",
        description="A YAML file with the prices of devices and the CO2 of regions. Empty: the one that comes with tuneflow.",
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.nodes and self.hosts and self.nodes != len(self.hosts):
            raise ValueError(f"nodes is {self.nodes}, but {len(self.hosts)} hosts are named; leave one of them out")
        if len(set(self.hosts)) < len(self.hosts):
            raise ValueError("hosts names a host twice")
        if self.least_nodes > self.machines:
            raise ValueError(f"least_nodes is {self.least_nodes}, but {self.machines} machine(s) train; name more hosts")
        if self.offload == "nvme" and not self.offload_folder:
            raise ValueError("offload nvme needs offload_folder, a folder on a fast local disk")
        if self.offload_folder and self.offload in ("none", "cpu"):
            raise ValueError(f"offload_folder is for the offload nvme, and offload is {self.offload}; leave it out")
        return self

    @property
    def machines(self) -> int:
        """How many machines train."""
        return self.nodes or len(self.hosts) or 1


class Workload(Value):
    """What a training computes, as its own stage knows it."""

    batch_size: int = Field(ge=1)  # rows of an optimizer step
    micro_batch_size: int = Field(default=0, ge=0)  # rows of a pass; 0: automatic
    longest: int = Field(ge=1)  # tokens of the longest row
    tokens: int = Field(ge=1)  # positions of the whole training, padding included
    validated: int = Field(default=0, ge=0)  # positions of all validations
    supervised: float = Field(default=1.0, ge=0, le=1)  # share of the positions that are learned
    checkpointing: Switch = "auto"
    moment_bytes: int = Field(default=8, ge=1)  # of the optimizer's two moments, for each weight that learns
    reasons: tuple[str, ...] = ()  # sentences of the choices made there
