"""What is said of model folders, good and bad, and what loading them gives."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.contracts import ModelRef, digest_of
from tasks.errors import ModelError
from tasks.models import describe, download, find_on_hub, load_model, load_tokenizer, local_folder, weights_digest
from tasks.storage import sha256_file


def byte_tokenizer(**special: str) -> Any:
    """A tokenizer of bytes; ids 0 to 255, and those of the special tokens after them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: at for at, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


@pytest.fixture
def folder(tiny_base: ModelRef, tmp_path: Path) -> Path:
    """A copy of the tiny base model."""
    return Path(shutil.copytree(tiny_base.location, tmp_path / "model"))


def set_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_folder_is_described_by_its_files(folder: Path) -> None:
    found = describe("models/tiny", folder)
    embedding, attention, mlp, norms = 512 * 64, 4 * 64 * 64, 3 * 64 * 160, 2 * 64
    files = ("config.json", "generation_config.json", "model.safetensors")
    assert found == ModelRef(
        uri="models/tiny", location=str(folder), parameters=embedding + 2 * (attention + mlp + norms) + 64,
        sha256=digest_of([(name, sha256_file(folder / name)) for name in files]), architecture="LlamaForCausalLM",
        max_positions=256, vocabulary=512, bytes=(folder / "model.safetensors").stat().st_size, hidden_size=64, layers=2,
    )  # fmt: skip


def test_the_hash_follows_the_content(folder: Path, tmp_path: Path) -> None:
    before = describe("m", folder).sha256
    (folder / "README.md").write_text("words")
    assert describe("m", folder).sha256 == before
    assert describe("other", shutil.copytree(folder, tmp_path / "copy")).sha256 == before
    set_config(folder, rope_theta=5.0)
    assert describe("m", folder).sha256 != before


def test_a_commit_stands_for_the_content(folder: Path) -> None:
    found = describe("org/model", folder, revision="abc")
    assert (found.sha256, found.revision) == (digest_of(["org/model", "abc"]), "abc")


def _remove(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no configuration": (_remove("config.json"), r"^m: .*/model has no config\.json, so it is not a Hugging Face model fol"),
    "broken configuration": (lambda folder: (folder / "config.json").write_text("{"), r"^m: .*/config\.json is not JSON: "),
    "other weights only": (
        lambda folder: (folder / "model.safetensors").rename(folder / "pytorch_model.bin"),
        r"^m: no \*\.safetensors file in .* \(found: config\.json, generation_config\.json, pytorch_model\.bin\)\. "
        r"Other weight formats are not loaded\.",
    ),
    "cut weights": (_cut, r"/model\.safetensors is not a whole safetensors file: .*\. Fetch it again\.$"),
    "empty weights": (
        lambda folder: (folder / "model.safetensors").write_bytes(b""), "model.safetensors is not a whole safetensors file",
    ),
    "own code": (
        lambda folder: set_config(folder, auto_map={"AutoConfig": "mine.Config"}),
        r"^m brings its own Python code\. Read it, then set base_model\.trust_remote_code: true to run it\.$",
    ),
    "unknown type": (lambda folder: set_config(folder, model_type="nonesuch"), r"^m: .*/config\.json cannot be used: .*none"),
    "no language model": (
        lambda folder: set_config(folder, model_type="t5", architectures=["T5ForConditionalGeneration"]),
        r"^m is a t5 model, not a causal language model\. Use one that continues text, such as Qwen/Qwen3-0\.6B\.$",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_a_folder_that_cannot_be_used_is_refused(folder: Path, name: str) -> None:
    harm, message = BROKEN[name]
    harm(folder)
    with pytest.raises(ModelError, match=message):
        describe("m", folder)


def test_a_model_without_a_limit_of_positions(folder: Path) -> None:
    from transformers import MambaConfig

    MambaConfig(vocab_size=512, hidden_size=64, num_hidden_layers=2).save_pretrained(folder)
    assert describe("m", folder).max_positions == 1_048_576


def test_folders_are_found_here_in_the_workspace_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, workspace = tmp_path / "here", tmp_path / "workspace"
    for made in (here / "one", workspace / "models" / "two"):
        made.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(here))
    assert local_folder("one", workspace) == local_folder("~/one", workspace) == here / "one"
    assert local_folder("models/two", workspace) == workspace / "models" / "two"
    assert local_folder(str(here / "one"), workspace) == here / "one"
    assert local_folder("org/model", workspace) is None


@pytest.mark.parametrize("look", [download, find_on_hub])
def test_a_hub_that_does_not_answer_is_told_with_a_way_out(look: Callable[[str], object]) -> None:
    """`tests/conftest.py` sets HF_HUB_OFFLINE=1."""
    message = (
        r"^The model 'nobody/no-such-model' was not found: it is no folder here or in the workspace, and the hub says: .+"
        r"\. Use a folder with config\.json and \*\.safetensors, or a hub id such as Qwen/Qwen3-0\.6B\.$"
    )
    with pytest.raises(ModelError, match=message) as caught:
        look("nobody/no-such-model")
    assert ".." not in str(caught.value)


def test_an_address_that_is_no_hub_id_is_told_too() -> None:
    with pytest.raises(ModelError, match=r"^The model '\./models/mine' was not found: it is no folder here"):
        find_on_hub("./models/mine")


def test_a_tokenizer_gets_a_padding_token(tmp_path: Path) -> None:
    byte_tokenizer(eos_token="<end>").save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.pad_token, tokenizer.pad_token_id, tokenizer.eos_token_id) == ("<end>", 256, 256)
    assert tokenizer.decode(tokenizer("héllo")["input_ids"]) == "héllo"


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(
        ModelError, match=r"^The tokenizer in .* has no end-of-sequence token, so that answers would never end\.$"
    ):
        load_tokenizer(tmp_path)


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"^No tokenizer can be loaded from .*/model: "):
        load_tokenizer(folder)


def test_a_model_is_loaded_in_its_type_and_without_a_cache(folder: Path) -> None:
    model = load_model(folder, torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config.use_cache is False
    assert model.config._attn_implementation == "sdpa"


def test_the_digest_of_weights_is_of_the_tensors_alone(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder, torch.float32)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="200KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    assert weights_digest(tmp_path / "sharded") == weights_digest(folder)
    with torch.no_grad():
        model.get_parameter("model.norm.weight")[3] += 1e-6
    model.save_pretrained(tmp_path / "changed")
    model.to(torch.bfloat16).save_pretrained(tmp_path / "shorter")
    assert len({weights_digest(tmp_path / name) for name in ("sharded", "changed", "shorter")}) == 3


def test_the_digest_of_weights_sees_shape_and_name(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    flat = torch.arange(6.0)
    contents = ({"a": flat}, {"b": flat}, {"a": flat.reshape(2, 3)}, {"a": flat.reshape(3, 2)}, {"a": flat.view(torch.int32)})
    digests = set()
    for number, content in enumerate(contents):
        (tmp_path / str(number)).mkdir()
        save_file(content, tmp_path / str(number) / "x.safetensors")
        digests.add(weights_digest(tmp_path / str(number)))
    assert len(digests) == len(contents)
    with pytest.raises(ModelError, match="holds no safetensors file"):
        weights_digest(tmp_path)
