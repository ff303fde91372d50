"""The repairs of a shard's turns, in their order, and what each of them changed."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tasks.data import markup, pii, presidio
from tasks.data.repairs import repair
from tasks.data.shards import Mask, Turns
from tasks.data.spec import CleaningSpec

if TYPE_CHECKING:
    import polars as pl
    from numpy.typing import NDArray

_BEFORE = ("repair_encoding", "strip_control")  # markup is looked for in text that can be read
_AFTER = ("unescape_newlines", "strip_whitespace")
REPAIRS = (*_BEFORE, "strip_html", *_AFTER, *(f"redact_{kind}" for kind in presidio.ENTITIES))


@dataclass(frozen=True)
class Mended:
    """The turns after their repairs; for each repair which of them it changed."""

    turns: Turns
    changed: Mapping[str, Mask]


def makes(spec: CleaningSpec, repair_name: str) -> bool:
    """Whether a repair of REPAIRS is made."""
    kind = repair_name.removeprefix("redact_")
    if kind != repair_name:
        return spec.personal_data == "redact" and kind in spec.personal_kinds
    return spec.html == "strip" if repair_name == "strip_html" else bool(getattr(spec, repair_name))


def mend(turns: Turns, spec: CleaningSpec, source: "NDArray[np.int64]", escaped: Collection[int]) -> Mended:
    """Make the repairs that `spec` names.

    Args:
        turns: of a shard.
        spec: which repairs.
        source: of each row, the number of its source.
        escaped: the sources whose line breaks were written as backslash and n.
    """
    texts, changed = repair(turns.content, [name for name in _BEFORE if getattr(spec, name)])
    if spec.html == "strip":
        import polars as pl

        texts, changed["strip_html"] = markup.strip_html(texts, pl.Series(turns.row))
    names = [name for name in _AFTER if getattr(spec, name) and (escaped or name != "unescape_newlines")]
    texts, more = repair(texts, names, {"unescape_newlines": _in_sources(turns, source, escaped)})
    changed |= more
    if spec.personal_data == "redact":
        texts, more = redacted(texts, spec)
        changed |= {f"redact_{kind}": mask for kind, mask in more.items()}
    masks = {name: np.asarray(mask.to_numpy(), dtype=np.bool_) for name, mask in changed.items()}
    return Mended(turns.with_content(texts), masks)


def _in_sources(turns: Turns, source: "NDArray[np.int64]", chosen: Collection[int]) -> "pl.Series":
    import polars as pl

    return pl.Series(np.isin(source, list(chosen))[turns.row])


def redacted(texts: "pl.Series", spec: CleaningSpec) -> tuple["pl.Series", dict[str, "pl.Series"]]:
    """The texts with [EMAIL], [PHONE], ... in place of personal data, and for each kind which texts changed.

    Raises:
        RequestError: names are to be found, and Presidio or its model is not installed.
    """
    if spec.names_model:
        return presidio.presidio_redact(texts, spec.personal_kinds, model=spec.names_model)
    return pii.redact(texts, spec.personal_kinds)


def personal(texts: "pl.Series", spec: CleaningSpec) -> dict[str, "pl.Series"]:
    """For each kind of personal data, how many each text holds.

    Raises:
        RequestError: names are to be found, and Presidio or its model is not installed.
    """
    if spec.names_model:
        return presidio.presidio_find(texts, spec.personal_kinds, model=spec.names_model)
    return pii.find(texts, spec.personal_kinds)
