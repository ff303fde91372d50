"""Every method that PEFT has: what `check` lets through trains, is written, read again and merged; the rest is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from tasks.contracts import ModelRef
from tasks.models import load_model
from tasks.training.methods.custom import Custom

# What a method needs beside its name, on a model of width 64.
FIELDS: dict[str, dict[str, Any]] = {
    "C3A": {"block_size": 32},
    "TRAINABLE_TOKENS": {"token_indices": [3, 5]},
    "VBLORA": {"vector_length": 16},
}
REFUSED = {
    "ADALORA",  # it has its own kind
    "ADAPTION_PROMPT",  # not without fields that follow from the model; not mergeable with them either
    "BEFT",  # the model has no biases
    "CARTRIDGE", "CPT", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING",  # tokens before the text
    "LILY", "SHADOW",  # cannot be merged
    "POLY",  # asks for a task at each pass
    "XLORA",  # mixes adapters that must be there
}  # fmt: skip
KINDS = sorted(str(kind.value) for kind in PEFT_TYPE_TO_CONFIG_MAPPING)
IDS = torch.arange(40).reshape(2, 20) % 500 + 3


def test_the_list_of_what_is_refused_is_of_what_there_is() -> None:
    assert set(KINDS) >= REFUSED | set(FIELDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_method_that_is_let_through_trains_and_is_merged(tiny_base: ModelRef, tmp_path: Path, kind: str) -> None:
    method = Custom(config=yaml.safe_dump({"peft_type": kind, **FIELDS.get(kind, {})}))
    assert bool(method.check(tiny_base)) == (kind in REFUSED), method.check(tiny_base)
    if kind in REFUSED:
        return
    torch.manual_seed(0)
    model = method.wrap(load_model(tiny_base.location, torch.float32))
    learned = [weight for weight in model.parameters() if weight.requires_grad]
    assert method.trainable_parameters(tiny_base) in (sum(map(torch.numel, learned)), tiny_base.parameters)
    model.train()
    optimizer = torch.optim.AdamW(learned, lr=1e-2)
    model(input_ids=IDS, attention_mask=torch.ones_like(IDS), use_cache=False).logits.square().mean().backward()
    assert all(weight.grad is not None for weight in learned)
    optimizer.step()
    method.save(model, tmp_path)
    trained = logits(model)
    assert not torch.equal(trained, logits(load_model(tiny_base.location, torch.float32)))
    loaded = PeftModel.from_pretrained(load_model(tiny_base.location, torch.float32), str(tmp_path))
    assert torch.equal(logits(loaded), trained)
    assert torch.allclose(logits(loaded.merge_and_unload(safe_merge=True)), trained, atol=1e-5)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=IDS, use_cache=False).logits
    return found
