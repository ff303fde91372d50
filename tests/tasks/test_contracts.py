"""Values: frozen, strict, whole after a round trip, and identified by what matters."""

import hashlib
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks import contracts
from tasks.contracts import (
    Check,
    CheckReport,
    Count,
    EvaluationReport,
    Forecast,
    HardwarePlan,
    Ledger,
    ModelRef,
    RunContext,
    Score,
    Spec,
    Speed,
    TrainedModel,
    Value,
    Verdict,
    digest_of,
)

SHA = "0" * 64
BASE = ModelRef(
    uri="models/tiny", location="/models/tiny", sha256="b" * 64, parameters=10, architecture="Llama", max_positions=8,
    vocabulary=4, bytes=40, hidden_size=2, layers=1,
)  # fmt: skip
PLAN = HardwarePlan(
    accelerator="cpu", device_name="a CPU", devices=1, backend="gloo", threads=2, zero_stage=0, micro_batch=4,
    accumulation=2, precision="fp32", activation_checkpointing=False, memory_gib=1.0, hours=0.5, cost_usd=0.0,
    energy_kwh=0.1, reasons=("because",),
)  # fmt: skip
MODEL = TrainedModel(
    uri="/cache/train/1/model", sha256="c" * 64, base=BASE, data_sha256=SHA, tokenizer_uri="/t", adapter=True,
    method="lora", settings={"seed": 0}, plan=PLAN, seed=0, steps=3, tokens=9, trainable_parameters=4, best_step=3,
    train_loss=1.0, validation_loss=None, seconds=2.0, resumed_from=0, history_uri="/h",
    forecast=Forecast(
        predicted_memory_gib=1, actual_memory_gib=1, predicted_hours=1, actual_hours=1, predicted_cost_usd=0, actual_cost_usd=0
    ),
)  # fmt: skip
SCORE = Score(model="tuned", benchmark="held_out", metric="loss", value=1.0, low=0.9, high=1.1, n=5, higher_is_better=False)
REPORT = EvaluationReport(
    model_sha256=SHA, data_sha256=SHA, scores=(SCORE,), comparisons=(), verdict=Verdict(status="pass", reasons=("better",)),
    items_uri="/items", confidence=0.95, seconds=3.0,
)  # fmt: skip

FAMILY = sorted(
    (item for item in vars(contracts).values() if isinstance(item, type) and issubclass(item, Value) and item is not Value),
    key=lambda member: member.__name__,
)


@pytest.mark.parametrize("member", FAMILY, ids=lambda member: member.__name__)
def test_every_value_comes_back_from_json_as_it_went(member: type[Value]) -> None:
    @settings(max_examples=10, deadline=None)
    @given(value=_values(member))
    def comes_back(value: Value) -> None:
        again = member.model_validate_json(value.model_dump_json())
        assert again == value
        assert again.identity() == value.identity()

    comes_back()


def _values(model: type[Value]) -> st.SearchStrategy[Value]:
    """Values of a contract, drawn from its annotations; a ledger is drawn so that it balances."""
    if model is Ledger:
        return st.builds(_ledger, st.lists(st.integers(0, 99), max_size=3), st.integers(0, 9), st.integers(0, 99))
    return st.builds(model, **{name: _field(field.annotation, field.metadata) for name, field in model.model_fields.items()})


def _ledger(dropped: list[int], synthetic: int, kept: int) -> Ledger:
    gone = tuple(Count(reason=f"reason {number}", rows=rows) for number, rows in enumerate(dropped))
    return Ledger(rows_in=kept + sum(dropped), kept=kept + synthetic, dropped=gone, synthetic=synthetic)


def _field(annotation: Any, metadata: list[Any]) -> st.SearchStrategy[Any]:  # noqa: PLR0911 - one a kind of annotation
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Value):
        return _values(annotation)
    if origin is Annotated:
        return _field(arguments[0], [*metadata, *getattr(arguments[1], "metadata", arguments[1:])])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is tuple:
        return st.lists(_field(arguments[0], []), max_size=2).map(tuple)
    if origin is dict:
        return st.dictionaries(st.text(max_size=5), _field(arguments[1], []), max_size=2)
    if arguments:  # a union
        return st.one_of(*(_field(argument, metadata) for argument in arguments))
    if annotation is str:
        pattern = next((limit.pattern for limit in metadata if hasattr(limit, "pattern")), None)
        return st.from_regex(pattern, fullmatch=True) if pattern else st.text(max_size=8)
    if annotation is int:
        return st.integers(int(_limit(metadata, "ge", -9)), 2**40)
    if annotation is float:
        low = max(_limit(metadata, "ge", 0.0), _limit(metadata, "gt", 0.0) + 1e-6)
        return st.floats(low, min(_limit(metadata, "le", 1e9), _limit(metadata, "lt", 1e9) - 1e-6))
    return {bool: st.booleans(), type(None): st.none()}.get(annotation, st.integers() | st.text(max_size=5))


def _limit(metadata: list[Any], name: str, default: float) -> float:
    return next((getattr(limit, name) for limit in metadata if getattr(limit, name, None) is not None), default)


@pytest.mark.parametrize("member", FAMILY, ids=lambda member: member.__name__)
def test_every_value_is_frozen_and_strict(member: type[Value]) -> None:
    assert (member.model_config["frozen"], member.model_config["extra"]) == (True, "forbid")


def test_a_value_cannot_be_changed_and_refuses_what_it_does_not_know() -> None:
    count = Count(reason="empty", rows=1)
    with pytest.raises(ValidationError, match="Instance is frozen"):
        count.rows = 2  # type: ignore[misc]
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Count(reason="empty", rows=1, colour="red")  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="String should match pattern"):
        BASE.model_validate({**BASE.model_dump(), "sha256": "C" * 64})


def test_a_ledger_that_does_not_balance_is_refused() -> None:
    dropped = (Count(reason="empty", rows=2), Count(reason="duplicate", rows=1))
    assert Ledger(rows_in=10, kept=9, dropped=dropped, synthetic=2).kept == 9
    message = r"The ledger does not balance: 10 rows in \+ 0 synthetic is not 8 kept \+ 3 dropped\."
    with pytest.raises(ValidationError, match=message):
        Ledger(rows_in=10, kept=8, dropped=dropped)
    with pytest.raises(ValidationError, match="does not balance"):
        Ledger.model_validate_json('{"rows_in": 1, "kept": 0}')


@pytest.mark.parametrize(
    ("value", "change", "same"),
    [
        (MODEL, {"uri": "/elsewhere", "seconds": 9.0, "run_id": "x", "history_uri": "/y", "settings": {}}, True),
        (MODEL, {"sha256": SHA}, False),
        (MODEL, {"base": BASE.model_copy(update={"location": "/moved"})}, True),
        (MODEL, {"base": BASE.model_copy(update={"sha256": SHA})}, False),
        (PLAN, {"reasons": (), "hours": 7.0, "cost_usd": 3.0, "energy_kwh": 2.0, "memory_gib": 5.0}, True),
        (PLAN, {"device_name": "another CPU", "threads": 16}, True),
        *((PLAN, change, False) for change in (
            {"accelerator": "cuda"}, {"devices": 2}, {"nodes": 2}, {"backend": "nccl"}, {"zero_stage": 2}, {"micro_batch": 2},
            {"tensor_parallel": 2},
            {"accumulation": 1}, {"precision": "bf16"}, {"activation_checkpointing": True},
        )),
        (REPORT, {"items_uri": "/elsewhere", "seconds": 9.0}, True),
        (REPORT, {"speed": (Speed(
            model="tuned", prompt_tokens=1, output_tokens=1, first_token_ms_p50=1, first_token_ms_p95=1, tokens_per_second=1,
            peak_memory_gib=1,
        ),)}, True),
        (REPORT, {"scores": (SCORE.model_copy(update={"value": 2.0}),)}, False),
        (REPORT, {"verdict": Verdict(status="fail", reasons=())}, False),
    ],
)  # fmt: skip
def test_identity_ignores_what_must_not_count(value: Value, change: dict[str, Any], same: bool) -> None:
    assert (value.model_copy(update=change).identity() == value.identity()) is same


def test_identity_is_the_content_hash_where_there_is_one_and_never_the_run() -> None:
    assert BASE.identity() == "b" * 64
    assert Count(reason="empty", rows=1).identity() == {"reason": "empty", "rows": 1}
    assert RunContext(name="a", workspace="/w").identity() is None


def test_digest_is_of_canonical_json() -> None:
    text = '{"a":[1,2.5,null],"b":"é"}'
    assert digest_of({"b": "é", "a": (1, 2.5, None)}) == hashlib.sha256(text.encode()).hexdigest()
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1}) != digest_of({"a": 1, "b": "2"})


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none(), max_size=4))
@settings(max_examples=50, deadline=None)
def test_digest_does_not_depend_on_the_order_of_keys(content: dict[str, Any]) -> None:
    assert digest_of(content) == digest_of(dict(reversed(content.items())))


@pytest.mark.parametrize(("status", "passed"), [("pass", True), ("fail", False), ("inconclusive", False)])
def test_only_a_pass_passes(status: Any, passed: bool) -> None:
    assert Verdict(status=status, reasons=()).passed is passed


def test_only_a_fatal_check_fails_a_report() -> None:
    def report(*severities: str) -> CheckReport:
        return CheckReport(
            checks=tuple(Check(name="x", passed=False, severity=each, expected="", found="") for each in severities)  # type: ignore[arg-type]
        )

    assert report("info", "fixable").passed
    assert not report("info", "fatal").passed


def test_every_spec_of_a_request_is_frozen_and_strict() -> None:
    from flows.request import FinetuneRequest

    def below(spec: type[Spec]) -> list[type[Spec]]:
        return [spec, *(found for child in spec.__subclasses__() for found in below(child))]

    assert FinetuneRequest in below(Spec)
    for spec in below(Spec):
        assert (spec.model_config.get("frozen"), spec.model_config.get("extra")) == (True, "forbid"), spec
