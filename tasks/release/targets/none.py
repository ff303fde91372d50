"""The target `none`: the released model is a folder and a registered version; nothing is served."""

from typing import Literal

from pydantic import ConfigDict

from tasks.contracts import Spec


class NoTarget(Spec):
    """Serve nothing."""

    model_config = ConfigDict(title="None")

    kind: Literal["none"] = "none"
