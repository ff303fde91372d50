"""The search stage's steps: where trials run, and what is kept of them."""

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import FlowRun

from tasks.contracts import ModelRef, RunContext, SearchResult, TokenizedDataset, Trial, digest_of
from tasks.orchestration.steps import Children, children, is_deployed
from tasks.records import keep, recall_if_known
from tasks.search.running import run_trials
from tasks.search.space import Space
from tasks.search.spec import SearchSpec
from tasks.search.study import Proposal, conclude, summarize, tabulate
from tasks.steps import store_of

log = logging.getLogger("tuneflow")
_DEPLOYMENT = "train-trial/train-trial"
_AGAIN = 1  # a trial whose process died is started once more


def trial_kind(asked: Mapping[str, Any], base: ModelRef, data: TokenizedDataset) -> str:
    """Under which name a trial is kept in the run's record: by all that it depends on, so that no other search finds it."""
    return f"trials/{digest_of([asked, base.sha256, data.sha256])[:16]}"


@dataclass(frozen=True)
class Subject:
    """What trials are made of.

    Attributes:
        run: whose search.
        request_of: what the flow train-trial is told for a proposal, as JSON.
        kind_of: under which name such a trial is kept in the run's record.
        here: runs one trial in this process.
    """

    run: RunContext
    request_of: Callable[[Proposal], dict[str, Any]]
    kind_of: Callable[[dict[str, Any]], str]
    here: Callable[[dict[str, Any]], object]

    def kept(self, proposal: Proposal) -> Trial | None:
        """The trial's outcome, where there is one."""
        return recall_if_known(store_of(self.run), self.run.name, self.kind_of(self.request_of(proposal)), Trial)

    def keep(self, proposal: Proposal, trial: Trial) -> Trial:
        """Keep an outcome for the trial's process, which could not."""
        keep(store_of(self.run), self.run.name, self.kind_of(self.request_of(proposal)), trial)
        return trial


def search(subject: Subject, spec: SearchSpec, space: Space, seed: int) -> SearchResult:
    """Run every trial, on the pool `gpu` where this run is a deployment's, else one after another here; then choose."""
    log.info("%s", space.reason)
    with children() as family:
        place = _Pool(subject, family) if is_deployed() else _Here(subject)
        trials = run_trials(
            spec.strategy, space, (), trials=spec.trials, parallel=spec.parallel if is_deployed() else 1, seed=seed,
            start=place.start, ended=place.ended,
        )  # fmt: skip
    result = conclude(spec, space, trials)
    log.info("%s", summarize(result))
    create_markdown_artifact(tabulate(result), key=f"search-{subject.run.name}", description=summarize(result))
    return result


class _Here:
    """Trials one after another in this process."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._waiting: deque[Proposal] = deque()

    def start(self, proposal: Proposal) -> None:
        self._waiting.append(proposal)

    def ended(self) -> list[Trial]:
        proposal = self._waiting.popleft()
        if self._subject.kept(proposal) is None:
            self._subject.here(self._subject.request_of(proposal))
        trial = self._subject.kept(proposal)
        assert trial is not None
        return [trial]


class _Pool:
    """Trials as flow runs on a work pool, several at a time."""

    def __init__(self, subject: Subject, family: Children) -> None:
        self._subject, self._family = subject, family
        self._proposals: dict[UUID, Proposal] = {}
        self._over: list[Trial] = []
        self._tries: dict[int, int] = {}
        self._crashes: dict[int, int] = {}

    def start(self, proposal: Proposal) -> None:
        if (trial := self._subject.kept(proposal)) is not None:
            self._over.append(trial)
            return
        parameters = {"request": self._subject.request_of(proposal)}
        run = self._family.start(_DEPLOYMENT, parameters, self._tries.get(proposal.number, 0))
        while run.state and run.state.is_final():  # it ended badly in an earlier start of this search
            self._tries[proposal.number] = self._tries.get(proposal.number, 0) + 1
            run = self._family.start(_DEPLOYMENT, parameters, self._tries[proposal.number])
        self._proposals[run.id] = proposal

    def ended(self) -> list[Trial]:
        while not self._over:
            for run in self._family.ended():
                self._settle(run, self._proposals.pop(run.id))
            if not self._over:
                time.sleep(1.0)
        over, self._over = self._over, []
        return over

    def _settle(self, run: FlowRun, proposal: Proposal) -> None:
        if (trial := self._subject.kept(proposal)) is not None:
            self._over.append(trial)
            return
        message = (run.state.message if run.state else "") or "it left no message"
        crashed = bool(run.state and run.state.is_crashed())
        self._crashes[proposal.number] = self._crashes.get(proposal.number, 0) + crashed
        if crashed and self._crashes[proposal.number] <= _AGAIN:
            log.warning("trial %d crashed (%s); starting it once more", proposal.number, message)
            self.start(proposal)
            return
        what = "infrastructure" if crashed else str(run.state.name if run.state else "unknown").lower()
        failed = Trial(
            number=proposal.number, settings=proposal.settings, objectives=(), status="failed",
            seconds=run.estimated_run_time.total_seconds(), reason=f"{what}: {message}",
        )  # fmt: skip
        log.warning("trial %d failed: %s", failed.number, failed.reason)
        self._over.append(self._subject.keep(proposal, failed))
