"""Training methods without a training: what they refuse, what they make of a model, and what is left of it on disk."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from flows.request import FinetuneRequest
from tasks.contracts import Forecast, ModelRef, TrainedModel
from tasks.errors import RequestError
from tasks.models import describe, load_model, load_quantized, load_trained, weights_digest
from tasks.plugins import adapter_class, as_mapping
from tasks.training.methods import Method, check_formats
from tasks.training.methods.adalora import AdaLora
from tasks.training.methods.custom import Custom
from tasks.training.methods.full import Full
from tasks.training.methods.lora import Lora
from tasks.training.methods.qlora import QLora
from tests.tasks.training.conftest import cpu_plan

OWN = "tests.tasks.training.own_adapter:Scales"
IA3 = "{peft_type: IA3, target_modules: [k_proj, down_proj], feedforward_modules: [down_proj]}"
METHODS: dict[str, Any] = {
    "full": Full(),
    "lora": Lora(rank=4),
    "rslora": Lora(rank=4, rank_stabilized=True),
    "dora": Lora(rank=4, weight_decomposed=True),
    "pissa": Lora(rank=4, init="pissa"),
    "olora": Lora(rank=4, init="olora"),
    "names": Lora(rank=4, targets="q_proj, down_proj"),
    "qlora": QLora(rank=4),
    "qlora-single": QLora(rank=4, double_quantization=False),
    "qdora": QLora(rank=4, weight_decomposed=True),
    "adalora": AdaLora(rank=4),
    "ia3": Custom(config=IA3),
    "vera": Custom(config="{peft_type: VERA, target_modules: [q_proj, v_proj]}"),
    "own": Custom(adapter_class=OWN, config="{start: 1.5}"),
}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@pytest.fixture(scope="session")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> ModelRef:
    """A model whose layers have other names and hold their weights the other way round."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("gpt")
    config = GPT2Config(
        vocab_size=512,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=128,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return describe("gpt", folder)


def learned(method: Any, base: ModelRef) -> Any:
    """The model that learns, after a few steps in which its adapters have moved."""
    torch.manual_seed(0)
    model = method.wrap(method.load(base, torch.float32))
    ids = torch.arange(40).reshape(2, 20) % 500 + 3
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-2)
    for _ in range(3):
        logits = model(input_ids=ids, use_cache=False).logits
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=torch.tensor([[5, 9, 13, 200, 77]]), use_cache=False).logits
    return found


def trained_by(method: Any, base: ModelRef, folder: Path) -> TrainedModel:
    """The record of a training whose weights lie in `folder`."""
    settings = {f"method.{name}": value for name, value in method.model_dump().items()}
    zero = dict.fromkeys(Forecast.model_fields, 0.0)
    return TrainedModel(
        uri=str(folder), sha256=weights_digest(folder), base=base, data_sha256="0" * 64, tokenizer_uri="",
        adapter=method.adapter, method=method.kind, settings=settings, plan=cpu_plan(), seed=0, steps=1, tokens=1,
        trainable_parameters=1, best_step=1, train_loss=1.0, validation_loss=None, seconds=1.0, resumed_from=0,
        forecast=Forecast(**zero), history_uri="",
    )  # fmt: skip


@each_method
def test_the_number_of_weights_that_learn_is_known_without_loading_one(tiny_base: ModelRef, method: Any) -> None:
    model = method.wrap(method.load(tiny_base, torch.float32))
    assert method.trainable_parameters(tiny_base) == sum(w.numel() for w in model.parameters() if w.requires_grad)


@pytest.mark.parametrize(
    "method",
    [Lora(rank=2), Lora(rank=2, weight_decomposed=True), Lora(rank=2, targets="wpe,c_fc"), QLora(rank=2), AdaLora(rank=2)],
    ids=repr,
)
def test_so_it_is_for_layers_of_another_kind(gpt: ModelRef, method: Any) -> None:
    assert method.check(gpt) == ""
    model = method.wrap(method.load(gpt, torch.float32))
    assert method.trainable_parameters(gpt) == sum(w.numel() for w in model.parameters() if w.requires_grad)


@each_method
def test_what_is_saved_computes_what_was_trained_and_can_be_merged(tiny_base: ModelRef, tmp_path: Path, method: Any) -> None:
    model = learned(method, tiny_base)
    before = logits(load_model(tiny_base.location, torch.float32))
    expected = logits(model)
    assert (expected - before).abs().max() > 1e-3
    method.save(model, tmp_path)
    loaded = load_trained(trained_by(method, tiny_base, tmp_path), tmp_path, torch.float32)
    assert torch.allclose(logits(loaded), expected, atol=1e-5)
    if hasattr(loaded, "merge_and_unload"):
        assert torch.allclose(logits(loaded.merge_and_unload(safe_merge=True)), expected, atol=1e-5)


def test_an_adapter_beside_4_bits_is_merged_into_what_it_was_trained_on(tiny_base: ModelRef, tmp_path: Path) -> None:
    from peft import PeftModel

    method = QLora(rank=4)
    model = learned(method, tiny_base)
    expected = logits(model)
    method.save(model, tmp_path)
    merged = load_trained(trained_by(method, tiny_base, tmp_path), tmp_path, torch.float32).merge_and_unload(safe_merge=True)
    original = PeftModel.from_pretrained(load_model(tiny_base.location, torch.float32), str(tmp_path)).merge_and_unload()
    assert (logits(merged) - expected).abs().max() < 1e-5
    assert (logits(original) - expected).abs().max() > 1e-2
    merged.save_pretrained(tmp_path / "merged")
    assert torch.equal(logits(load_model(tmp_path / "merged", torch.float32)), logits(merged))


def test_4_bits_hold_weights_in_an_eighth_and_still_learn_after_a_pass_without_gradients(tiny_base: ModelRef) -> None:
    model = load_quantized(tiny_base.location, torch.float32).eval()
    layer = model.model.layers[0].mlp.up_proj
    assert layer.weight.dtype == torch.uint8
    assert layer.weight.numel() * 2 == 64 * 160
    logits(model)  # on processors with bf16 units this would turn the weights into a form without gradients
    adapted = QLora(rank=4).wrap(model)
    logits(adapted)
    adapted(input_ids=torch.tensor([[5, 6, 7]]), use_cache=False).logits.sum().backward()
    gradients = {name: w.grad for name, w in adapted.named_parameters() if "lora_B" in name}
    assert gradients
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients.values())


def test_adalora_writes_only_the_triplets_that_have_a_value(tiny_base: ModelRef, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    method = AdaLora(rank=2, initial_rank=4)
    model = learned(method, tiny_base)
    values = [weight for name, weight in model.named_parameters() if "lora_E" in name]
    with torch.no_grad():
        for number, weight in enumerate(values):
            weight[number % 4 :] = 0
    expected = logits(model)
    method.save(model, tmp_path)
    saved = {
        name: len(tensor) for name, tensor in load_file(tmp_path / "adapter_model.safetensors").items() if "lora_E" in name
    }
    assert sorted(saved.values()) == sorted(number % 4 for number in range(len(values)))
    loaded = load_trained(trained_by(method, tiny_base, tmp_path), tmp_path, torch.float32)
    assert torch.allclose(logits(loaded), expected, atol=1e-6)
    assert model.peft_config["default"].rank_pattern is None  # the training goes on as it was


@pytest.mark.parametrize(
    ("method", "told"),
    [
        (Lora(rank=65), "method.rank 65 is above the model's hidden size 64"),
        (AdaLora(rank=60), "method.rank gives a first rank: 90 is above the model's hidden size 64"),
        (Lora(targets="q_prj"), "method.targets names 'q_prj', which is no layer .* it has down_proj, embed_tokens, gate_proj"),
        (Lora(targets="q_prj"), "Did you mean q_proj"),
        (QLora(targets="q_proj,mlp"), "method.targets names 'mlp', which is no layer"),
        (AdaLora(targets="embed_tokens"), "method.targets names 'embed_tokens', which is no layer"),
        (Lora(targets="lm_head"), "uses both to read and to say tokens"),
        (Custom(config="{peft_type: IA4}"), "peft_type 'IA4' is none of PEFT's. Did you mean IA3"),
        (Custom(config="{peft_type: IA3, target_module: [a]}"), "no field 'target_module'. Did you mean target_modules"),
        (Custom(config="{peft_type: LORA, r: 0}"), "LORA cannot be put around .* positive integer"),
        (Custom(config="{peft_type: VERA, target_modules: [nope]}"), "VERA cannot be put around .* No layers types compatible"),
        (Custom(config="{peft_type: ADALORA}"), "Use method.kind: adalora"),
        (Custom(config="{peft_type: PROMPT_TUNING, num_virtual_tokens: 4}"), "cannot be merged into the model"),
        (Custom(config="{peft_type: LILY, target_modules: [q_proj]}"), "LILY cannot be merged into"),
        (Custom(config="{peft_type: IA3, target_modules: [q_proj]}"), "IA3 cannot be loaded again beside"),
        (Custom(config="{peft_type: TRAINABLE_TOKENS}"), "token_indices names none, e.g."),
        (Custom(config="{peft_type: TRAINABLE_TOKENS, token_indices: [3, 512]}"), "token_indices names 512, but .* 0 to 511"),
        (Custom(config="{peft_type: TRAINABLE_TOKENS, token_indices: all}"), "token_indices names 'all', but .* 0 to 511"),
        (
            Custom(config="{peft_type: LORA, trainable_token_indices: {embed_tokens: [-1]}}"),
            "trainable_token_indices names -1, but .* 0 to 511",
        ),
        (Custom(config="{peft_type: POLY, target_modules: [q_proj]}"), "POLY cannot compute with .* task_ids"),
        (Custom(adapter_class="nothing_like_it:Adapter"), "The module of the adapter .* cannot be imported"),
        (Custom(adapter_class="json:Adapter"), "The module json has no 'Adapter'"),
        (Custom(adapter_class="json:JSONDecoder"), "has no wrap, save, load, merge"),
        (Custom(adapter_class="an-adapter"), "No installed package announces an adapter 'an-adapter'"),
        (Custom(adapter_class=OWN, config="{begin: 2}"), "method.config does not suit .* unexpected keyword argument 'begin'"),
    ],
    ids=lambda value: repr(value)[:60],
)  # fmt: skip
def test_what_cannot_train_a_model_is_refused_before_it_is_loaded(tiny_base: ModelRef, method: Any, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        raise AssertionError(method.check(tiny_base))


@each_method
def test_what_can_train_a_model_is_not_refused(tiny_base: ModelRef, method: Any) -> None:
    assert method.check(tiny_base) == ""
    assert method.check(None) == ""


def test_an_own_class_may_refuse_a_model(tiny_base: ModelRef) -> None:
    shallow = tiny_base.model_copy(update={"layers": 1})
    assert Custom(adapter_class=OWN).check(shallow) == "Scales wants a model of more than one layer"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"kind": "lora", "rank": 0}, "greater than or equal to 1"),
        ({"kind": "adalora", "rank": 0}, "greater than or equal to 1"),
        ({"kind": "qlora", "rank": 0}, "greater than or equal to 1"),
        ({"kind": "lora", "targets": " , "}, "names no layer"),
        ({"kind": "lora", "targets": "all-linear,q_proj"}, "already means every linear layer"),
        ({"kind": "lora", "init": "gaussian"}, "'zero', 'pissa' or 'olora'"),
        ({"kind": "adalora", "rank": 8, "initial_rank": 8}, "initial_rank 8 is not above rank 8"),
        ({"kind": "adalora", "explore_share": 0.6, "settle_share": 0.5}, "less than 0.05 of the steps"),
        ({"kind": "custom"}, "names no method"),
        ({"kind": "custom", "config": "[1]"}, "expected names with values"),
        ({"kind": "custom", "config": "{a: "}, "neither YAML nor JSON"),
    ],
    ids=lambda value: str(value)[:50],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(content: dict[str, Any], told: str) -> None:
    request = {"name": "a", "base_model": {"uri": "a"}, "data": {"source": "b"}, "method": content}
    with pytest.raises(ValidationError, match=told):
        FinetuneRequest.model_validate(request)


def test_a_request_file_may_hold_the_configuration_as_a_mapping() -> None:
    custom = Custom.model_validate({"kind": "custom", "config": {"peft_type": "IA3", "target_modules": ["k_proj"]}})
    assert as_mapping(custom.config) == {"peft_type": "IA3", "target_modules": ["k_proj"]}
    assert custom == Custom.model_validate(custom.model_dump())


def test_an_announced_adapter_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    point = EntryPoint("scales", OWN, "tuneflow.methods")
    monkeypatch.setattr("tasks.plugins.entry_points", lambda group: [point] if group == "tuneflow.methods" else [])
    assert adapter_class("scales").__name__ == "Scales"
    with pytest.raises(RequestError, match="found: scales"):
        adapter_class("scale")


@pytest.mark.parametrize(
    ("method", "most"),
    [
        (Full(), 3), (Lora(), 3), (QLora(), 3), (Lora(init="pissa"), 2), (Lora(init="olora"), 2), (AdaLora(), 2),
        (Custom(config=IA3), 2),
    ],
    ids=repr,
)  # fmt: skip
def test_a_method_says_how_far_zero_may_go_and_why(method: Any, most: int) -> None:
    stage, why = method.most_divided()
    assert stage == most
    assert bool(why) == (most < 3)


def test_formats_that_a_method_has_nothing_for_are_refused() -> None:
    assert "trains no adapter" in check_formats(Full(), ["adapter"])
    assert "none that PEFT loads" in check_formats(Custom(adapter_class=OWN), ["safetensors", "adapter"])
    assert check_formats(Custom(config=IA3), ["safetensors", "adapter"]) == ""
    assert check_formats(Custom(adapter_class=OWN), ["safetensors"]) == ""


SETTINGS: list[tuple[Method, dict[str, Any]]] = [
    (Lora(rank=4), {"rank": 5}),
    (Lora(rank=4), {"alpha": 8.0}),
    (Lora(rank=4), {"dropout": 0.5}),
    (Lora(rank=4), {"targets": "q_proj"}),
    (Lora(rank=4), {"rank_stabilized": True}),
    (Lora(rank=4), {"weight_decomposed": True}),
    (Lora(rank=4), {"init": "pissa"}),
    (Lora(rank=4), {"init": "olora"}),
    (QLora(rank=4), {"double_quantization": False}),
    (QLora(rank=4), {"rank": 5}),
    (QLora(rank=4), {"dropout": 0.5}),
    (QLora(rank=4), {"alpha": 8.0}),
    (QLora(rank=4), {"targets": "q_proj"}),
    (QLora(rank=4), {"rank_stabilized": True}),
    (QLora(rank=4), {"weight_decomposed": True}),
    (AdaLora(rank=4), {"alpha": 8.0}),
    (AdaLora(rank=4), {"dropout": 0.5}),
    (AdaLora(rank=4), {"initial_rank": 9}),
    (AdaLora(rank=4), {"rank": 3}),
    (AdaLora(rank=4), {"targets": "q_proj"}),
    (Custom(adapter_class=OWN), {"config": "{start: 1.5}"}),
    (Custom(config=IA3), {"adapter_class": OWN, "config": ""}),
]


@pytest.mark.parametrize(("method", "change"), SETTINGS, ids=lambda value: repr(value)[:40])
def test_each_setting_changes_what_is_learned(tiny_base: ModelRef, method: Any, change: dict[str, Any]) -> None:
    other = type(method).model_validate({**method.model_dump(), **change})
    assert not torch.equal(logits(learned(method, tiny_base)), logits(learned(other, tiny_base)))
