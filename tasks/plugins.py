"""Adapters that others bring: found by a dotted path, or by the name under which a package announces them."""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

import yaml

from tasks.errors import RequestError

GROUP = "tuneflow.methods"


def adapter_class(name: str) -> Any:
    """The class that `name` means: `package.module:Class`, or an entry point of the group tuneflow.methods.

    Raises:
        RequestError: there is none.
    """
    if ":" not in name:
        known = {point.name: point for point in entry_points(group=GROUP)}
        if name not in known:
            raise RequestError(
                f"No installed package announces an adapter {name!r} in the group {GROUP} (found: "
                f"{', '.join(sorted(known)) or 'none'}). "
                f"Install it, or give its path, e.g. my_package.adapters:MyAdapter."
            )
        return known[name].load()
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, ValueError) as error:
        raise RequestError(
            f"The module of the adapter {name!r} cannot be imported: {error}. Install it where training runs."
        ) from error
    except AttributeError as error:
        raise RequestError(f"The module {module} has no {attribute!r}, so the adapter {name!r} is not there.") from error


def as_mapping(text: str) -> dict[str, Any]:
    """YAML or JSON text as a mapping; empty text is an empty one.

    Raises:
        ValueError: it is something else.
    """
    try:
        content = yaml.safe_load(text) if text.strip() else {}
    except yaml.YAMLError as error:
        raise ValueError(f"is neither YAML nor JSON: {error}") from error
    if not isinstance(content, Mapping) or not all(isinstance(key, str) for key in content):
        raise ValueError(f"holds {text[:40]!r}, expected names with values, e.g. {{peft_type: IA3, target_modules: [k_proj]}}")
    return dict(content)
