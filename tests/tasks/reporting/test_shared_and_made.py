"""The page on data says which rows went for shared text, and which were made from others."""

from typing import Any

from tasks.contracts import Count, FinetuneResult
from tasks.reporting import data_facts
from tasks.reporting.data_page import render


def test_leaked_and_synthetic_rows_are_shown(released: FinetuneResult, request_dict: dict[str, Any]) -> None:
    from flows.request import FinetuneRequest

    data = released.data
    splits = data.splits.model_copy(
        update={
            "dropped": (Count(reason="leaks_into_test", rows=30), Count(reason="leaks_into_validation", rows=1)),
            "quarantine_uri": "cache/split/quarantine", "synthetic": 100,
            "not_taken": (Count(reason="exact_duplicate", rows=7),),
        }
    )  # fmt: skip
    more = data.model_copy(update={"splits": splits})
    assert more.ledger.kept == data.ledger.kept - 31 + 100
    assert more.ledger.synthetic == 100
    assert "3,000 rows in, 100 synthetic, 2,809 kept, 291 dropped" in data_facts.headline(more)
    said = data_facts.remarks(more)
    assert "31 rows went since they share text with held-out rows." in said
    assert said[-1].startswith("100 training rows (4.3%) were made from others: nothing shows that this helps")
    page = " ".join(render("a", more, FinetuneRequest.model_validate(request_dict), ()).split())
    for text in (
        "Leaks into test: 30 rows left out.", "Leaks into validation: 1 row left out.", "cache/split/quarantine",
        "100 training rows were made from others (4.3% of them all).", "Made and not added: exact duplicate 7.",
    ):  # fmt: skip
        assert text in page
    assert "were made from others" not in " ".join([data_facts.headline(data), *data_facts.remarks(data)])
