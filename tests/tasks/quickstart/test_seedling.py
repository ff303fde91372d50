from pathlib import Path

import pytest
import torch

from tasks.models import describe, load_model, load_tokenizer
from tasks.quickstart.seedling import plant
from tasks.quickstart.text import write_corpus
from tasks.storage import records_of


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    write_corpus(path, 200, seed=0)
    return path


@pytest.fixture(scope="module")
def planted(corpus: Path) -> Path:
    plant(corpus.parent / "model", corpus, 0, vocabulary=600, hidden_size=64, layers=2)
    return corpus.parent / "model"


def test_the_same_seed_gives_the_same_files(planted: Path, corpus: Path, tmp_path: Path) -> None:
    plant(tmp_path / "again", corpus, 0, vocabulary=600, hidden_size=64, layers=2)
    plant(tmp_path / "other", corpus, 1, vocabulary=600, hidden_size=64, layers=2)
    assert records_of(tmp_path / "again") == records_of(planted)
    changed = set(records_of(tmp_path / "other")) ^ set(records_of(planted))
    assert {record.path for record in changed} == {"model.safetensors"}


def test_what_is_planted_can_be_described_and_loaded(planted: Path) -> None:
    found = describe("models/seedling", planted)
    # 600 x 64 embeddings (tied); a block: 4 x 64 x 64 attention, 3 x 64 x 160 feed-forward, 2 x 64 norms; 64 last norm.
    assert found.parameters == 600 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 160 + 2 * 64) + 64
    assert (found.architecture, found.layers, found.max_positions) == ("LlamaForCausalLM", 2, 512)
    model = load_model(planted, torch.float32)
    assert model.generation_config.eos_token_id == model.config.eos_token_id
    assert model.generation_config.pad_token_id == model.config.pad_token_id


def test_the_tokenizer_speaks_chatml(planted: Path) -> None:
    tokenizer = load_tokenizer(planted)
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|pad|>")
    text = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    tokens = tokenizer(text)["input_ids"]
    assert tokens.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(tokens) == text


@pytest.mark.parametrize("text", ["żółć 🙂 ok", " two  spaces\n\ttabs\n", "What’s 3 + 4?"])
def test_any_text_survives_the_tokenizer(planted: Path, text: str) -> None:
    tokenizer = load_tokenizer(planted)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_planting_leaves_the_random_state_alone(corpus: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    plant(tmp_path / "model", corpus, 0, vocabulary=300, hidden_size=32, layers=1)
    assert torch.equal(torch.rand(3), expected)
