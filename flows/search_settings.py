"""Prepared data in, the best settings out: ask, train trials, tell."""

from prefect import flow

from flows.chains import base_of, data_of
from flows.stage_requests import SearchRequest, TrainRequest, TrialRequest, TrialSetting
from flows.train_model import train_trial
from tasks.contracts import RunContext, SearchResult
from tasks.orchestration.steps import stoppable
from tasks.records import recall
from tasks.reporting.steps import keep_value, opened_stage
from tasks.search.checks import demand_possible
from tasks.search.space import apply, make_space
from tasks.search.spec import choose_steps
from tasks.search.steps import Subject, search, trial_kind
from tasks.search.study import Proposal
from tasks.steps import store_of
from tasks.training.schedule import expected_rows, total_steps


@flow(name="search-settings", flow_run_name="search {request.run}")
@stoppable
def search_settings(request: SearchRequest) -> SearchResult:
    """Train trials with different settings on a run's prepared data, and choose the best.

    Args:
        request: which run, what to train, and what may vary.
    """
    with opened_stage(request.run, request, request.store) as run:
        base, data = base_of(run), data_of(run).tokenized
        demand_possible(request.search, request.method, request.training, base, data.validation.sequences)
        space = make_space(request.search.space, request.method, request.training, base)
        steps, _ = choose_steps(request.search.steps, total_steps(request.training, expected_rows(request.training, data)))
        subject = Subject(
            run=run, request_of=lambda proposal: _trial(request, proposal, steps),
            kind_of=lambda asked: trial_kind(asked, base, data),
            here=lambda asked: train_trial(TrialRequest.model_validate(asked)),
        )  # fmt: skip
        return keep_value(run, "search", search(subject, request.search, space, request.seed))


def _trial(request: SearchRequest, proposal: Proposal, steps: int) -> dict[str, object]:
    part = request.model_dump(exclude={"search"})
    settings = [TrialSetting(path=path, value=value) for path, value in proposal.settings.items() if value is not None]
    asked = TrialRequest.model_validate({**part, "number": proposal.number, "steps": steps, "settings": settings})
    return asked.model_dump(mode="json")


def settings_for(run: RunContext, request: SearchRequest) -> tuple[SearchResult | None, TrainRequest]:
    """What to train with: the request's own settings, or the best that a search found where one is asked for."""
    found = None
    part = request.model_dump(exclude={"search"})
    training = TrainRequest.model_validate(part)
    if request.search.strategy.kind != "none":
        search_settings(request)
        found = recall(store_of(run), run.name, "search", SearchResult)
        method, spec = apply(found.best.settings, request.method, request.training)
        training = training.model_copy(update={"method": method, "training": spec})
    return found, training
