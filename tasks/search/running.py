"""The loop of a search: ask, run as many as may run, tell."""

from collections.abc import Callable, Sequence

from tasks.contracts import Trial
from tasks.search.space import Space
from tasks.search.strategies import Proposer
from tasks.search.study import Proposal, pending


def run_trials(
    strategy: Proposer,
    space: Space,
    told: Sequence[Trial],
    *,
    trials: int,
    parallel: int,
    seed: int,
    start: Callable[[Proposal], None],
    ended: Callable[[], Sequence[Trial]],
) -> list[Trial]:
    """Every trial of a search, those told before among them.

    Args:
        strategy: what proposes.
        space: what varies.
        told: trials of an earlier start of the same search.
        trials: how many in all.
        parallel: how many at a time.
        seed: of the proposals.
        start: starts a trial.
        ended: waits until at least one trial that was started has ended; those.
    """
    known, under_way = list(told), set[int]()
    while True:
        waiting = pending(strategy, space, known, trials=trials, parallel=parallel, seed=seed)
        for proposal in waiting:
            if proposal.number not in under_way and len(under_way) < parallel:
                under_way.add(proposal.number)
                start(proposal)
        if not under_way:
            return known
        for trial in ended():
            under_way.discard(trial.number)
            known.append(trial)
