"""Great Expectations behind two plain functions: rules over a frame in, counts out; nothing is printed."""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, Any

from tasks.errors import StageError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Rule:
    """One expectation on one column: a snake-case name of Great Expectations without `expect_`, and its arguments."""

    name: str
    column: str
    kind: str
    arguments: Mapping[str, Any]


class Suite:
    """Rules, built once for any number of frames."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        with _silence():
            import great_expectations as gx

            context = _context()
            self.rules, name = tuple(rules), f"rules {next(_numbers)}"
            self._suite = context.suites.add(gx.ExpectationSuite(name))
            for rule in rules:
                expectation = getattr(gx.expectations, _class_name(rule.kind))
                self._suite.add_expectation(expectation(column=rule.column, meta={"rule": rule.name}, **rule.arguments))
            asset = context.data_sources.add_pandas(name).add_dataframe_asset("rows")
            self._batches = asset.add_batch_definition_whole_dataframe("all")

    def count_unexpected(self, frame: "pd.DataFrame") -> dict[str, tuple[int, list[int]]]:
        """For each rule how many rows break it, and the positions of the first of them.

        Args:
            frame: a pandas frame with the rules' columns.

        Raises:
            StageError: a rule could not be computed, which is no finding about the data.
        """
        with _silence():
            batch = self._batches.get_batch(batch_parameters={"dataframe": frame})
            outcome = batch.validate(self._suite, result_format=_FORMAT)
        by_rule = {result.expectation_config.meta["rule"]: result for result in outcome.results}
        for name, result in by_rule.items():
            _refuse_exception(name, result.exception_info)
        found = {rule.name: by_rule[rule.name].result for rule in self.rules}
        return {
            name: (int(result.get("unexpected_count", 0)), list(result.get("partial_unexpected_index_list") or []))
            for name, result in found.items()
        }


def count_unexpected(frame: "pd.DataFrame", rules: Sequence[Rule]) -> dict[str, tuple[int, list[int]]]:
    """What `Suite.count_unexpected` says of one frame alone."""
    return Suite(rules).count_unexpected(frame)


def passes(frame: "pd.DataFrame", rules: Sequence[Rule]) -> dict[str, bool]:
    """For each rule whether the frame satisfies it."""
    return {name: count == 0 for name, (count, _) in count_unexpected(frame, rules).items()}


@lru_cache(maxsize=1)
def _context() -> Any:
    """One context a process: Great Expectations takes the last one made for that of every suite."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    return context


_numbers = count()  # suites and data sources have names that differ
_FORMAT = {"result_format": "SUMMARY", "partial_unexpected_count": 5}


def _class_name(kind: str) -> str:
    return "Expect" + "".join(word.capitalize() for word in kind.split("_"))


def _refuse_exception(rule: str, information: Mapping[str, Any]) -> None:
    """An exception inside a rule looks like a failed check, so it is looked for apart."""
    entries = [information] if "raised_exception" in information else list(information.values())
    raised = [entry for entry in entries if entry.get("raised_exception")]
    if raised:
        raise StageError(f"The check {rule} could not be computed: {raised[0].get('exception_message')}")


@contextmanager
def _silence() -> Iterator[None]:
    logger = logging.getLogger("great_expectations")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
