"""What can be asked of the maintenance stage, and what it tells."""

from typing import Literal

from pydantic import ConfigDict, Field

from tasks.contracts import Spec, Value

Kind = Literal["run", "checkpoint", "cache", "partial", "unfinished", "copy"]
HOUR, DAY, GIB = 3_600.0, 86_400.0, 2**30


class MaintenanceSpec(Spec):
    """What is old enough to go. Without `dry_run: false` nothing is removed."""

    model_config = ConfigDict(title="Clean a workspace")

    dry_run: bool = Field(
        default=True, title="Dry run", description="On: only say what would be removed. Off: remove it. There is no way back."
    )
    runs_days: int = Field(
        default=0, ge=0, le=36_500, title="Runs",
        description="Days without activity after which the folder of a run goes, 1 to 36500. 0: keep all.",
    )  # fmt: skip
    checkpoints_days: int = Field(
        default=30, ge=0, le=36_500, title="Checkpoints",
        description="Days without a change after which the checkpoints of an unfinished training go, 1 to 36500. 0: keep all.",
    )  # fmt: skip
    cache_days: int = Field(
        default=90, ge=0, le=36_500, title="Cache, age",
        description="Days since its last use after which a cached result goes, 1 to 36500. 0: keep all.",
    )  # fmt: skip
    cache_gib: float = Field(
        default=0.0, ge=0, le=1_000_000, title="Cache, size",
        description="GiB that cached results may take, up to 1000000; the least recently used go first. 0: no limit.",
    )  # fmt: skip
    unfinished_hours: int = Field(
        default=24, ge=0, le=876_000, title="Remains",
        description="Hours without a change after which the remains of killed processes and the local copies of a remote "
        "store go, 1 to 876000. 0: keep all.",
    )  # fmt: skip
    store: str = Field(
        default="", title="Store block", description="Name of the store block whose cache is cleaned. Empty: the workspace's."
    )


class Item(Value):
    """One folder that has been looked at.

    `key` is relative to the store for the kinds cache and partial, else to the workspace. `bytes` is what its removal frees:
    a file that has another hard link, as an export in `models/`, counts 0. `reason` says why it goes, or, where a sweep could
    not remove it, why it stayed; "" stands for a folder that nothing speaks against.
    """

    key: str
    kind: Kind
    bytes: int = Field(ge=0)
    last_used: float  # seconds since 1970
    reason: str = ""
    removed: bool = False


class Kept(Value):
    """How many folders of a kind stay, and their bytes."""

    kind: Kind
    count: int = Field(ge=0)
    bytes: int = Field(ge=0)


class RetentionPlan(Value):
    """What is to go, in the order of removal, what stays, and what one should know besides."""

    items: tuple[Item, ...]
    kept: tuple[Kept, ...]
    notes: tuple[str, ...] = ()


class MaintenanceReport(Value):
    """What went or, in a dry run, would go; `bytes_freed` accordingly."""

    workspace: str
    store: str
    dry_run: bool
    items: tuple[Item, ...]
    kept: tuple[Kept, ...]
    notes: tuple[str, ...] = ()
    bytes_freed: int = Field(ge=0)
