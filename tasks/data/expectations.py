"""Great Expectations behind two plain functions: rules over a frame in, counts out; nothing is printed."""

import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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


def count_unexpected(frame: "pd.DataFrame", rules: Sequence[Rule]) -> dict[str, tuple[int, list[int]]]:
    """For each rule how many rows break it, and the positions of the first of them.

    Args:
        frame: a pandas frame with the rules' columns.
        rules: what every row must satisfy.

    Raises:
        StageError: a rule could not be computed, which is no finding about the data.
    """
    results = _run(frame, rules)
    found = {}
    for rule, result in zip(rules, results, strict=True):
        found[rule.name] = (
            int(result.get("unexpected_count", 0)),
            list(result.get("partial_unexpected_index_list") or []),
        )
    return found


def passes(frame: "pd.DataFrame", rules: Sequence[Rule]) -> dict[str, bool]:
    """For each rule whether the frame satisfies it."""
    return {name: count == 0 for name, (count, _) in count_unexpected(frame, rules).items()}


def _run(frame: "pd.DataFrame", rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """One suite over one frame; a result a rule, in their order."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    with _silence():
        import great_expectations as gx

        context = gx.get_context(mode="ephemeral")
        context.variables.progress_bars = {"globally": False, "metric_calculations": False}
        suite = context.suites.add(gx.ExpectationSuite("rules"))
        for rule in rules:
            expectation = getattr(gx.expectations, _class_name(rule.kind))
            suite.add_expectation(expectation(column=rule.column, meta={"rule": rule.name}, **rule.arguments))
        asset = context.data_sources.add_pandas("frame").add_dataframe_asset("rows")
        batch = asset.add_batch_definition_whole_dataframe("all")
        definition = context.validation_definitions.add(gx.ValidationDefinition(name="run", data=batch, suite=suite))
        outcome = definition.run(batch_parameters={"dataframe": frame}, result_format=_FORMAT)
    by_rule = {result.expectation_config.meta["rule"]: result for result in outcome.results}
    for name, result in by_rule.items():
        _refuse_exception(name, result.exception_info)
    return [by_rule[rule.name].result for rule in rules]


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
