"""A base model without its weights: every layer in its shape, none of its memory."""

from functools import lru_cache
from typing import Any

from tasks.contracts import ModelRef


def skeleton(base: ModelRef) -> Any:
    """The model of `base` on the meta device. It is shared: do not change it."""
    return _built(base.location, base.sha256, base.trust_remote_code)


def fresh_skeleton(base: ModelRef) -> Any:
    """Another one, which may be changed."""
    return _built.__wrapped__(base.location, base.sha256, base.trust_remote_code)


@lru_cache(maxsize=4)
def _built(location: str, _sha256: str, trust_remote_code: bool) -> Any:
    from tasks.models import without_weights

    return without_weights(location, trust_remote_code)
