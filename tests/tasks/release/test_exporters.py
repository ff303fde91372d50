"""Every exporter over real models, through the export process's own `main`."""

import json
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.contracts import ModelRef, Parity
from tasks.errors import ParityError
from tasks.models import load_model, load_tokenizer, load_trained
from tasks.process import parse_event
from tasks.release import parity, worker
from tasks.release.exporters import Exporter
from tasks.release.exporters.adapter import Adapter
from tasks.release.exporters.safetensors import Safetensors
from tasks.release.job import ExportJob
from tasks.storage import records_of
from tests.tasks.release.conftest import Trained

MakeJob = Callable[..., ExportJob]
MEMBERS = get_args(get_args(Exporter)[0])
IDS = torch.tensor([[84, 104, 101, 32, 115, 101, 97]])
each_exporter = pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member().kind)


def export(job: ExportJob) -> Parity:
    """Run the export process's main on a job; what it found."""
    path = job.out / "job.json"
    path.write_text(job.model_dump_json())
    assert worker.main([str(path)]) == 0
    path.unlink()
    return Parity.model_validate_json((job.out / "parity.json").read_text())


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS).logits
    return found


@each_exporter
def test_an_exported_adapter_says_what_the_trained_model_says(
    member: Any, adapter: Trained, make_job: MakeJob, capsys: pytest.CaptureFixture[str]
) -> None:
    job = make_job(adapter, member())
    found = export(job)
    assert found.passed
    assert (found.prompts, found.same_tokens) == (3, True)
    assert found.max_difference <= found.tolerance == member().tolerance(adapter.model)
    exported = member().load(job.out / "model", adapter.model, torch.float32)
    expected = logits(load_trained(adapter.model, adapter.weights, torch.float32))
    torch.testing.assert_close(logits(exported), expected, atol=1e-4, rtol=1e-4)
    base = logits(load_model(adapter.model.base.location, torch.float32))
    assert float((expected - base).abs().max()) > 0.1  # the adapter does change the model
    events = [parse_event(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["done"] for event in events if event] == [0, 1, 2, 3]


@each_exporter
def test_every_artifact_brings_its_tokenizer(member: Any, adapter: Trained, make_job: MakeJob) -> None:
    job = make_job(adapter, member())
    export(job)
    assert load_tokenizer(job.out / "model")("sea")["input_ids"] == load_tokenizer(job.tokenizer)("sea")["input_ids"]
    assert not [record.path for record in records_of(job.out) if record.path.endswith((".bin", ".pt", ".pkl"))]


@each_exporter
def test_exporting_twice_gives_the_same_bytes(member: Any, adapter: Trained, make_job: MakeJob) -> None:
    jobs = [make_job(adapter, member(), name) for name in ("one", "two")]
    assert export(jobs[0]) == export(jobs[1])
    weights = [[r for r in records_of(job.out / "model") if r.path.endswith(".safetensors")] for job in jobs]
    assert weights[0] == weights[1] != []


@each_exporter
def test_a_tampered_export_fails(member: Any, adapter: Trained, make_job: MakeJob) -> None:
    job = make_job(adapter, member())
    export(job)
    path = next((job.out / "model").glob("*.safetensors"))
    tensors = load_file(path)
    name = next(name for name in sorted(tensors) if "q_proj" in name)
    tensors[name] = tensors[name] + 0.3 * torch.randn(tensors[name].shape, generator=torch.Generator().manual_seed(0))
    save_file(tensors, path, metadata={"format": "pt"})
    prompts = parity.golden_prompts(job.golden_file, 3)
    expected, found = (
        parity.say(model, prompts, 4, 256)
        for model in (
            load_trained(adapter.model, adapter.weights, torch.float32),
            member().load(job.out / "model", adapter.model, torch.float32),
        )
    )
    result = parity.compare(expected, found, member().tolerance(adapter.model))
    assert not result.passed
    with pytest.raises(ParityError, match=f"The export {member().kind} is not the trained model"):
        parity.demand(result, member().kind)


def test_the_merged_model_loads_with_plain_transformers(adapter: Trained, make_job: MakeJob) -> None:
    from transformers import AutoModelForCausalLM

    job = make_job(adapter, Safetensors())
    export(job)
    merged = AutoModelForCausalLM.from_pretrained(job.out / "model", dtype=torch.float32)
    assert merged.config.use_cache is True
    expected = logits(load_trained(adapter.model, adapter.weights, torch.float32))
    torch.testing.assert_close(logits(merged), expected, atol=1e-4, rtol=1e-4)
    text = merged.generate(IDS, max_new_tokens=4, do_sample=False)[0, IDS.shape[1] :].tolist()
    trained = load_trained(adapter.model, adapter.weights, torch.float32)
    assert text[:4] == parity.say(trained, [IDS[0].tolist()], 4, -1)[1][0]


def test_the_adapter_loads_with_plain_peft(adapter: Trained, tiny_base: ModelRef, make_job: MakeJob) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    job = make_job(adapter, Adapter())
    export(job)
    base = AutoModelForCausalLM.from_pretrained(tiny_base.location, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(base, job.out / "model")
    assert torch.equal(logits(loaded), logits(load_trained(adapter.model, adapter.weights, torch.float32)))
    assert (job.out / "model" / "adapter_model.safetensors").stat().st_size < tiny_base.bytes / 2


def test_full_weights_are_exported_number_for_number(full: Trained, make_job: MakeJob) -> None:
    job = make_job(full, Safetensors())
    found = export(job)
    assert (found.passed, found.max_difference, found.tolerance) == (True, 0.0, 1e-5)
    exported, trained = (load_file(folder / "model.safetensors") for folder in (job.out / "model", full.weights))
    assert exported.keys() == trained.keys()
    assert all(torch.equal(exported[name], trained[name]) for name in trained)


def test_the_largest_file_is_an_option(full: Trained, make_job: MakeJob) -> None:
    job = make_job(full, Safetensors(shard_gib=200_000 / 2**30))
    assert export(job).passed
    shards = list((job.out / "model").glob("*.safetensors"))
    assert len(shards) > 1
    assert all(shard.stat().st_size < 250_000 for shard in shards)


def test_only_as_many_prompts_are_said_as_were_asked_for(full: Trained, make_job: MakeJob) -> None:
    assert export(make_job(full, Safetensors(), golden_prompts=2)).prompts == 2


def test_a_job_comes_back_from_json(full: Trained, make_job: MakeJob) -> None:
    for number, member in enumerate(MEMBERS):
        job = make_job(full, member(), str(number))
        assert ExportJob.model_validate_json(job.model_dump_json()) == job
    assert json.loads(job.model_dump_json())["exporter"]["kind"] == member().kind
