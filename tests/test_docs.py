"""What the pages say is true: links lead somewhere, requests are valid, commands parse, options and examples exist."""

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from flows.cli import _parser
from flows.request import FinetuneRequest
from tasks.contracts import ModelRef, Objective, Trial
from tasks.data.shapes.values import Fit
from tasks.environment import QUIET
from tasks.search.dimensions import Number
from tasks.search.space import make_space
from tasks.training.methods.lora import Lora
from tasks.training.spec import TrainingSpec

ROOT = Path(__file__).parents[1]
PAGES = [
    path
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        ROOT / "infra" / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
    )
    if path.exists()
]
SCHEMA = FinetuneRequest.model_json_schema()
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
OPTION = re.compile(r"`((?:" + "|".join(FinetuneRequest.model_fields) + r")(?:\.\w+)+)(?:[:=][^`]*)?`")
REQUIRED = {"name", "base_model", "data"}


def blocks(path: Path, language: str) -> list[str]:
    return [code for found, code in FENCE.findall(path.read_text(encoding="utf-8")) if found == language]


def prose(path: Path) -> str:
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def heading_anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files(page: Path) -> None:
    missing = []
    for target in LINK.findall(prose(page)):
        address, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (page.parent / address).resolve() if address else page
        if not file.exists():
            missing.append(target)
        elif anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            if anchor not in map(heading_anchor, headings):
                missing.append(target)
    assert missing == []


def requests() -> Iterator[Any]:
    for path in sorted((ROOT / "examples").glob("*.yaml")):
        yield pytest.param(path.read_text(encoding="utf-8"), id=named(path))
    for page in PAGES:
        for number, block in enumerate(blocks(page, "yaml")):
            content = yaml.safe_load(block)
            if isinstance(content, dict) and set(content) >= REQUIRED:
                yield pytest.param(block, id=f"{named(page)} {number}")


@pytest.mark.parametrize("text", requests())
def test_requests_are_valid(text: str) -> None:
    content = yaml.safe_load(text)
    assert FinetuneRequest.model_validate(content).name == content["name"]


def test_the_quickstart_deployment_is_the_quickstart_example() -> None:
    asked = yaml.safe_load((ROOT / "deployments.yaml").read_text(encoding="utf-8"))["deployments"]
    deployed = next(each for each in asked if each["name"] == "quickstart")["parameters"]["request"]
    example = yaml.safe_load((ROOT / "examples" / "quickstart.yaml").read_text(encoding="utf-8"))
    assert FinetuneRequest.model_validate(deployed) == FinetuneRequest.model_validate(example)


def commands() -> Iterator[Any]:
    for page in PAGES:
        for language in ("", "bash", "sh", "console", "shell"):
            for block in blocks(page, language):
                for line in block.replace("\\\n", " ").splitlines():
                    found = re.match(r"\s*(?:\$ )?(?:\.venv/bin/)?tuneflow (.*)", line)
                    if found:
                        yield pytest.param(re.split(r"\s[|>#]", found[1])[0], id=f"{named(page)}: {found[1]}")
        for span in re.findall(r"`(?:\.venv/bin/)?tuneflow ([a-z][^`]*)`", prose(page)):
            yield pytest.param(span, id=f"{named(page)}: {span}")


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line: str) -> None:
    words = shlex.split(line)
    if len(words) == 1:  # a command named in a sentence
        assert words[0] in subcommands()
        return
    options = _parser().parse_args(words)
    if str(getattr(options, "request", "")).startswith("examples/"):
        assert (ROOT / options.request).is_file()
    for setting in getattr(options, "settings", ()):
        assert exists(setting.partition("=")[0]), setting


def subcommands() -> set[str]:
    actions = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return set(actions[0].choices)


def nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A schema node, its references followed and the members of its unions."""
    if "$ref" in node:
        yield from nodes(SCHEMA["$defs"][node["$ref"].rpartition("/")[2]])
        return
    yield node
    for member in (*node.get("anyOf", ()), *node.get("oneOf", ()), *node.get("allOf", ())):
        yield from nodes(member)


def step(node: dict[str, Any], part: str) -> list[dict[str, Any]]:
    found = []
    for one in nodes(node):
        if part in one.get("properties", {}):
            found.append(one["properties"][part])
        elif part.isdigit() and "items" in one:
            found.append(one["items"])
        elif isinstance(one.get("additionalProperties"), dict):
            found.append(one["additionalProperties"])
    return found


def exists(path: str) -> bool:
    """Whether a request has this option; a part that is a number is an index of a list."""
    here = [SCHEMA]
    for part in path.split("."):
        here = [below for node in here for below in step(node, part)]
    return bool(here)


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("training.advanced.beta1", True),
        ("method.rank", True),
        ("evaluation.benchmarks.0.items", True),
        ("data.columns.question", True),
        ("training.lr", False),
        ("evaluation.benchmarks.items", False),
        ("search.strategy.trials", False),
    ],
)
def test_options_are_found_in_the_schema(path: str, known: bool) -> None:
    assert exists(path) is known


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_options_in_the_text_exist(page: Path) -> None:
    assert [option for option in OPTION.findall(prose(page)) if not exists(option)] == []


def leaves(prefix: str) -> Iterator[str]:
    here = [SCHEMA]
    for part in prefix.split("."):
        here = [below for node in here for below in step(node, part)]
    for node in here:
        for one in nodes(node):
            for name in one.get("properties", {}):
                below = list(leaves(f"{prefix}.{name}"))
                yield from below or [f"{prefix}.{name}"]


@pytest.mark.parametrize(
    ("page", "prefix"),
    [
        ("training", "training"),
        ("training", "method"),
        ("training", "resources"),
        ("search", "search"),
        ("release", "release"),
        ("data", "data.cleaning"),
        ("data", "data.splitting"),
        ("data", "data.augmentation"),
        ("data", "data.validation"),
    ],
)
def test_every_option_is_explained(page: str, prefix: str) -> None:
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    options = set(leaves(prefix))
    assert options
    assert [option for option in sorted(options) if f"`{option}`" not in text] == []


def test_the_telemetry_switches_are_listed() -> None:
    text = (ROOT / "docs" / "secure.md").read_text(encoding="utf-8")
    assert [name for name, value in QUIET.items() if f"{name}={value}" not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_python_examples_compile(page: Path) -> None:
    for code in blocks(page, "python"):
        assert compile(code, named(page), "exec")


def example(path: str) -> ModuleType:
    """The module that CONTRIBUTING.md shows for `path`, executed."""
    code = next(code for code in blocks(ROOT / "CONTRIBUTING.md", "python") if code.startswith(f"# {path}\n"))
    assert not (ROOT / path).exists()  # an example of a file that is still to be written
    name = path.removesuffix(".py").replace("/", ".")
    module = ModuleType(name)
    exec(compile(code, path, "exec"), module.__dict__)  # noqa: S102
    return module


def test_the_example_of_a_training_method_fits() -> None:
    base = ModelRef(
        uri="x", location="x", sha256="0" * 64, parameters=1_000, architecture="LlamaForCausalLM", max_positions=64,
        vocabulary=100, bytes=4_000, hidden_size=8, layers=2,
    )  # fmt: skip
    method = example("tasks/training/methods/ia3.py").Ia3()
    assert method.kind == "ia3"
    assert method.check(base) == ""
    assert method.trainable_parameters(base) == 2 * 3 * 8
    assert "method.feedforward names up_proj" in method.model_copy(update={"feedforward": "up_proj"}).check(base)
    assert [name for name in ("load", "wrap", "save") if not callable(getattr(method, name))] == []
    assert method.most_divided()[0] == 2
    assert method.driver(None, 1, None).state() == {}


def test_the_example_of_a_format_fits(tmp_path: Path) -> None:
    module = example("tasks/data/formats/lines.py")
    path = tmp_path / f"a{module.SUFFIXES[0]}"
    path.write_text("one\n\ntwo\n", encoding="utf-8")
    assert list(module.read(str(path), {})) == [(1, {"text": "one"}), (3, {"text": "two"})]


def test_the_example_of_a_shape_fits() -> None:
    module = example("tasks/data/shapes/translation.py")
    row = {"src": "ja", "tgt": "yes", "language": "English"}
    fit = module.fit(list(row), {}, [row])
    assert isinstance(fit, Fit)
    assert fit.mapping == {"source": "src", "translation": "tgt", "language": "language"}
    assert module.to_messages(row, fit.mapping) == [
        {"role": "user", "content": "Translate into English:\n\nja"},
        {"role": "assistant", "content": "yes"},
    ]


def test_the_example_of_an_exporter_fits() -> None:
    exporter = example("tasks/release/exporters/half.py").Half()
    assert exporter.kind == "half"
    assert exporter.tolerance(None) == 0.25
    assert callable(exporter.export)
    assert callable(exporter.load)


def test_the_example_of_a_strategy_fits() -> None:
    strategy = example("tasks/search/strategies/narrowing.py").Narrowing()
    space = make_space([Number(path="training.learning_rate", low=1e-5, high=1e-3, log=True)], Lora(), TrainingSpec())
    assert strategy.check(space, 1).startswith("search.trials is 1")
    assert strategy.propose(space, (), 0, seed=0) == space.control
    first = strategy.propose(space, (), 1, seed=0)
    assert 1e-5 <= first["training.learning_rate"] < 1e-3
    best = Trial(number=1, settings=first, objectives=(Objective(name="loss", value=1.0),), status="done", seconds=1)
    assert strategy.propose(space, (best,), 2, seed=0) != strategy.propose(space, (), 2, seed=0)


def test_the_example_of_a_benchmark_fits(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"row": n, "group": str(n), "input_ids": [1, 2], "supervised": [0, 1], "prompt": "p", "reference": reference}
        for n, reference in enumerate(["yes", "one two three", ""])
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test.parquet")
    module = example("tasks/evaluation/benchmarks/short_answers.py")
    benchmark = module.ShortAnswers(words=2, generated_items=1)
    items = benchmark.choose(tmp_path / "test.parquet", 0)
    assert [item.reference for item in items] == ["yes"]
    assert benchmark.asked(items) == items
