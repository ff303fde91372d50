"""Every choice of a plan with its reason, on machines that need not be there. Models are not either: memory is arithmetic."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.contracts import HardwarePlan, ModelRef
from tasks.errors import RequestError
from tasks.resources import choices
from tasks.resources.fitting import Place, find_fit
from tasks.resources.hardware import Machine
from tasks.resources.history import Past
from tasks.resources.planning import Trial, demand_room, plan_training
from tasks.resources.spec import ResourceSpec
from tests.tasks.resources.conftest import CPU, EIGHT, MIB, OLD, Some, wanted

MakeModel = Callable[..., ModelRef]
CPU_BF16 = Machine("cpu", "Xeon", devices=1, memory_gib=16.0, cores=8, has_bf16=True)
SMALL: dict[str, Any] = {"parameters": 2**20, "hidden_size": 64, "layers": 2, "vocabulary": 512}


@pytest.mark.parametrize(
    ("machine", "asked", "devices", "reason"),
    [
        (EIGHT, "auto", 8, "8 device(s): every NVIDIA H100 of this machine"),
        (EIGHT, 3, 3, "3 device(s): as asked"),
        (OLD, "auto", 1, "1 device(s): every Tesla T4 of this machine"),
        (CPU, "auto", 1, "1 device: no GPU was found; one process uses all 8 cores"),
        (CPU, 8, 8, "8 device(s): as asked"),
    ],
)
def test_devices(machine: Machine, asked: Any, devices: int, reason: str) -> None:
    assert choices.choose_devices(ResourceSpec(devices=asked), machine) == (devices, reason)


@pytest.mark.parametrize(
    ("machine", "asked", "message"),
    [
        (EIGHT, 9, "resources.devices is 9, but this machine has 8 GPU(s). Use 1 to 8, or auto."),
        (CPU, 9, "resources.devices is 9, but this machine has 8 CPU core(s). Use 1 to 8, or auto."),
        (CPU, 0, "resources.devices is 0, but this machine has 8 CPU core(s). Use 1 to 8, or auto."),
        (OLD, -1, "resources.devices is -1, but this machine has 1 GPU(s). Use 1 to 1, or auto."),
    ],
)
def test_devices_that_are_not_there(machine: Machine, asked: int, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        choices.choose_devices(ResourceSpec(devices=asked), machine)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("asked", "nodes", "reason"),
    [
        ({}, 1, ""),
        ({"nodes": 4}, 4, "4 machines: as asked, taken to be like this one"),
        ({"hosts": ["a", "b"]}, 2, "2 machine(s): the hosts a, b, taken to be like this one"),
        (
            {"hosts": ["a", "b"], "least_nodes": 2},
            2,
            "2 machine(s): the hosts a, b, taken to be like this one; training waits where fewer than 2 are left",
        ),
    ],
)
def test_nodes(asked: dict[str, Any], nodes: int, reason: str) -> None:
    assert choices.choose_nodes(ResourceSpec(**asked)) == (nodes, reason)


def test_how_many_machines_are_enough_is_in_the_plan(model_of: MakeModel) -> None:
    for asked, least in ((0, 1), (2, 2)):
        spec = ResourceSpec(hosts=["a", "b", "c"], least_nodes=asked)
        assert plan_training(spec, CPU, wanted(model_of(**SMALL)), rate=1e9).least_nodes == least
    with pytest.raises(ValidationError, match=r"least_nodes is 3, but 2 machine\(s\) train; name more hosts"):
        ResourceSpec(hosts=["a", "b"], least_nodes=3)


def test_machines_without_a_name_are_refused_but_can_be_planned_for(model_of: MakeModel) -> None:
    spec = ResourceSpec(nodes=3)
    with pytest.raises(RequestError, match=r"resources.nodes is 3, but resources.hosts names no machine. Name 3 as ssh knows"):
        choices.demand_hosts(spec)
    assert plan_training(spec, CPU, wanted(model_of(**SMALL)), rate=1e9).nodes == 3
    choices.demand_hosts(ResourceSpec(nodes=2, hosts=["a", "b"]))
    choices.demand_hosts(ResourceSpec())


@pytest.mark.parametrize(
    ("machine", "asked", "precision", "reason"),
    [
        (EIGHT, "auto", "bf16", "bf16: NVIDIA H100 has bf16 units"),
        (OLD, "auto", "fp32", "fp32: Tesla T4 has no bf16 units, and fp16 would need loss scaling"),
        (CPU, "auto", "fp32", "fp32: Some CPU has no bf16 units"),
        (CPU_BF16, "auto", "fp32", "fp32: Xeon has bf16 units, but small models gain little and lose digits"),
        (CPU, "bf16", "bf16", "bf16: as asked"),
        (OLD, "fp16", "fp16", "fp16: as asked"),
        (EIGHT, "fp32", "fp32", "fp32: as asked"),
    ],
)
def test_precision(machine: Machine, asked: Any, precision: str, reason: str) -> None:
    assert choices.choose_precision(ResourceSpec(precision=asked), machine) == (precision, reason)


@pytest.mark.parametrize(
    ("machine", "asked", "message"),
    [
        (CPU, {"precision": "fp16"}, "resources.precision is fp16, which CPUs do not train in. Use fp32, bf16 or auto."),
        (CPU, {"offload": "cpu"}, "resources.offload is cpu, but there is no GPU to take anything off. Use none or auto."),
        (
            EIGHT,
            {"offload": "cpu", "zero_stage": 0},
            "resources.offload cpu needs ZeRO 1 to 3, and resources.zero_stage is 0. Use auto.",
        ),
        (
            EIGHT,
            {"offload": "nvme", "offload_folder": "/fast", "zero_stage": 2},
            "resources.offload nvme needs ZeRO 3. Use resources.zero_stage: 3 or auto.",
        ),
    ],
)
def test_what_no_training_can_have_here(model_of: MakeModel, machine: Machine, asked: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        plan(machine, model_of(), ResourceSpec(**asked))
    assert str(caught.value) == message


def test_a_method_says_how_far_it_can_be_divided(model_of: MakeModel) -> None:
    assert choices.possible_stages(ResourceSpec(), 2, "because", 8) == (2,)
    assert choices.possible_stages(ResourceSpec(), 3, "", 8) == (2, 3)
    assert choices.possible_stages(ResourceSpec(), 3, "", 1) == (0, 2, 3)
    with pytest.raises(RequestError) as caught:
        plan(EIGHT, model_of(), ResourceSpec(zero_stage=3), method=Some(highest=2))
    assert str(caught.value) == "resources.zero_stage is 3, but at most 2 works here: it cannot be divided."


def plan(
    machine: Machine, base: ModelRef, spec: ResourceSpec | None = None, method: Any = None, **changes: Any
) -> HardwarePlan:
    given = {name: changes.pop(name) for name in ("past", "trial", "others", "rate") if name in changes}
    return plan_training(spec or ResourceSpec(), machine, wanted(base, method, **changes), **({"rate": 1e12} | given))


def test_a_plan_for_eight_gpus(model_of: MakeModel) -> None:
    found = plan(EIGHT, model_of(), reasons=("because",))
    assert (found.accelerator, found.backend, found.devices, found.threads) == ("cuda", "nccl", 8, 12)
    assert (found.precision, found.zero_stage, found.micro_batch, found.accumulation) == ("bf16", 2, 8, 1)
    assert (found.activation_checkpointing, found.offload) == (False, "none")
    assert found.reasons[:5] == (
        "8 device(s): every NVIDIA H100 of this machine",
        "bf16: NVIDIA H100 has bf16 units",
        "ZeRO 2: gradients and optimizer states are divided; the weights fit on each device",
        "activation checkpointing off: activations fit as they are",
        f"micro-batch 8: about {found.memory_gib:.2f} GiB of 72.0 GiB, rows of up to 512 tokens",
    )
    assert found.reasons[5].startswith("memory, in GiB by arithmetic, since full on LlamaForCausalLM cannot be traced (OSError")
    assert found.reasons[-2:] == ("nccl: the transport of GPUs", "because")


def test_a_plan_for_a_cpu(model_of: MakeModel) -> None:
    found = plan(CPU, model_of(**SMALL), ResourceSpec(devices=2))
    assert (found.accelerator, found.backend, found.devices, found.threads) == ("cpu", "gloo", 2, 4)
    assert (found.micro_batch, found.accumulation) == (32, 1)
    assert "of 7.2 GiB" in found.reasons[4]  # two processes share the memory


def test_two_machines_are_twice_the_devices(model_of: MakeModel) -> None:
    found = plan(EIGHT, model_of(), ResourceSpec(hosts=["a", "b"]))
    assert (found.devices, found.nodes, found.hosts, found.threads) == (16, 2, ("a", "b"), 12)
    assert (found.micro_batch, found.accumulation) == (4, 1)
    assert plan(EIGHT, model_of(), ResourceSpec(nodes=2)).devices == 16


@pytest.mark.parametrize(
    ("batch", "devices", "micro", "accumulation"), [(64, 1, 8, 8), (64, 8, 8, 1), (65, 8, 8, 2), (10, 3, 3, 2), (1, 8, 1, 1)]
)
def test_micro_batches_make_up_the_batch(model_of: MakeModel, batch: int, devices: int, micro: int, accumulation: int) -> None:
    found = plan(EIGHT, model_of(), ResourceSpec(devices=devices), batch_size=batch, micro_batch_size=micro)
    assert (found.micro_batch, found.accumulation) == (micro, accumulation)
    assert found.devices * found.micro_batch * found.accumulation >= batch


def test_less_memory_means_smaller_micro_batches_that_still_make_up_the_batch(model_of: MakeModel) -> None:
    found = plan(OLD, model_of(parameters=2**28), longest=2048, checkpointing="off")
    assert 1 <= found.micro_batch < 64
    assert found.memory_gib <= 0.9 * OLD.memory_gib
    assert found.micro_batch * found.accumulation >= 64
    assert plan(OLD, model_of(parameters=2**28), longest=2048, checkpointing="on").micro_batch > found.micro_batch


def test_activations_are_computed_twice_where_memory_asks_for_it(model_of: MakeModel) -> None:
    small = replace(EIGHT, memory_gib=14.0)
    found = plan(small, model_of(layers=64), longest=4096)
    assert found.activation_checkpointing
    said = next(reason for reason in found.reasons if reason.startswith("activation checkpointing on"))
    assert said.startswith("activation checkpointing on, for about a third more time: ZeRO 2 without activation checkpointing")
    assert not plan(EIGHT, model_of(layers=64), longest=512).activation_checkpointing


def test_weights_are_divided_and_then_taken_off_the_device_where_they_must_be(model_of: MakeModel) -> None:
    base = model_of(parameters=60 * 2**30)
    divided = plan(EIGHT, base, longest=2048)
    assert (divided.zero_stage, divided.offload) == (3, "none")
    assert any(reason.startswith("ZeRO 3: weights are divided as well: ZeRO 2 without") for reason in divided.reasons)
    everything = Some(learned=base.parameters)
    found = plan(replace(EIGHT, host_gib=2000.0), base, method=everything, longest=2048)
    assert (found.zero_stage, found.offload) == (3, "cpu")
    assert any(reason.startswith("offload cpu: states in main memory (1080 GiB of main memory") for reason in found.reasons)
    with pytest.raises(RequestError, match="What would fit"):
        plan(replace(EIGHT, host_gib=500.0), base, method=everything, longest=2048)
    on_disk = ResourceSpec(offload_folder="/fast")
    found = plan(replace(EIGHT, host_gib=500.0), base, on_disk, method=everything, longest=2048)
    assert (found.offload, found.offload_folder) == ("nvme", "/fast")
    with pytest.raises(RequestError, match=r"resources.offload: auto \(about"):
        plan(replace(EIGHT, host_gib=2000.0), base, ResourceSpec(offload="none"), method=everything, longest=2048)


def test_what_does_not_fit_is_refused_with_ways_that_were_worked_out(model_of: MakeModel) -> None:
    base = model_of(parameters=30 * 2**30, layers=96)
    with pytest.raises(RequestError) as caught:
        plan(OLD, base, method=Some(learned=base.parameters), others=(Some(learned=MIB),))
    first, *ways = str(caught.value).splitlines()
    assert first.startswith("Training models/some with method full on rows of 512 tokens needs at least ")
    assert first.endswith("GiB a device, and 13.5 GiB of a Tesla T4 can be used. What would fit:")
    assert any("devices like these (about" in way for way in ways)
    assert any("USD an hour (about" in way for way in ways)


def test_a_shorter_row_is_named_where_it_fits(model_of: MakeModel) -> None:
    with pytest.raises(RequestError, match=r"training.max_length: \d+ \(about \d+\.\d GiB a device, micro-batch 1"):
        plan(OLD, model_of(parameters=2**29, layers=64), longest=65_536)


def test_what_was_asked_for_by_hand_is_named_first(model_of: MakeModel) -> None:
    plan(OLD, model_of(parameters=2**28), micro_batch_size=1, longest=2048)
    with pytest.raises(RequestError, match=r"What would fit:\n  - training.micro_batch_size: 0 \(about"):
        plan(OLD, model_of(parameters=2**28), micro_batch_size=64, longest=8192)
    with pytest.raises(RequestError, match=r"activation_checkpointing: auto \(about"):
        plan(OLD, model_of(parameters=2**28, layers=128), checkpointing="off", longest=4096)


def test_weights_that_cannot_fit_are_refused_before_there_are_data(model_of: MakeModel) -> None:
    few = wanted(model_of(parameters=100 * 2**30), batch_size=1, longest=64, tokens=64)
    with pytest.raises(RequestError, match="GiB of a Tesla T4 can be used"):
        demand_room(ResourceSpec(), OLD, few, ())
    demand_room(ResourceSpec(), OLD, wanted(model_of(**SMALL)), ())
    demand_room(ResourceSpec(), EIGHT, wanted(model_of(parameters=10 * 2**30)), ())


def test_history_corrects_the_forecasts_and_says_so(model_of: MakeModel) -> None:
    plain = plan(CPU, model_of(**SMALL))
    past = Past(time=2.0, memory=1.5, trainings=4, smallest=1, largest=10)
    found = plan(CPU, model_of(**SMALL), past=past)
    assert (found.hours, found.memory_gib) == pytest.approx((2 * plain.hours, 1.5 * plain.memory_gib))
    assert (found.time_factor, found.memory_factor) == pytest.approx((2.0, 1.5))
    assert past.sentences(2**20)[0] in found.reasons
    assert "outside the measured range" in past.sentences(2**20)[0]


def test_peaks_that_were_higher_make_micro_batches_smaller(model_of: MakeModel) -> None:
    base = model_of(parameters=2**27)
    usual = plan(OLD, base, longest=512, checkpointing="off")
    careful = plan(OLD, base, longest=512, checkpointing="off", past=Past(1.0, 1.8, 3, 1, 2**40))
    assert careful.micro_batch < usual.micro_batch
    assert careful.memory_gib <= 0.9 * OLD.memory_gib


def test_a_probe_decides_micro_batch_time_and_memory(model_of: MakeModel) -> None:
    trial = Trial(micro_batch=4, tokens_per_second=1000.0, peak_gib=1.25, reason="the fastest tried")
    found = plan(CPU, model_of(**SMALL), trial=trial)
    assert (found.micro_batch, found.accumulation, found.memory_gib) == (4, 16, 1.25)
    assert found.hours == pytest.approx(10**6 / 1000 / 3600)
    assert "time: by the 1,000 tokens a second of the probe" in found.reasons
    assert any(reason.startswith("micro-batch 4: the fastest tried; about 1.25 GiB") for reason in found.reasons)


def test_what_is_not_known_is_measured(model_of: MakeModel) -> None:
    found = plan(CPU, model_of(**SMALL), rate=None)
    # 10**6 tokens x about 6 operations x 2**20 weights, at 10**9 to 10**14 operations a second
    assert 6e12 / 1e14 / 3600 < found.hours < 3 * 6.3e12 / 1e9 / 3600


def test_prices_change_the_forecast_and_no_decision(model_of: MakeModel) -> None:
    plain = plan(EIGHT, model_of())
    priced = plan(EIGHT, model_of(), ResourceSpec(price_per_device_hour=2.5, watts_per_device=350, region="sweden"))
    assert priced.cost_usd == pytest.approx(2.5 * 8 * priced.hours)
    assert priced.energy_kwh == pytest.approx(plain.energy_kwh / 2)
    assert priced.carbon_kg < plain.carbon_kg / 2
    assert plain.cost_usd == 0
    assert priced.identity() == plain.identity()


def test_what_happened_is_in_proportion_to_the_hours(model_of: MakeModel) -> None:
    found = plan(EIGHT, model_of(), ResourceSpec(price_per_device_hour=2.5)).compare(3.0, 7.0)
    ratio = 7.0 / found.predicted_hours
    assert (found.actual_memory_gib, found.actual_hours) == (3.0, 7.0)
    assert found.actual_cost_usd == pytest.approx(ratio * found.predicted_cost_usd)
    assert found.actual_energy_kwh == pytest.approx(ratio * found.predicted_energy_kwh)
    assert found.actual_carbon_kg == pytest.approx(ratio * found.predicted_carbon_kg)


def test_the_fit_is_found_with_few_passes(model_of: MakeModel) -> None:
    """Rows are halved from the share on; what does not fit with one row is not looked at further."""
    place = Place(OLD, 1, 1, "fp32")
    fit, least = find_fit(ResourceSpec(), wanted(model_of(parameters=2**28), longest=2048, checkpointing="off"), place)
    assert fit is not None
    assert fit.setup.rows * fit.setup.accumulation >= 64
    assert len(fit.footprint._known) <= 4
    assert least == fit.parts.total


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"price_per_device_hour": -1}, "greater than or equal"),
        ({"watts_per_device": -1}, "greater than or equal"),
        ({"devices": "all"}, "auto"),
        ({"zero_stage": 4}, "auto"),
        ({"nodes": 3, "hosts": ["a", "b"]}, "nodes is 3, but 2 hosts are named; leave one of them out"),
        ({"hosts": ["a", "a"]}, "hosts names a host twice"),
        ({"offload": "nvme"}, "offload nvme needs offload_folder"),
        ({"offload": "cpu", "offload_folder": "/fast"}, "offload_folder is for the offload nvme, and offload is cpu"),
        ({"probe": "perhaps"}, "auto"),
    ],
)
def test_what_cannot_be_asked(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ResourceSpec(**bad)


@pytest.mark.parametrize(("word", "switch"), [(True, "on"), (False, "off"), ("auto", "auto")])
def test_yaml_reads_on_and_off_as_true_and_false(word: Any, switch: str) -> None:
    assert ResourceSpec(probe=word).probe == switch
