"""Small data on disk, the stage's steps in a row, and a tokenizer with a ChatML template."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import CleanDataset, ModelRef, RawDataset
from tasks.data import cleaning, loading, shards
from tasks.data.spec import DataSpec

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NAMES = ("train", "validation", "test")


@pytest.fixture(scope="session")
def chatml() -> str:
    return CHATML


@pytest.fixture(scope="session")
def make_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Byte-level BPE with a template; returns the folder it is saved in."""

    def make(template: str | None = CHATML) -> Path:
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        from transformers import PreTrainedTokenizerFast

        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(["user assistant the question and the answer"] * 20, trainer)
        fast = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            eos_token="<|im_end|>",
            pad_token="<|endoftext|>",
            additional_special_tokens=["<|im_start|>"],
        )
        fast.chat_template = template
        folder = tmp_path_factory.mktemp("tokenizer")
        fast.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def base_of() -> Callable[..., ModelRef]:
    def make(folder: Path, **changes: Any) -> ModelRef:
        facts: dict[str, Any] = {
            "uri": "models/tiny", "location": str(folder), "sha256": "0" * 64, "parameters": 1, "architecture": "Tiny",
            "max_positions": 512, "vocabulary": 400, "bytes": 1, "hidden_size": 8, "layers": 1,
        }  # fmt: skip
        return ModelRef(**(facts | changes))

    return make


@pytest.fixture(scope="session")
def base(make_tokenizer: Callable[..., Path], base_of: Callable[..., ModelRef]) -> ModelRef:
    return base_of(make_tokenizer())


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Rows to a JSON-lines file; its address."""

    def to_file(rows: list[Any], name: str = "data.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return to_file


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[str], Path]:
    """A new folder for one step's files."""

    def make(name: str) -> Path:
        number = len(list(tmp_path.glob(f"{name}-*")))
        made = tmp_path / f"{name}-{number}"
        made.mkdir()
        return made

    return make


@pytest.fixture
def load(folder: Callable[[str], Path]) -> Callable[..., tuple[RawDataset, Path]]:
    def run(source: Any, **fields: Any) -> tuple[RawDataset, Path]:
        out = folder("raw")
        return loading.load("set", DataSpec(source=source, **fields), out, "mem://raw", {}), out

    return run


@pytest.fixture
def clean(
    load: Callable[..., tuple[RawDataset, Path]], folder: Callable[[str], Path]
) -> Callable[..., tuple[CleanDataset, Path]]:
    def run(source: Any, **fields: Any) -> tuple[CleanDataset, Path]:
        spec = DataSpec(source=source, **fields)
        raw, rows = load(source, **fields)
        out = folder("clean")
        return cleaning.clean(raw, spec.cleaning, rows, out, "mem://clean"), out

    return run


@pytest.fixture(scope="session")
def rows_of() -> Callable[..., list[dict[str, Any]]]:
    def read(folder: Path, name: str = "rows") -> list[dict[str, Any]]:
        return [_plain(number, row) for number, row in enumerate(shards.read_rows(folder / name))]

    return read


def _plain(number: int, row: dict[str, Any]) -> dict[str, Any]:
    """A row as most tests write it: with its number, and `learn` only where an answer is not learned."""
    messages = [{key: value for key, value in turn.items() if value is not True} for turn in row["messages"]]
    return {"row": number, **row, "messages": messages}


@pytest.fixture(scope="session")
def real() -> Callable[[str], str]:
    """The address of a real file beside the checkout; skips where it is missing."""
    root = Path(__file__).parents[4] / "shared" / "data"

    def find(name: str) -> str:
        if not (root / name).is_file():
            pytest.skip(f"the real data {name} are not in {root}")
        return str(root / name)

    return find
