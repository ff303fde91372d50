"""The page on prepared data: one HTML file that says what became of every row and of every token."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from tasks.contracts import PreparedData
from tasks.reporting import data_facts, figures
from tasks.reporting.pages import fill_page

_MOST_QUARANTINED = 20


def render(
    name: str,
    data: PreparedData,
    request: BaseModel,
    quarantine_examples: Sequence[Mapping[str, Any]] = (),
    *,
    tokens_page: str = "",
    run_id: str = "",
    generated_at: str = "",
) -> str:
    """The page as one HTML file: no script, nothing loaded from anywhere.

    Args:
        name: of the run.
        data: what preparing gave.
        request: what was asked.
        quarantine_examples: some dropped rows, as dicts of the quarantine's columns; the first 20 are shown.
        tokens_page: relative address of the page that shows rows token by token; "": no link.
        run_id: of the run in MLflow; "": none.
        generated_at: when, in words; "": left out.
    """
    asked, unchanged = data_facts.asked(request)
    return fill_page(
        "data_page.html", figures.of_data(data), d=data_facts, data=data, name=name, run_id=run_id,
        title=f"{name}: data", asked=asked, unchanged=unchanged, knows_defaults=True,
        request=request.model_dump(mode="json"), quarantined=list(quarantine_examples)[:_MOST_QUARANTINED],
        tokens_page=tokens_page, generated_at=generated_at,
    )  # fmt: skip
