"""Request files: what is read, and what a newcomer is told about a bad one."""

import json
from pathlib import Path
from typing import Any

import pytest

from flows.reading import parse_request, read_request
from tasks.data.spec import ColumnsSpec
from tasks.errors import RequestError
from tasks.release.spec import ReleaseSpec
from tasks.training.methods.full import Full
from tasks.training.spec import TrainingSpec

GOOD: dict[str, Any] = {"name": "bot", "base_model": {"uri": "m"}, "data": {"source": "d.jsonl"}}
TEXT = "name: bot\nbase_model: {uri: m}\ndata: {source: d.jsonl}\n"


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def to_file(text: str, name: str = "request.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return to_file


def refusal(content: dict[str, Any]) -> str:
    with pytest.raises(RequestError) as caught:
        parse_request(content, "r.yaml")
    return str(caught.value)


def test_yaml_and_json_say_the_same(write: Any) -> None:
    tabbed = json.dumps(GOOD, indent="\t")  # tabs are not YAML
    assert read_request(write(TEXT)) == read_request(write(tabbed, "request.json")) == parse_request(GOOD, "")


def test_a_short_request_gets_every_default(write: Any) -> None:
    request = read_request(write(TEXT))
    assert request.model_dump(mode="json") == request.defaults()
    assert (request.method.kind, request.release, request.training.epochs) == ("lora", ReleaseSpec(), 2.0)


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("training.epochs=3", "training.epochs", 3.0),
        ("training.learning_rate=1e-4", "training.learning_rate", 1e-4),
        ("training.advanced.clip_norm=0", "training.advanced.clip_norm", 0.0),
        ("method={kind: full}", "method.kind", "full"),
        ("method.kind=full", "method.kind", "full"),
        ("data.source=a=b.jsonl", "data.source", "a=b.jsonl"),
        ("data.source=[a.jsonl, b.jsonl]", "data.source", ["a.jsonl", "b.jsonl"]),
        ("data.columns.question=ask", "data.columns", ColumnsSpec(question="ask")),
        ("base_model.hub=", "base_model.hub", ""),
        ("base_model.trust_remote_code=true", "base_model.trust_remote_code", True),
        ("name=other", "name", "other"),
        ('name="123"', "name", "123"),
    ],
)
def test_settings_reach_their_place(write: Any, setting: str, path: str, value: object) -> None:
    found: Any = read_request(write(TEXT), [setting])
    for key in path.split("."):
        found = getattr(found, key)
    assert found == value


def test_settings_reach_into_lists(write: Any) -> None:
    content = {**GOOD, "data": {"source": ["a.jsonl", "b.jsonl"]}, "release": {"formats": [{"kind": "safetensors"}]}}
    settings = [
        "data.source.1=c.jsonl",
        "data.source.0.address=x.jsonl",
        "data.source.0.weight=2",
        "release.formats.0.shard_gib=1",
    ]
    request = read_request(write(json.dumps(content)), settings)
    assert [(source.address, source.weight) for source in request.data.sources()] == [("x.jsonl", 2.0), ("c.jsonl", 1.0)]
    assert request.release.formats[0].model_dump() == {"kind": "safetensors", "shard_gib": 1.0}


def test_later_settings_win_and_the_default_method_can_be_set_in_part(write: Any) -> None:
    request = read_request(write(TEXT), ["seed=1", "seed=2", "method.kind=lora", "method.rank=4"])
    assert (request.seed, request.method.model_dump()["rank"]) == (2, 4)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("epochs", "--set 'epochs' is not of the form path=value, e.g. --set training.epochs=3."),
        ("=3", "--set '=3' is not of the form path=value, e.g. --set training.epochs=3."),
        ("data.source.2=x", "--set 'data.source.2=x': '2' is not an index of a list of 1; the first is 0."),
        ("data.source.x.weight=2", "--set 'data.source.x.weight=2': 'x' is not an index of a list of 1; the first is 0."),
        ("name=[", "--set 'name=[': the value is not YAML: "),
    ],
)
def test_settings_that_reach_nothing(write: Any, setting: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_request(write(json.dumps({**GOOD, "data": {"source": ["a.jsonl"]}})), [setting])
    assert str(caught.value).startswith(message)


TRAINING_KEYS = ", ".join(sorted(TrainingSpec.model_fields))
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "misspelt": ({"trainning": {}}, "Unknown key 'trainning'. Did you mean 'training'? Known: base_model, data, evaluation, "),
    "misspelt below": (
        {"training": {"epoch": 3}},
        f"Unknown training key 'epoch'. Did you mean 'epochs'? Known: {TRAINING_KEYS}.",
    ),
    "misspelt far below": (
        {"training": {"advanced": {"warmup": 1}}},
        "Unknown training.advanced key 'warmup'. Did you mean 'warmup_share'? Known: activation_checkpointing, beta1, ",
    ),
    "unlike any": ({"training": {"colour": 1}}, f"Unknown training key 'colour'. Known: {TRAINING_KEYS}."),
    "in the wrong place": ({"learning_rate": 1e-3}, "Unknown key 'learning_rate': it belongs to training"),
    "in the wrong section": ({"training": {"seed": 3}}, "Unknown training key 'seed': it belongs to the top level."),
    "in the method": (
        {"method": {"kind": "lora", "rnk": 4}},
        "Unknown method key 'rnk'. Did you mean 'rank'? Known: alpha, dropout, init, kind, rank, rank_stabilized, targets, ",
    ),
    "in another method": (
        {"method": {"kind": "full", "size": 4}},
        f"Unknown method key 'size'. Known: {', '.join(Full.model_fields)}.",
    ),
    "in a list": (
        {"release": {"formats": [{"kind": "safetensors", "shard": 1}]}},
        "Unknown release.formats.0 key 'shard'. Did you mean 'shard_gib'? Known: kind, shard_gib.",
    ),
    "column": (
        {"data": {"source": "a", "columns": {"quesiton": "ask"}}},
        "Unknown data.columns key 'quesiton'. Did you mean 'question'? Known: answer, completion, context, ",
    ),
    "method": ({"method": {"kind": "lorra"}}, "Unknown method.kind 'lorra'. Did you mean 'lora'? Known: "),
    "no method": ({"method": {"rank": 4}}, "method.kind is missing. Known: "),
    "method as text": ({"method": "lora"}, "method is 'lora', expected keys and values such as {kind: lora}."),
    "format": ({"release": {"formats": [{"kind": "onyx"}]}}, "Unknown release.formats.0.kind 'onyx'. "),
    "format as text": (
        {"release": {"formats": ["adapter"]}},
        "release.formats.0 is 'adapter', expected keys and values such as {kind: ",
    ),
    "no format": ({"release": {"formats": []}}, "release.formats is [], expected at least 1 of them."),
    "choice": (
        {"data": {"source": "d", "task": "caht"}},
        "Unknown data.task 'caht'. Did you mean 'chat'? Known: auto, chat, classification, completion, qa, text.",
    ),
    "too small": ({"method": {"kind": "lora", "rank": 0}}, "method.rank is 0, expected at least 1."),
    "too large": ({"evaluation": {"confidence": 2}}, "evaluation.confidence is 2, expected at most 0.999."),
    "not above": ({"training": {"epochs": 0}}, "training.epochs is 0, expected above 0."),
    "not below": ({"method": {"kind": "lora", "dropout": 1}}, "method.dropout is 1, expected below 1."),
    "no text": ({"base_model": {"uri": ""}}, "base_model.uri is '', expected at least 1 character(s)."),
    "bad name": (
        {"name": "Bad Name"},
        "name is 'Bad Name': use 1 to 63 lower-case letters, digits and dashes, no dash at either end, e.g. support-bot.",
    ),
    "name as number": ({"name": 5}, "name is 5, expected text; put it in quotes."),
    "own rule": (
        {"data": {"source": "d", "cleaning": {"near_duplicates": 0.1}}},
        "data.cleaning.near_duplicates is 0.1: below 0.3 unrelated rows would go; use 0 (off) or 0.3 to 1.",
    ),
    "words for a number": ({"training": {"epochs": "many"}}, "training.epochs is 'many', expected a number."),
    "half a step": ({"training": {"max_steps": 3.5}}, "training.max_steps is 3.5, expected a whole number."),
    "maybe": (
        {"base_model": {"uri": "m", "trust_remote_code": "maybe"}},
        "base_model.trust_remote_code is 'maybe', expected true or false.",
    ),
    "empty section": ({"training": None}, "training is empty, expected keys and values such as {epochs: 2.0}."),
    "empty value": ({"training": {"epochs": None}}, "training.epochs is empty, expected a number."),
    "section as text": ({"base_model": "m"}, "base_model is 'm', expected keys and values such as {uri: ...}."),
    "one of several types": ({"data": {"source": 3}}, "data.source is 3, expected text or a list."),
    "text or number": ({"resources": {"devices": "all"}}, "resources.devices is 'all', expected 'auto' or a whole number."),
    "choice of numbers": ({"resources": {"zero_stage": 5}}, "resources.zero_stage is 5, expected 'auto', 0, 1, 2 or 3."),
    "inside a mixed list": (
        {"data": {"source": [{"address": "x", "weight": 0}]}},
        "data.source.0.weight is 0, expected above 0.",
    ),
    "missing below": ({"base_model": {}}, "base_model.uri is missing: it has no default."),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests(name: str) -> None:
    change, message = BAD[name]
    found = refusal({**GOOD, **change})
    assert found.startswith(f"r.yaml: {message}")
    assert "\n" not in found


def test_missing_names_are_all_told() -> None:
    missing = [f"  - {key} is missing: it has no default." for key in ("name", "base_model", "data")]
    assert refusal({}) == "\n".join(["r.yaml: ", *missing])


def test_several_problems_are_told_at_once() -> None:
    found = refusal({**GOOD, "seed": -1, "trainning": {}, "data": {"source": [{"adress": "x"}]}})
    assert found.splitlines()[1:] == [
        "  - data.source.0.address is missing: it has no default.",
        "  - Unknown data.source.0 key 'adress'. Did you mean 'address'? Known: address, weight.",
        "  - seed is -1, expected at least 0.",
        next(line for line in found.splitlines() if "trainning" in line),
    ]


@pytest.mark.parametrize("name", ["a", "0", "support-bot", "a" * 63])
def test_good_names(name: str) -> None:
    assert parse_request({**GOOD, "name": name}, "").name == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "a_b", "A", "a/b", "..", "a" * 64, "a\n", "é"])
def test_bad_names(name: str) -> None:
    assert "lower-case letters, digits and dashes" in refusal({**GOOD, "name": name})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a: b\n", " line 1: not YAML: mapping values are not allowed here."),
        ("name: bot\n\ttraining: 1\n", " line 2: not YAML: found character '\\t' that cannot start any token."),
        ("name: bot\ndata: [\n", " line 3: not YAML: "),
        ("name: bot\nseed: 1\nname: other\n", " line 3: not YAML: the key 'name' stands twice."),
        ("training:\n  epochs: 1\n  epochs: 2\n", " line 3: not YAML: the key 'epochs' stands twice."),
        ("", " holds nothing, not keys and values. A request starts like this: name: my-model"),
        ("# only a comment\n", " holds nothing, not keys and values."),
        ("- a\n- b\n", " holds a list, not keys and values."),
        ("just words\n", " holds a str, not keys and values."),
    ],
)
def test_files_that_are_no_request(write: Any, text: str, message: str) -> None:
    path = write(text)
    with pytest.raises(RequestError) as caught:
        read_request(path)
    assert str(caught.value).startswith(f"{path}{message}")


def test_bytes_that_are_no_text_and_json_that_is_cut(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "request.yaml"
    path.write_bytes(b"name: \xff\xfe\n")
    for bad in (path, write('{"name": ', "request.json")):
        with pytest.raises(RequestError, match="cannot be read as YAML or JSON"):
            read_request(bad)


def test_a_missing_file_names_those_there(tmp_path: Path, write: Any) -> None:
    with pytest.raises(RequestError) as caught:
        read_request(tmp_path / "nowhere" / "x.yaml")
    assert str(caught.value) == f"There is no request file {tmp_path}/nowhere/x.yaml."
    write(TEXT, "one.yaml"), write(TEXT, "two.yml"), write(TEXT, "notes.txt")
    for missing in (tmp_path / "x.yaml", tmp_path):
        with pytest.raises(RequestError) as caught:
            read_request(missing)
        listed = f"Here are: {tmp_path}/one.yaml, {tmp_path}/two.yml."
        assert str(caught.value) == f"There is no request file {missing}. {listed}"


def test_a_yaml_anchor_may_be_merged_and_overridden(write: Any) -> None:
    text = "name: bot\nbase_model: &model {uri: m}\ndata: {source: d}\ntraining: {<<: {epochs: 1}, epochs: 4}\n"
    assert read_request(write(text)).training.epochs == 4
