"""What can be asked of the search stage."""

from typing import Literal

from pydantic import ConfigDict, Field

from tasks.contracts import Spec


class NoSearch(Spec):
    """Train with the settings of the request."""

    model_config = ConfigDict(title="None")

    kind: Literal["none"] = "none"


class SearchSpec(Spec):
    """How settings are searched."""

    strategy: NoSearch = Field(default_factory=NoSearch, title="Strategy")
