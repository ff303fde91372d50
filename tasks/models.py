"""Base models and tokenizers: from an address to files, and from files to objects. Weights are read from safetensors only."""

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.contracts import ModelRef, TrainedModel, digest_of
from tasks.errors import ModelError
from tasks.storage import folder_digest

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

_SMALL = ("*.json", "*.model", "*.txt", "*.jinja", "*.py")
_PATTERNS = ("*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.txt", "*.jinja", "*.py", "LICENSE*")
_NOT_CONTENT = ("README.md", ".gitattributes")

# For base models without a template of their own. ChatML's form, in plain words: no token need exist for it.
PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '### ' + message['role'] + '\n' + message['content'] }}"
    "{{ (eos_token if message['role'] == 'assistant' else '') + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant\n' }}{% endif %}"
)


def dtype_of(precision: str) -> "torch.dtype":
    """torch's type of numbers in fp32, bf16 or fp16."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def local_folder(uri: str, workspace: Path) -> Path | None:
    """The folder that `uri` names (absolute, relative, or below the workspace), or None where it names none."""
    for candidate in (Path(uri).expanduser(), workspace / uri):
        if candidate.is_dir():
            return candidate.resolve()
    return None


def describe(uri: str, folder: Path, revision: str = "", trust_remote_code: bool = False) -> ModelRef:
    """What the files of `folder` say of the model; no weight is loaded.

    Raises:
        ModelError: files are missing or the configuration cannot be used.
    """
    config = _read_config(uri, folder, trust_remote_code)
    _demand_causal(uri, config)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:12])
        raise ModelError(f"{uri}: no *.safetensors file in {folder} (found: {found}). Other weight formats are not loaded.")
    parameters, size = _count(weights)
    text = config.get_text_config()
    return ModelRef(
        uri=uri,
        location=str(folder),
        revision=revision,
        # A commit of a hub names its content already; hashing many gigabytes again would say the same.
        sha256=digest_of([uri, revision]) if revision else _digest(folder, _stamps(folder)),
        parameters=parameters,
        architecture=(config.architectures or [type(config).__name__])[0],
        max_positions=getattr(text, "max_position_embeddings", None) or 1_048_576,
        vocabulary=text.vocab_size,
        bytes=size,
        hidden_size=text.hidden_size,
        layers=text.num_hidden_layers,
        trust_remote_code=trust_remote_code,
    )


def download(uri: str, revision: str = "", token: str | None = None, patterns: Sequence[str] = _PATTERNS) -> tuple[Path, str]:
    """Fetch the files of a hub model that match `patterns`; their folder and the commit.

    Raises:
        ModelError: the hub has no such model, or cannot be reached.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(uri, revision=revision or None, token=token, allow_patterns=list(patterns)))
    except Exception as error:
        raise ModelError(_not_found(uri, error)) from error
    return folder, folder.name


def find_on_hub(uri: str, revision: str = "", token: str | None = None) -> str:
    """The commit of a hub model, asking the hub for facts only; a local copy counts where the hub does not answer.

    Raises:
        ModelError: neither the hub nor its local copies have it.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        return str(HfApi().model_info(uri, revision=revision or None, token=token, timeout=10).sha)
    except Exception as error:
        try:
            return Path(snapshot_download(uri, revision=revision or None, local_files_only=True)).name
        except Exception:
            raise ModelError(_not_found(uri, error)) from error


def check_on_hub(uri: str, revision: str = "", token: str | None = None, trust_remote_code: bool = False) -> None:
    """Try a hub model's configuration and tokenizer, which are small, and leave its weights where they are.

    Raises:
        ModelError: the hub has no such model, or it cannot be used.
    """
    find_on_hub(uri, revision, token)
    folder, _ = download(uri, revision, token, _SMALL)
    _demand_causal(uri, _read_config(uri, folder, trust_remote_code))
    load_tokenizer(folder, trust_remote_code)


def load_tokenizer(folder: Path | str, trust_remote_code: bool = False) -> "PreTrainedTokenizerFast":
    """The tokenizer in `folder`, with a padding token.

    Raises:
        ModelError: there is none, it cannot be read, or it has no end-of-sequence token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except Exception as error:
        raise ModelError(f"No tokenizer can be loaded from {folder}: {error}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(f"The tokenizer in {folder} has no end-of-sequence token, so that answers would never end.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    folder: Path | str, dtype: "torch.dtype", trust_remote_code: bool = False, attention: str = "sdpa"
) -> "PreTrainedModel":
    """The causal language model in `folder`; its key-value cache is off, since with it packed documents see each other."""
    return _loaded(folder, dtype, trust_remote_code, attention)


def without_weights(location: str, trust_remote_code: bool = False, **more: Any) -> "PreTrainedModel":
    """The causal language model in `location` on the meta device: every layer in its shape, none of its memory."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(location, trust_remote_code=trust_remote_code, local_files_only=True)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code, **more)
    return model


def recompute_activations(model: Any) -> None:
    """Have the backward pass compute activations again, instead of keeping them (Chen et al. 2016, section 3)."""
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()


def load_quantized(
    folder: Path | str, dtype: "torch.dtype", trust_remote_code: bool = False, double: bool = True
) -> "PreTrainedModel":
    """The causal language model in `folder`, its linear layers in 4-bit NormalFloat (Dettmers et al. 2023, section 3).

    Args:
        folder: with config.json and *.safetensors.
        dtype: of the arithmetic, and of the weights that stay whole: embeddings, norms and the output layer.
        trust_remote_code: whether code that comes with the model may run.
        double: whether the quantization's own constants are quantized once more.
    """
    from transformers import BitsAndBytesConfig

    four_bit = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double, bnb_4bit_compute_dtype=dtype
    )
    model = _loaded(folder, dtype, trust_remote_code, "sdpa", quantization_config=four_bit)
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            # The first pass without gradients would turn its weights into a form that has none, and learn nothing from then on.
            layer.support_avx512bf16_for_cpu = False
    return model


def load_trained(trained: TrainedModel, weights: Path, dtype: "torch.dtype") -> Any:
    """The trained model as it left training: a PEFT model around its base for an adapter, else the model itself.

    What an adapter learned beside 4-bit weights is right beside those alone: its base is quantized as it was in training and
    given back as plain weights, which compute the same and into which the adapter can be merged.

    Args:
        trained: what training returned.
        weights: local folder with the files of `trained.uri`.
        dtype: of the base weights.
    """
    base = trained.base
    if not trained.adapter:
        return load_model(weights, dtype, base.trust_remote_code).eval()
    if trained.method == "qlora":
        learned_in = dtype_of(trained.plan.precision)
        double = bool(trained.settings["method.double_quantization"])
        model = load_quantized(base.location, learned_in, base.trust_remote_code, double).dequantize().to(dtype)
    else:
        model = load_model(base.location, dtype, base.trust_remote_code)
    if own := trained.settings.get("method.adapter_class"):
        from tasks.plugins import adapter_class, as_mapping

        adapter = adapter_class(str(own))(**as_mapping(str(trained.settings["method.config"])))
        loaded = adapter.load(model, weights).eval()
        loaded.merge_and_unload = lambda safe_merge=True: adapter.merge(loaded)  # as PEFT's models have it
        return loaded
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(weights)).eval()


def weights_digest(folder: Path) -> str:
    """sha256 over the tensors of the safetensors files, in the order of their names; file headers do not count.

    Raises:
        ModelError: there are none.
    """
    import hashlib

    import torch
    from safetensors import safe_open

    digests: dict[str, str] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_tensor(name).contiguous()
                form = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
                content = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
                digests[name] = hashlib.sha256(form + content).hexdigest()
    if not digests:
        raise ModelError(f"{folder} holds no safetensors file.")
    return digest_of(sorted(digests.items()))


def _loaded(
    folder: Path | str, dtype: "torch.dtype", trust_remote_code: bool, attention: str, **more: Any
) -> "PreTrainedModel":
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        str(folder),
        dtype=dtype,
        attn_implementation=attention,
        trust_remote_code=trust_remote_code,
        use_safetensors=True,
        local_files_only=True,
        **more,
    )
    model.config.use_cache = False
    return model


def _read_config(uri: str, folder: Path, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(f"{uri}: {folder} has no config.json, so it is not a Hugging Face model folder.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{uri}: {path} is not JSON: {error}") from error
    if "auto_map" in content and not trust_remote_code:
        raise ModelError(f"{uri} brings its own Python code. Read it, then set base_model.trust_remote_code: true to run it.")
    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:
        raise ModelError(f"{uri}: {path} cannot be used: {error}") from error


@lru_cache(maxsize=16)
def _digest(folder: Path, _unchanged_since: tuple[tuple[str, int, int], ...]) -> str:
    """The content hash of a model folder; a run checks its model more than once, and reads many gigabytes only once."""
    return folder_digest(folder, lambda path: path.name not in _NOT_CONTENT)


def _stamps(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Path, bytes and time of the last change of each file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files)


def _demand_causal(uri: str, config: Any) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    own = "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {})
    if config.model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not own:
        raise ModelError(
            f"{uri} is a {config.model_type} model, not a causal language model. Use one that continues text, such as "
            f"Qwen/Qwen3-0.6B."
        )


def _count(weights: list[Path]) -> tuple[int, int]:
    """Parameters and bytes, from the headers alone."""
    from math import prod

    from safetensors import SafetensorError, safe_open

    parameters = 0
    for path in weights:
        try:
            with safe_open(str(path), framework="numpy") as file:
                parameters += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
        except SafetensorError as error:
            raise ModelError(f"{path} is not a whole safetensors file: {error}. Fetch it again.") from error
    return parameters, sum(path.stat().st_size for path in weights)


def _not_found(uri: str, error: Exception) -> str:
    said = str(error).strip().splitlines() or [type(error).__name__]
    return (
        f"The model {uri!r} was not found: it is no folder here or in the workspace, and the hub says: "
        f"{said[0].rstrip('. ')}. "
        f"Use a folder with config.json and *.safetensors, or a hub id such as Qwen/Qwen3-0.6B."
    )
