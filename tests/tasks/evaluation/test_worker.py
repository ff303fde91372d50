import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from tasks.contracts import Speed, TrainedModel
from tasks.errors import ChildError
from tasks.evaluation.benchmarks.held_out import HeldOut
from tasks.evaluation.items import Result, read_results
from tasks.evaluation.job import EvaluationJob
from tasks.evaluation.metrics import exact_match, normalise
from tasks.evaluation.worker import keeps_base, main
from tasks.models import load_model, load_tokenizer, load_trained
from tasks.process import Event, python_module, run_child

MakeJob = Callable[..., EvaluationJob]
NEW = 6


def evaluate(job: EvaluationJob, folder: Path) -> list[Result]:
    path = folder / "job.json"
    path.write_text(job.model_dump_json(), encoding="utf-8")
    assert main([str(path)]) == 0
    return read_results(job.out / "items.parquet")


def of(results: list[Result], role: str) -> dict[int, Result]:
    return {result.item: result for result in results if result.role == role}


def losses(results: list[Result], role: str) -> list[float]:
    return [result.loss or 0 for _, result in sorted(of(results, role).items())]


def given(results: list[Result], role: str) -> list[str | None]:
    return [result.answer for _, result in sorted(of(results, role).items())]


def losses_by_hand(model: Any, test_file: Path) -> list[float]:
    """One sequence at a time, no padding: mean of -log softmax at the supervised tokens."""
    found = []
    for row in pq.read_table(test_file).to_pylist():
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0].double()
        nats = [
            float(torch.logsumexp(logits[at - 1], 0) - logits[at - 1, token])
            for at, token in enumerate(row["input_ids"])
            if row["supervised"][at] and at
        ]
        found.append(sum(nats) / len(nats))
    return found


def answers_by_hand(model: Any, folder: Path, test_file: Path, new: int = NEW) -> list[str]:
    """Greedy, one prompt at a time, without a cache."""
    tokenizer = load_tokenizer(folder)
    found = []
    for row in pq.read_table(test_file).to_pylist():
        ids = list(tokenizer(row["prompt"], add_special_tokens=False)["input_ids"])
        start = len(ids)
        while len(ids) < start + new and ids[-1] != 256:
            with torch.no_grad():
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        found.append(tokenizer.decode([i for i in ids[start:] if i != 256]))
    return found


@pytest.fixture
def results(make_job: MakeJob, tmp_path: Path) -> list[Result]:
    return evaluate(make_job(), tmp_path)


def test_losses_and_answers_of_an_adapter_and_its_base_are_those_made_by_hand(
    results: list[Result], make_job: MakeJob, base_folder: Path, test_file: Path
) -> None:
    job = make_job()
    plain = load_model(base_folder, torch.float32).eval()
    tuned = load_trained(job.trained, job.trained_folder, torch.float32)
    assert losses(results, "base") == pytest.approx(losses_by_hand(plain, test_file), abs=1e-5)
    assert losses(results, "tuned") == pytest.approx(losses_by_hand(tuned, test_file), abs=1e-5)
    assert given(results, "base") == answers_by_hand(plain, base_folder, test_file)
    assert given(results, "tuned") == answers_by_hand(tuned, base_folder, test_file)
    assert losses(results, "base") != pytest.approx(losses(results, "tuned"), abs=1e-2)
    assert given(results, "base") != given(results, "tuned")


def test_answers_equal_generate_on_a_single_item(results: list[Result], base_folder: Path, test_file: Path) -> None:
    tokenizer, model = load_tokenizer(base_folder), load_model(base_folder, torch.float32).eval()
    prompt = pq.read_table(test_file).column("prompt")[3].as_py()
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    output = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, repetition_penalty=1.0, max_new_tokens=NEW
    )
    assert of(results, "base")[3].answer == tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)


def test_batches_and_padding_change_nothing(results: list[Result], make_job: MakeJob, tmp_path: Path) -> None:
    alone = evaluate(make_job(batch_size=1), tmp_path)
    for role in ("base", "tuned"):
        assert losses(alone, role) == pytest.approx(losses(results, role), abs=1e-5)
        assert given(alone, role) == given(results, role)


def test_every_item_is_there_once_for_each_model_with_its_evidence(results: list[Result], test_file: Path) -> None:
    rows = pq.read_table(test_file).to_pylist()
    assert sorted((r.role, r.item) for r in results) == [(role, at) for role in ("base", "tuned") for at in range(10)]
    for result in results:
        row = rows[result.item]
        assert (result.row, result.group, result.tokens) == (row["row"], row["group"], sum(row["supervised"]))
        assert (result.prompt, result.reference, result.cut) == (row["prompt"], row["reference"], 0)
        assert result.exact_match == exact_match(result.answer or "", row["reference"])


def test_as_a_child_process_it_says_the_same_and_how_far_it_is(
    results: list[Result], make_job: MakeJob, tmp_path: Path
) -> None:
    job = make_job(out=tmp_path / "child")
    path = tmp_path / "child.json"
    path.write_text(job.model_dump_json(), encoding="utf-8")
    events: list[Event] = []
    lines: list[str] = []
    run_child(python_module("tasks.evaluation.worker", str(path)), on_event=events.append, on_line=lines.append)
    assert read_results(job.out / "items.parquet") == results
    assert {event["step"] for event in events} == {"evaluate"}
    assert [event["done"] for event in events] == sorted(event["done"] for event in events)
    assert not [line for line in lines if "Loading weights" in line or "FutureWarning" in line]
    # 10 losses and 10 answers of two models.
    assert (events[-1]["done"], events[-1]["total"]) == (40, 40)


def test_a_child_that_fails_says_why(make_job: MakeJob, tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    path.write_text(make_job(tokenizer_folder=tmp_path / "none").model_dump_json(), encoding="utf-8")
    with pytest.raises(ChildError, match="No tokenizer can be loaded"):
        run_child(python_module("tasks.evaluation.worker", str(path)))


def test_full_weights_are_compared_with_the_base_of_before(
    make_job: MakeJob, tmp_path: Path, base_folder: Path, full_folder: Path, test_file: Path
) -> None:
    results = evaluate(make_job(adapter=False, trained_folder=full_folder), tmp_path)
    for role, folder in (("base", base_folder), ("tuned", full_folder)):
        model = load_model(folder, torch.float32).eval()
        assert losses(results, role) == pytest.approx(losses_by_hand(model, test_file), abs=1e-5)
        assert given(results, role) == answers_by_hand(model, base_folder, test_file)


def test_an_adapter_that_changes_its_base_is_compared_with_the_plain_base(
    make_job: MakeJob, tmp_path: Path, adapters: dict[str, Path], base_folder: Path, test_file: Path
) -> None:
    assert [keeps_base(adapters[name]) for name in ("lora", "adalora", "pissa")] == [True, True, False]
    results = evaluate(make_job(trained_folder=adapters["pissa"]), tmp_path)
    plain = load_model(base_folder, torch.float32).eval()
    assert losses(results, "base") == pytest.approx(losses_by_hand(plain, test_file), abs=1e-5)


def test_the_loss_of_adalora_has_no_penalty_in_it(
    make_job: MakeJob, tmp_path: Path, adapters: dict[str, Path], test_file: Path
) -> None:
    job = make_job(trained_folder=adapters["adalora"])
    results = evaluate(job, tmp_path)
    tuned = load_trained(job.trained, job.trained_folder, torch.float32)
    assert losses(results, "tuned") == pytest.approx(losses_by_hand(tuned, test_file), abs=1e-5)
    assert losses(results, "tuned") != pytest.approx(losses(results, "base"), abs=1e-3)


def test_speed_is_measured_for_both_models(results: list[Result], make_job: MakeJob) -> None:
    assert results
    content = json.loads((make_job().out / "speed.json").read_text(encoding="utf-8"))
    speeds = [Speed.model_validate(speed) for speed in content]
    assert [speed.model for speed in speeds] == ["base", "tuned"]
    for speed in speeds:
        assert speed.output_tokens == NEW
        assert 0 < speed.first_token_ms_p50 <= speed.first_token_ms_p95
        # The first token cannot come later than the whole answer.
        assert speed.tokens_per_second < NEW / (speed.first_token_ms_p50 / 1000)
        assert 0.05 < speed.peak_memory_gib < 20


def test_items_are_the_first_of_a_seeded_permutation(test_file: Path) -> None:
    few, more = HeldOut(items=3), HeldOut(items=6)
    chosen = [item.number for item in more.choose(test_file, 0)]
    assert [item.number for item in few.choose(test_file, 0)] == chosen[:3]
    assert [item.number for item in more.choose(test_file, 1)] != chosen
    assert len(HeldOut(items=0).choose(test_file, 0)) == 10


def test_items_and_generated_items_bound_what_is_asked(make_job: MakeJob, tmp_path: Path) -> None:
    results = evaluate(make_job(benchmarks=(HeldOut(items=5, generated_items=2, max_new_tokens=2),)), tmp_path)
    for role in ("base", "tuned"):
        assert len(of(results, role)) == 5
        assert sum(result.answer is not None for result in of(results, role).values()) == 2
    assert set(of(results, "base")) == set(of(results, "tuned"))


def test_without_generation_there_is_a_loss_alone(make_job: MakeJob, tmp_path: Path) -> None:
    job = make_job(benchmarks=(HeldOut(generated_items=0),))
    results = evaluate(job, tmp_path)
    assert all(result.loss and result.exact_match is None and result.answer is None for result in results)
    assert json.loads((job.out / "speed.json").read_text(encoding="utf-8")) == []


def test_max_new_tokens_bounds_answers(results: list[Result], make_job: MakeJob, tmp_path: Path) -> None:
    shorter = evaluate(make_job(benchmarks=(HeldOut(max_new_tokens=2),)), tmp_path)
    unfinished = [item for item, result in of(shorter, "base").items() if not result.finished]
    assert unfinished
    # Bytes cut in the middle of a character cannot be compared; most are not.
    starts = [(of(results, "base")[i].answer or "").startswith(of(shorter, "base")[i].answer or "") for i in unfinished]
    assert sum(starts) >= len(starts) / 2
    assert [r.answer for r in shorter] != [r.answer for r in results]


def test_a_prompt_without_room_for_an_answer_loses_its_beginning(
    make_job: MakeJob, tmp_path: Path, base_folder: Path, test_file: Path
) -> None:
    # 96 positions less 80 new tokens leave 16; the longest prompt has 20: "Q: north of here\nA:" is 19.
    results = evaluate(make_job(benchmarks=(HeldOut(max_new_tokens=80, generated_items=10),)), tmp_path)
    tokenizer = load_tokenizer(base_folder)
    for result in results:
        assert result.cut == max(0, len(tokenizer(result.prompt)["input_ids"]) - 16)
    assert any(result.cut for result in results)
    assert not all(result.cut for result in results)


def test_an_answer_ends_at_the_stop_token(
    make_job: MakeJob, tmp_path: Path, base_folder: Path, trained_model: Callable[..., TrainedModel]
) -> None:
    """A base whose authors name every byte but 0..9 as an end stops at once."""
    folder = tmp_path / "stopping"
    shutil.copytree(base_folder, folder)
    settings = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    (folder / "generation_config.json").write_text(json.dumps(settings | {"eos_token_id": list(range(256))}))
    job = make_job()
    base = job.trained.base.model_copy(update={"location": str(folder)})
    stopping = evaluate(make_job(trained=job.trained.model_copy(update={"base": base})), tmp_path)
    assert all(result.finished and result.answer == "" for result in stopping)


def test_bf16_is_used_where_it_is_asked_for(results: list[Result], make_job: MakeJob, tmp_path: Path) -> None:
    half = evaluate(make_job(precision="bf16"), tmp_path)
    assert losses(half, "base") != losses(results, "base")
    assert losses(half, "base") == pytest.approx(losses(results, "base"), rel=0.05)


def test_the_number_of_threads_is_the_jobs(make_job: MakeJob, tmp_path: Path) -> None:
    try:
        evaluate(make_job(threads=2, benchmarks=(HeldOut(items=1, generated_items=0),)), tmp_path)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_an_empty_test_split_loads_no_model(make_job: MakeJob, tmp_path: Path, test_file: Path) -> None:
    empty = tmp_path / "empty.parquet"
    pq.write_table(pq.read_table(test_file).slice(0, 0), empty)
    assert evaluate(make_job(test_file=empty, trained_folder=tmp_path / "none"), tmp_path) == []


def test_rows_without_supervised_tokens_or_prompt_are_kept_without_values(
    make_job: MakeJob, tmp_path: Path, test_file: Path
) -> None:
    rows = pq.read_table(test_file).to_pylist()
    rows[0]["supervised"] = [1] + [0] * (len(rows[0]["input_ids"]) - 1)  # the first token has nothing before it
    rows[1]["prompt"] = ""
    changed = tmp_path / "changed.parquet"
    pq.write_table(pq.read_table(test_file).from_pylist(rows, schema=pq.read_schema(test_file)), changed)
    base = of(evaluate(make_job(test_file=changed), tmp_path), "base")
    assert (base[0].loss, base[0].tokens) == (None, 0)
    assert base[1].loss is not None
    assert base[1].answer is None
    assert len(base) == 10


def test_weights_that_are_no_numbers_are_refused(
    make_job: MakeJob, tmp_path: Path, full_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    model = load_model(full_folder, torch.float32)
    torch.nn.init.constant_(model.lm_head.weight, float("nan"))
    model.save_pretrained(broken)
    path = tmp_path / "job.json"
    path.write_text(make_job(adapter=False, trained_folder=broken).model_dump_json(), encoding="utf-8")
    assert main([str(path)]) == 1
    assert "The tuned model's loss on row 10" in capsys.readouterr().err
    assert not (make_job().out / "items.parquet").exists()


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("  Yes\n", "yes", True),
        ("a \t b", "A b", True),
        ("straße", "STRASSE", True),
        ("yes.", "yes", False),
        ("the sea", "sea", False),
        ("1,000", "1000", False),
    ],
)
def test_normalising_folds_space_and_case_and_nothing_else(answer: str, reference: str, same: bool) -> None:
    assert exact_match(answer, reference) is same
    assert normalise(normalise(answer)) == normalise(answer)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_says_the_same(results: list[Result], make_job: MakeJob, tmp_path: Path) -> None:
    there = evaluate(make_job(device="cuda"), tmp_path)
    assert losses(there, "tuned") == pytest.approx(losses(results, "tuned"), abs=1e-3)
    assert given(there, "base") == given(results, "base")
