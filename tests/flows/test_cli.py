"""The command line: exit codes, one clear message for each bad input, and nothing heavy before it is needed."""

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from flows.cli import main
from tasks.contracts import CheckReport, ModelRef, StepRecord
from tests.tasks.test_models import byte_tokenizer

ROOT = Path(__file__).parents[2]
ROWS = "".join(json.dumps({"question": f"What is {n}?", "answer": f"It is {n}."}) + "\n" for n in range(20))


@dataclass(frozen=True)
class Outcome:
    """What one command did."""

    code: int
    out: str
    err: str

    @property
    def failures(self) -> list[str]:
        """The FAIL lines of a check, without their mark."""
        return [line.removeprefix("FAIL").strip() for line in self.out.splitlines() if line.startswith("FAIL")]


@pytest.fixture(scope="module")
def workspace(tiny_base: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a whole base model, models/tiny, which holds 256 tokens."""
    folder = tmp_path_factory.mktemp("workspace")
    model = shutil.copytree(tiny_base.location, folder / "models" / "tiny")
    byte_tokenizer(eos_token="<end>").save_pretrained(model)
    return folder


@pytest.fixture
def cli(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Outcome]]:
    """Run a command in this process; the environment and the logger are as before afterwards."""
    before, logger = dict(os.environ), logging.getLogger("tuneflow")
    handlers, level = list(logger.handlers), logger.level
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, folder: Path = workspace) -> Outcome:
        capsys.readouterr()
        try:
            code = main([*map(str, arguments), "--workspace", str(folder)])
        except SystemExit as error:  # argparse's own
            code = int(error.code or 0)
        printed = capsys.readouterr()
        assert "Traceback" not in printed.out + printed.err
        return Outcome(code, printed.out, printed.err)

    yield run
    logger.handlers[:], logger.level = handlers, level
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def request_file(tmp_path: Path) -> Callable[..., Path]:
    """A good request and good data, with changes."""

    def write(data: str | None = ROWS, name: str = "data.jsonl", **changes: Any) -> Path:
        if data is not None:
            (tmp_path / name).write_text(data, encoding="utf-8")
        content = {"name": "bot", "base_model": {"uri": "models/tiny"}, "data": {"source": name}, **changes}
        path = tmp_path / "request.yaml"
        path.write_text(json.dumps(content), encoding="utf-8")
        return path

    return write


def test_a_good_request_passes_every_check(cli: Any, request_file: Any, workspace: Path) -> None:
    found = cli("check", request_file())
    assert (found.code, found.failures) == (0, [])
    lines = dict(line.removeprefix("ok").strip().split(maxsplit=1) for line in found.out.splitlines())
    assert list(lines) == ["workspace", "request", "data", "model", "machine", "store", "tracking"]
    assert lines["store"] == str(workspace)
    assert lines["workspace"].startswith(f"{workspace}; disk: ")
    assert lines["data"].startswith("1 file(s), question_answer: ")
    assert lines["model"].startswith("LlamaForCausalLM, 127,296 parameters, up to 256 tokens; disk: ")
    assert not (workspace / "runs").exists()


def test_the_last_line_can_be_json(cli: Any, request_file: Any) -> None:
    report = CheckReport.model_validate_json(cli("check", request_file(), "--json").out.splitlines()[-1])
    assert report.passed
    bad = cli("check", request_file(data=None), "--json", "--set", "data.source=nothing.jsonl")
    assert not CheckReport.model_validate_json(bad.out.splitlines()[-1]).passed
    assert bad.code == 2


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "missing data file": ({"data": None}, "data nothing.jsonl: no such file. The nearest there is 'request.yaml'."),
    "empty data file": ({"data": ""}, "data data.jsonl is empty. Expected one JSON object a line, or an array of objects."),
    "malformed line": (
        {"data": ROWS.replace('{"question": "What is 2?"', '{"question": What is 2?"')},
        "data data.jsonl line 3: not JSON (Expecting value: line 1 column 14 (char 13)). Expected one whole JSON object a "
        "line; mend or remove the line.",
    ),
    "unknown columns": (
        {"data": '{"foo": "a", "bar": "b"}\n' * 20},
        "data data.jsonl: the columns foo, bar fit no known shape. Known shapes: ",
    ),
    "all answers empty": (
        {"data": '{"question": "a", "answer": ""}\n' * 20},
        "data Found rows whose answer is empty in every case: 20 of the first 20 rows, e.g. data.jsonl line 1, ",
    ),
    "no base model": ({"base_model": {"uri": "models/nothing"}}, "model The model 'models/nothing' was not found: it is no "),
    "adapter of a full training": (
        {"method": {"kind": "full"}, "release": {"formats": [{"kind": "adapter"}]}},
        "request release.formats asks for adapter, but method full trains no adapter; use safetensors.",
    ),
    "the same format twice": (
        {"release": {"formats": [{"kind": "safetensors"}] * 2}},
        "request release.formats names a format twice: safetensors, safetensors.",
    ),
}  # fmt: skip


def write_bad(request_file: Any, name: str) -> Path:
    changes = BAD[name][0]
    if changes.get("data", "") is None:
        return request_file(data=None, name="nothing.jsonl")
    return request_file(**changes)


@pytest.mark.parametrize("name", BAD)
def test_check_refuses_with_one_clear_message(cli: Any, request_file: Any, name: str) -> None:
    found = cli("check", write_bad(request_file, name))
    assert found.code == 2
    assert len(found.failures) == 1
    assert " ".join(found.failures[0].split()).startswith(BAD[name][1])


TRAINING: dict[str, tuple[dict[str, Any], str]] = {
    "rank 0": ({"method": {"kind": "lora", "rank": 0}}, "method.rank is 0, expected at least 1."),
    "rank above the model": (
        {"method": {"kind": "lora", "rank": 65}},
        "model method.rank 65 is above the model's hidden size 64; use a smaller rank, e.g. 16.",
    ),
    "unknown target": (
        {"method": {"kind": "lora", "targets": "q_prj"}},
        "model method.targets names 'q_prj', which is no layer of models/tiny that this method can adapt: it has down_proj, "
        "embed_tokens, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj. Did you mean q_proj? Or use all-linear.",
    ),
    "longer than the model holds": (
        {"training": {"max_length": 512}},
        "model training.max_length is 512, but models/tiny holds at most 256 tokens.",
    ),
    "more devices than there are": (
        {"resources": {"devices": 1024}}, "machine resources.devices is 1024, but this machine has ",
    ),
    "an adapter that ZeRO 3 cannot divide": (
        {"method": {"kind": "adalora"}, "resources": {"zero_stage": 3}},
        "machine resources.zero_stage is 3, but at most 2 works here: AdaLoRA weighs and masks whole adapters between two "
        "steps, which ZeRO 3 divides.",
    ),
    "8 bits on machines that may be lost": (
        {"resources": {"hosts": ["localhost", "127.0.0.2"]}, "training": {"advanced": {"optimizer": "adamw_8bit"}}},
        "machine training.advanced.optimizer is adamw_8bit, but where a machine is lost the others go on with moments",
    ),
    "not enough disk": (
        {"method": {"kind": "full"}, "training": {"advanced": {"keep_checkpoints": 100}}},
        "model A run with models/tiny and its 101 checkpoints needs about ",
    ),
    "machines without names": (
        {"resources": {"nodes": 2}},
        "hosts resources.nodes is 2, but resources.hosts names no machine. Name 2 as ssh knows them, e.g. hosts: [gpu-1, ",
    ),
    "a host that is nowhere": (
        {"resources": {"hosts": ["nowhere.invalid"]}}, "hosts resources.hosts names nowhere.invalid, which has no address here",
    ),
    "a host that does not see the files": (
        {"resources": {"hosts": ["127.0.0.1"]}},
        "hosts resources.hosts: 127.0.0.1 cannot take part (it does not see the same files). It must be reached without a ",
    ),
    "tokens to learn that nobody named": (
        {"method": {"kind": "custom", "config": {"peft_type": "TRAINABLE_TOKENS"}}},
        "model method.config: TRAINABLE_TOKENS learns single tokens, and token_indices names none",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRAINING)
def test_check_refuses_a_training_that_cannot_be_with_one_clear_message(
    cli: Any, request_file: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, told = TRAINING[name]
    usage = shutil.disk_usage("/")
    monkeypatch.setattr("tasks.workspace.shutil.disk_usage", lambda _: usage._replace(free=400 * 2**20))
    reach = """sh -c 'test "$0" != 127.0.0.1 && exec sh -c "$1"' {host} {command}"""  # all but one
    monkeypatch.setenv("TUNEFLOW_HOST_COMMAND", reach)
    path = request_file(**changes)
    found = cli("check", path)
    assert found.code == 2
    problems = found.failures or [found.err.removeprefix(f"Error: {path}: ")]
    assert len(problems) == 1
    assert " ".join(problems[0].split()).startswith(told)


def test_hosts_that_answer_and_a_disk_with_room_pass(
    cli: Any, request_file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNEFLOW_HOST_COMMAND", f"sh -c 'echo $0 >> {tmp_path}/asked; exec sh -c \"$1\"' {{host}} {{command}}")
    hosts = {"hosts": ["127.0.0.1", "localhost"], "least_nodes": 2}
    found = cli("check", request_file(resources=hosts, training={"advanced": {"keep_checkpoints": 1}}))
    assert (found.code, found.failures) == (0, [])
    assert "127.0.0.1, localhost: all answer" in found.out
    assert (tmp_path / "asked").read_text().split() == ["127.0.0.1", "localhost"]


def test_unknown_columns_are_listed_with_the_way_to_map_them(cli: Any, request_file: Any) -> None:
    path = write_bad(request_file, "unknown columns")
    assert cli("check", path).failures[0].endswith("e.g. `--set data.columns.question=ask --set data.columns.answer=reply`.")
    settings = ("--set", "data.columns.question=foo", "--set", "data.columns.answer=bar")
    assert cli("check", path, *settings).code == 0


@pytest.mark.parametrize("command", ["run", "prepare"])
@pytest.mark.parametrize("name", ["missing data file", "no base model"])
def test_run_refuses_before_anything_starts(cli: Any, request_file: Any, name: str, command: str, workspace: Path) -> None:
    children = set(psutil.Process().children(recursive=True))
    found = cli(command, write_bad(request_file, name))
    assert found.code == 2
    error = next(line for line in found.err.splitlines() if line.startswith("Error: "))
    assert error.startswith(f"Error: {BAD[name][1].partition(' ')[2]}")
    assert found.out == ""
    assert "is starting" not in found.err  # the line that tells of the embedded server
    assert set(psutil.Process().children(recursive=True)) <= children
    assert not list((workspace / "prefect").glob("*.db*"))
    assert not (workspace / "runs").exists()


def test_several_problems_are_told_at_once(cli: Any, request_file: Any) -> None:
    path = request_file(data=None, name="nothing.jsonl", base_model={"uri": "models/nothing"}, resources={"precision": "fp16"})
    found = cli("check", path)
    assert found.code == 2
    assert {line.split()[0] for line in found.failures} >= {"data", "model"}
    told = [line for line in cli("run", path).err.splitlines() if line.startswith(("Error: 1. ", "2. "))]
    assert [line.removeprefix("Error: ").split(maxsplit=2)[1] for line in told] == ["nothing.jsonl:", "The"]


def test_prepare_tells_all_problems_of_its_own_part(cli: Any, request_file: Any) -> None:
    path = request_file(data=None, name="nothing.jsonl", base_model={"uri": "models/nothing"}, resources={"devices": 1024})
    found = cli("prepare", path)
    assert (found.code, found.out) == (2, "")
    told = [line for line in found.err.splitlines() if line.startswith(("Error: 1. ", "2. ", "3. "))]
    assert [line.removeprefix("Error: ").split(maxsplit=2)[1] for line in told] == ["nothing.jsonl:", "The"]  # no devices


@pytest.mark.parametrize("command", ["check", "run", "prepare"])
def test_a_misspelt_key_is_refused(cli: Any, request_file: Any, command: str) -> None:
    found = cli(command, request_file(trainning={"epochs": 1}))
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith(f"Error: {request_file()}: Unknown key 'trainning'. Did you mean 'training'? Known: ")


@pytest.mark.parametrize("command", ["check", "run", "prepare"])
def test_a_workspace_that_cannot_be_written_is_refused(cli: Any, request_file: Any, tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("")
    folder = tmp_path / "file" / "workspace"  # below a file: root ignores permissions
    found = cli(command, request_file(), folder=folder)
    assert found.code == 2
    message = (
        f"The workspace {folder} cannot be written: Not a directory. Choose another with --workspace or TUNEFLOW_WORKSPACE."
    )
    assert message in (found.failures[0] if command == "check" else found.err)


def test_a_missing_request_names_those_there(cli: Any, request_file: Any, tmp_path: Path) -> None:
    request_file()
    found = cli("check", tmp_path / "reqest.yaml")
    assert found.code == 2
    assert found.err == f"Error: There is no request file {tmp_path}/reqest.yaml. Here are: {tmp_path}/request.yaml.\n"


def test_settings_of_the_command_line_are_checked_too(cli: Any, request_file: Any) -> None:
    found = cli("check", request_file(), "--set", "training.epochs=0")
    assert (found.code, found.err) == (2, f"Error: {request_file()}: training.epochs is 0, expected above 0.\n")


def test_explain_tells_each_steps_reason(cli: Any, tmp_path: Path) -> None:
    records = [
        StepRecord(step="train", key="k", cached=False, reason="changed: spec.epochs 1 -> 2", seconds=0),  # at 0: never ended
        StepRecord(step="load", key="k", cached=True, reason="nothing changed", seconds=0.04, at=1.0),
        StepRecord(step="clean", key="k", cached=False, reason="first time under this name", seconds=2.5, at=2.0),
    ]
    steps = tmp_path / "workspace" / "runs" / "bot" / "steps"
    steps.mkdir(parents=True)
    for record in records:
        (steps / f"{record.step}.json").write_text(record.model_dump_json())
    found = cli("explain", "bot", folder=tmp_path / "workspace")
    assert found.code == 0
    assert [" ".join(line.split()) for line in found.out.splitlines()] == [
        "cached load 0.0 s nothing changed",
        "ran clean 2.5 s first time under this name",
        "broke off train 0.0 s changed: spec.epochs 1 -> 2",
    ]
    told = json.loads(cli("explain", "bot", "--json", folder=tmp_path / "workspace").out)
    assert [StepRecord.model_validate(step) for step in told] == [*records[1:], records[0]]


def test_explain_of_an_unknown_run_names_the_known(cli: Any, tmp_path: Path) -> None:
    folder = tmp_path / "workspace" / "runs"
    for name in ("one", "two"):
        (folder / name / "steps").mkdir(parents=True)
        (folder / name / "steps" / "load.json").write_text("{}")
    found = cli("explain", "three", folder=tmp_path / "workspace")
    assert (found.code, found.err) == (2, f"Error: There is no run 'three' in {folder}. Known: one, two.\n")
    assert cli("explain", "three", folder=tmp_path / "empty").err.endswith("Known: none.\n")


@pytest.mark.parametrize("arguments", [[], ["train"], ["run"], ["prepare"], ["check", "a", "--colour"]])
def test_a_bad_command_line_is_the_users_to_mend(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: tuneflow")


def test_the_schema_is_a_json_schema_that_fits_requests(capsys: pytest.CaptureFixture[str]) -> None:
    from jsonschema import Draft202012Validator

    from flows.reading import parse_request

    assert main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    short = {"name": "bot", "base_model": {"uri": "m"}, "data": {"source": "d.jsonl"}}
    for good in (short, parse_request(short, "").model_dump(mode="json")):
        assert list(validator.iter_errors(good)) == []
    for bad in ({}, {**short, "trainning": {}}, {**short, "method": {"kind": "lora", "rank": 0}}):
        assert list(validator.iter_errors(bad)) != []


def test_help_is_quick_and_light() -> None:
    code = (
        "import sys\nfrom flows.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "print([name for name in ('torch', 'prefect', 'mlflow', 'pandas', 'transformers', 'pydantic') if name in sys.modules])"
    )
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
        seconds.append(time.perf_counter() - started)
        assert done.stdout.startswith("usage: tuneflow")
        assert done.stdout.splitlines()[-1] == "[]"
    assert min(seconds) < 1.0


@pytest.mark.parametrize("command", ["run", "check", "prepare", "plan", "explain", "schema"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert f"usage: tuneflow {command}" in capsys.readouterr().out
