"""What many tests share: a tiny model, tokenized sequences, and where the real datasets lie."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests and their children share few cores
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
os.environ.setdefault("DO_NOT_TRACK", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
REAL_DATA = ROOT.parent / "shared" / "data"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """What uses the session's workspace runs in one process, beside another that runs all else, file by file."""
    apart = (
        "test_cli.py",
        "test_embedded.py",
        "test_maintain.py",
        "test_form.py",
        "test_opened_run.py",
        "test_prepare.py",
        "test_reading.py",
        "test_services.py",
    )
    from xdist.scheduler import LoadScopeScheduling

    class ByWorkspace(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::", maxsplit=1)[0]
            return "flows" if file.startswith("tests/flows/") and not file.endswith(apart) else file

    return ByWorkspace(config, log)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A two-layer Llama of random weights, 512 words of vocabulary, without a tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tasks.models import describe

    folder = tmp_path_factory.mktemp("tiny") / "base"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return describe(str(folder), folder)


@pytest.fixture(scope="session")
def sequences_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train, validation and test.parquet of arithmetic progressions: learnable, of lengths 10 to 59."""
    from random import Random

    folder = tmp_path_factory.mktemp("sequences")
    random = Random(0)
    for name, count in (("train", 160), ("validation", 24), ("test", 24)):
        write_sequences(folder / f"{name}.parquet", [progression(random) for _ in range(count)])
    return folder


def progression(random: Any) -> list[int]:
    first, length = random.randrange(3, 500), random.randrange(10, 60)
    return [(first + 3 * position) % 509 + 3 for position in range(length)]


def write_sequences(path: Path, sequences: list[list[int]], context: int = 4) -> None:
    """Write sequences whose first `context` tokens are not learned."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    supervised = [[0] * min(context, len(ids)) + [1] * max(0, len(ids) - context) for ids in sequences]
    table = pa.table(
        {
            "row": pa.array(range(len(sequences)), pa.int64()),
            "input_ids": pa.array(sequences, pa.list_(pa.int32())),
            "supervised": pa.array(supervised, pa.list_(pa.int8())),
            "prompt": [""] * len(sequences),
            "reference": [""] * len(sequences),
            "group": [str(number) for number in range(len(sequences))],
        }
    )
    pq.write_table(table, path)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real datasets."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"the real datasets are not here: {REAL_DATA} does not exist")
    return REAL_DATA
