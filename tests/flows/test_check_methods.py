"""What `check` says of methods, before compute is spent."""

from typing import Any

import pytest

from flows import check_request
from flows.request import FinetuneRequest
from tasks.contracts import ModelRef
from tasks.errors import RequestError
from tasks.resources.hardware import Machine

EIGHT_CORES = Machine("cpu", "Some CPU", 1, 16.0, 8, False, 16.0)


def request(**parts: Any) -> FinetuneRequest:
    needed = {"name": "a", "base_model": {"uri": "a"}, "data": {"source": "b"}}
    return FinetuneRequest.model_validate({**needed, **parts})


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ({"kind": "lora", "targets": "q_prj"}, "Did you mean q_proj"),
        ({"kind": "adalora", "rank": 64}, "above the model's hidden size 64"),
        ({"kind": "custom", "config": {"peft_type": "IA3", "target_modules": ["q_proj"]}}, "cannot be loaded again"),
    ],
)
def test_a_method_that_does_not_fit_the_model_is_refused(tiny_base: ModelRef, method: Any, told: str) -> None:
    with pytest.raises(RequestError, match=told):
        check_request._fits(request(method=method), tiny_base)


@pytest.mark.parametrize("method", ["lora", "qlora", "adalora", "full"])
def test_each_method_as_it_is_fits_a_small_model(tiny_base: ModelRef, method: str) -> None:
    check_request._fits(request(method={"kind": method}), tiny_base)


def test_a_method_that_can_train_no_model_is_refused_where_the_model_is_not_here() -> None:
    with pytest.raises(RequestError, match="peft_type 'NOTHING' is none of PEFT's"):
        check_request._demand_method(request(method={"kind": "custom", "config": {"peft_type": "NOTHING"}}), None)


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ({"kind": "adalora"}, "resources.zero_stage is 3, but at most 2 works here: AdaLoRA weighs and masks whole adapters"),
        ({"kind": "lora", "init": "pissa"}, "at most 2 works here: method.init pissa begins from whole weights"),
        ({"kind": "custom", "config": {"peft_type": "IA3"}}, "at most 2 works here: an adapter that is not known"),
    ],
)
def test_zero_3_is_refused_for_what_it_does_not_work_with(method: Any, told: str) -> None:
    with pytest.raises(RequestError, match=told):
        check_request._machine(request(method=method, resources={"zero_stage": 3}))


def test_a_paged_optimizer_is_refused_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.resources.hardware._may_have_gpu", lambda: False)
    with pytest.raises(RequestError, match=r"no GPU was found\. Use adamw_8bit"):
        check_request._machine(request(training={"advanced": {"optimizer": "paged_adamw_8bit"}}))


def test_an_adapter_is_not_promised_where_there_is_none() -> None:
    with pytest.raises(RequestError, match="method full trains no adapter"):
        check_request._request(request(method={"kind": "full"}, release={"formats": [{"kind": "adapter"}]}))


@pytest.mark.parametrize(
    ("method", "devices", "told"),
    [
        ("lora", 2, "DeepSpeed does not divide the layers of an adapter, and method.kind is lora"),
        ("full", 1, r"1 device\(s\) of a machine train, which make no whole groups of 2"),
    ],
)
def test_layers_are_divided_for_full_training_on_whole_groups_alone(
    monkeypatch: pytest.MonkeyPatch, method: str, devices: int, told: str
) -> None:
    monkeypatch.setattr("tasks.resources.hardware.find_machine", lambda: EIGHT_CORES)
    with pytest.raises(RequestError, match=told):
        check_request._machine(request(method={"kind": method}, resources={"devices": devices, "tensor_parallel": 2}))


def test_layers_that_cannot_be_dealt_out_are_refused(monkeypatch: pytest.MonkeyPatch, tiny_base: ModelRef) -> None:
    monkeypatch.setattr("tasks.resources.hardware.find_machine", lambda: EIGHT_CORES)
    asked = request(method={"kind": "full"}, resources={"devices": 8, "tensor_parallel": 8})
    with pytest.raises(RequestError, match=r"tensor_parallel is 8, by which num_attention_heads 4"):
        check_request._fits(asked, tiny_base)
