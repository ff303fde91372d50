"""From a template and values to one HTML file: no script, nothing loaded from anywhere."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.reporting import facts, wording


def fill_page(template: str, figures: Mapping[str, tuple[str, str]], **values: Any) -> str:
    """A page of this folder's templates.

    Args:
        template: name of its file.
        figures: name -> (SVG, its finding in words); the words inside an SVG were escaped when it was drawn.
        values: what else the template uses.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"json": _json}
    drawn = {name: {"svg": Markup(svg), "finding": finding} for name, (svg, finding) in figures.items()}  # noqa: S704
    return pages.get_template(template).render(w=wording, facts=facts, figures=drawn, **values)


def _json(value: object) -> str:
    import json

    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
