"""The main job, as its user runs it."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.flows.conftest import ROOT, Ended, tuneflow

pytestmark = pytest.mark.slow
REQUEST = str(ROOT / "examples" / "quickstart.yaml")


def score(result: dict[str, Any], model: str, metric: str) -> dict[str, Any]:
    return next(s for s in result["evaluation"]["scores"] if (s["model"], s["metric"]) == (model, metric))


def test_the_ledger_names_every_fault_that_was_put_in(quickstart: Ended) -> None:
    from tasks.quickstart.dirt import counts_for

    put_in, ledger = counts_for(3000), quickstart.result["data"]["clean"]["ledger"]
    dropped = {count["reason"]: count["rows"] for count in ledger["dropped"]}
    assert ledger["rows_in"] == 3000
    assert ledger["kept"] == put_in.distinct == 3000 - sum(dropped.values())
    assert dropped == {
        "empty_answer": put_in.empty_outputs,
        "empty_prompt": put_in.empty_instructions,
        "exact_duplicate": put_in.exact_duplicates,
        "near_duplicate": put_in.near_duplicates,
    }


def test_the_tuned_model_is_measurably_better_on_held_out_rows(quickstart: Ended) -> None:
    result = quickstart.result
    for metric in ("loss", "exact_match"):
        base, tuned = score(result, "base", metric), score(result, "tuned", metric)
        better, worse = (base, tuned) if metric == "loss" else (tuned, base)
        assert worse["high"] < better["low"]  # not even the intervals touch
    assert result["evaluation"]["verdict"]["status"] == "pass"
    assert result["data"]["splits"]["leaked_rows"] == 0


def test_the_released_model_loads_in_transformers_and_answers(quickstart: Ended, workspace: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = workspace / "models" / "quickstart"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    chat = [{"role": "user", "content": "What is the opposite of hot?"}]
    prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=20, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert answer[-1] == tokenizer.eos_token_id  # it has learned to end
    assert "cold" in tokenizer.decode(answer, skip_special_tokens=True)


def test_everything_is_where_the_result_says(quickstart: Ended, workspace: Path) -> None:
    result = quickstart.result
    run = workspace / "runs" / "quickstart"
    assert result["report_uri"] == str(run / "report.html")
    assert json.loads((run / "result.json").read_text())["run_id"] == result["run_id"]
    page = (run / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert result["model"]["sha256"][:12] in page
    assert {path.name for path in (run / "logs").iterdir()} == {"train.log", "evaluate.log", "export-safetensors.log"}
    assert {path.name for path in workspace.iterdir()} <= {
        "runs", "cache", "checkpoints", "models", "mlflow", "mlflow.db", "prefect", "server", "services",
    }  # fmt: skip


def test_mlflow_holds_the_runs_the_curve_the_data_and_the_version(quickstart: Ended, workspace: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{workspace}/mlflow.db")
    parent = client.get_run(quickstart.result["run_id"])
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'", max_results=100
    )
    names = {run.info.run_name for run in children}
    assert names == {step["step"] for step in quickstart.result["steps"]}
    train = next(run for run in children if run.info.run_name == "train")
    assert train.data.params["method.rank"] == "16"
    curve = client.get_metric_history(train.info.run_id, "loss")
    assert len(curve) > 50
    assert curve[0].value > curve[-1].value
    assert parent.inputs.dataset_inputs[0].dataset.digest == quickstart.result["data"]["manifest"]["sha256"][:36]
    version = client.get_model_version_by_alias("quickstart", "champion")
    assert version.tags["tuneflow.model_sha256"] == quickstart.result["model"]["sha256"]


def test_the_same_command_again_does_no_work_and_says_so(quickstart: Ended, home: Path) -> None:
    again = tuneflow("run", REQUEST, folder=home)
    assert again.code == 0
    assert "all 10 steps came from the cache" in again.out
    assert "started" not in again.err


def test_a_changed_evaluation_runs_evaluation_and_what_follows_alone(quickstart: Ended, home: Path) -> None:
    again = tuneflow("run", REQUEST, "--json", "--set", "evaluation.confidence=0.99", folder=home)
    ran = {step["step"]: step["reason"] for step in again.result["steps"] if not step["cached"]}
    assert set(ran) == {"evaluate", "export-safetensors"}
    assert ran["evaluate"] == "changed: spec.confidence 0.95 -> 0.99"
    assert score(again.result, "tuned", "loss")["high"] > score(quickstart.result, "tuned", "loss")["high"]
    told = tuneflow("explain", "quickstart", folder=home)
    assert "changed: spec.confidence 0.95 -> 0.99" in told.out


def test_the_training_comes_out_the_same_bit_for_bit(quickstart: Ended, home: Path) -> None:
    ended = tuneflow("reproduce", "quickstart", "--json", folder=home)
    assert ended.code == 0, ended.err
    assert ended.result["level"] == "bits"
    found = {check["name"]: (check["first"], check["again"]) for check in ended.result["checks"]}
    assert set(found) == {"data", "data order", "loss curve", "weights"}
    assert found["weights"] == (quickstart.result["model"]["sha256"],) * 2
    assert found["data order"] == (quickstart.result["model"]["order_sha256"],) * 2
    assert tuneflow("reproduce", "nobody", folder=home).code == 2


def test_a_margin_that_is_not_reached_releases_nothing_and_ends_with_3(quickstart: Ended, home: Path) -> None:
    ended = tuneflow("run", REQUEST, "--json", "--set", "name=strict", "--set", "evaluation.margin=50", folder=home)
    assert ended.code == 3
    assert ended.result["status"] == "rejected"
    assert ended.result["release"] is None
    assert not (home / ".tuneflow" / "models" / "strict").exists()


def test_a_damaged_file_of_the_cache_is_made_again(quickstart: Ended, home: Path, workspace: Path) -> None:
    entry = Path(quickstart.result["data"]["clean"]["uri"])
    rows = entry / "rows" / "part-00000-00000.parquet"
    rows.write_bytes(rows.read_bytes()[:-1])
    again = tuneflow("run", REQUEST, "--json", folder=home)
    reasons = {step["step"]: step["reason"] for step in again.result["steps"] if not step["cached"]}
    assert reasons["clean"] == "its cached result no longer holds: rows/part-00000-00000.parquet is not what its manifest says"
    assert "train" not in reasons
