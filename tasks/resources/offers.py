"""What devices cost to rent, what they can do, and how much CO2 a region's electricity makes: from a dated list."""

from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tasks.errors import RequestError, unknown_name
from tasks.resources.hardware import Machine

_OWN = Path(__file__).with_name("offers.yaml")
_CORES_PER_DEVICE, _HOST_GIB_PER_DEVICE = 12, 128.0  # of rented machines, about


class Offer(BaseModel):
    """A device that can be rented."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    memory_gib: float = Field(gt=0)
    teraflops: float = Field(gt=0)  # dense bf16, or fp32 where there is none
    watts: float = Field(gt=0)
    bf16: bool = True
    on_demand: float = Field(ge=0)  # USD for one device and hour
    spot: float = Field(ge=0)  # the same where it may be taken away
    counts: tuple[int, ...] = (1,)  # devices of one machine
    matches: str = ""  # a pattern of what the driver calls it
    host_gib: float = Field(default=_HOST_GIB_PER_DEVICE, gt=0)  # main memory for each device

    def machine(self, count: int) -> Machine:
        """A machine with so many of them."""
        cores = _CORES_PER_DEVICE * count
        return Machine("cuda", self.name, count, self.memory_gib, cores, self.bf16, self.host_gib * count)


class PriceList(BaseModel):
    """All offers, and grams of CO2 a kilowatt-hour by region."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dated: str
    devices: tuple[Offer, ...] = Field(min_length=1)
    regions: dict[str, float] = Field(min_length=1)

    def of(self, device_name: str) -> Offer | None:
        """The offer of the device that the driver calls so."""
        fits = (each for each in self.devices if each.name == device_name or fnmatch(device_name, f"*{each.matches}*"))
        return next((each for each in fits if each.matches or each.name == device_name), None)

    def grams(self, region: str) -> float:
        """Grams of CO2 a kilowatt-hour.

        Raises:
            RequestError: the list has no such region.
        """
        if region not in self.regions:
            raise RequestError(unknown_name("resources.region", region, self.regions))
        return self.regions[region]


@lru_cache(maxsize=4)
def read_offers(path: str = "") -> PriceList:
    """The price list in `path`, or the one that comes with tuneflow.

    Raises:
        RequestError: it is no such list.
    """
    file = Path(path) if path else _OWN
    try:
        return PriceList.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise RequestError(f"resources.offers: {file}: {place}: {problem['msg']}. Take {_OWN} as a pattern.") from error
    except (OSError, yaml.YAMLError) as error:
        raise RequestError(f"resources.offers: {file} cannot be read as YAML: {error}.") from error
