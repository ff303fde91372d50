"""Options of training that do not go together are refused before anything runs."""

from typing import Any

import pytest

from flows.check_request import _request
from flows.request import FinetuneRequest
from tasks.errors import RequestError


def asked(validation: float = 0.1, **training: Any) -> FinetuneRequest:
    data = {"source": "rows.jsonl", "splitting": {"validation": validation}}
    return FinetuneRequest.model_validate({"name": "a", "base_model": {"uri": "b"}, "data": data, "training": training})


def test_what_goes_together_passes() -> None:
    stopping, advanced = {"patience": 3, "min_delta": 0.01}, {"schedule": "wsd", "decay_share": 0.3, "neftune_alpha": 5.0}
    assert _request(asked(early_stopping=stopping, advanced=advanced, deterministic=True)) == "they do"


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (asked(0.0, early_stopping={"patience": 3}), "early_stopping.patience is set, but data.splitting.validation is 0"),
        (asked(advanced={"decay_share": 0.3}), "decay_share is 0.3, but the schedule cosine has none"),
    ],
)
def test_what_does_not_is_refused(request_: FinetuneRequest, problem: str) -> None:
    with pytest.raises(RequestError, match=problem):
        _request(request_)
