"""Fused kernels are taken on GPUs where they are installed; their own results are for a GPU to show."""

from types import SimpleNamespace
from typing import Any

import pytest

from tasks.training import determinism, kernels
from tasks.training.spec import TrainingSpec
from tests.conftest import ROOT
from tests.tasks.training.conftest import cpu_plan


class Model:
    """Takes an attention, or refuses it as transformers does."""

    def __init__(self, refuses: bool = False) -> None:
        self.config, self.refuses = SimpleNamespace(_attn_implementation="sdpa"), refuses

    def set_attn_implementation(self, name: str) -> None:
        if self.refuses and name != "sdpa":
            raise ValueError(f"Model does not support {name} yet")
        self.config._attn_implementation = name


@pytest.mark.parametrize(
    ("plan", "installed", "attention", "said"),
    [
        ({}, ("flash_attn", "liger_kernel"), "sdpa", "flash attention and Liger are for GPUs"),
        ({"accelerator": "cuda", "precision": "bf16"}, (), "sdpa", "the package flash-attn is not installed"),
        (
            {"accelerator": "cuda", "precision": "fp32"},
            ("flash_attn",),
            "sdpa",
            "computes in 16 bits, and this training in fp32",
        ),
        ({"accelerator": "cuda", "precision": "bf16"}, ("flash_attn",), "flash_attention_2", "it is installed"),
    ],
)
def test_the_attention_follows_from_the_device_and_what_is_installed(
    plan: dict[str, Any], installed: tuple[str, ...], attention: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "find_spec", lambda name: name if name in installed else None)
    model = Model()
    kernels.fit(model, cpu_plan(**plan))
    assert model.config._attn_implementation == attention
    assert said in kernels.told(model, cpu_plan(**plan))[0]


def test_a_model_without_flash_attention_stays_as_it_is_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "find_spec", lambda name: name if name == "flash_attn" else None)
    model, plan = Model(refuses=True), cpu_plan(accelerator="cuda", precision="bf16")
    kernels.fit(model, plan)
    assert kernels.told(model, plan) == (
        "attention by sdpa: Model does not go with flash_attention_2",
        "plain norms, rotations and gates: Liger is not installed; pip install --no-build-isolation -c requirements.lock "
        '-e ".[gpu]" brings it',
    )


def test_the_extra_that_is_named_brings_both_and_nothing_else_asks_for_them() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    names = {requirement.partition(">=")[0] for requirement in extras["gpu"]}
    assert names == {"flash-attn", "liger-kernel"}
    others = [*project["dependencies"], *(each for extra, listed in extras.items() if extra != "gpu" for each in listed)]
    assert not [each for each in others if each.startswith(("flash", "liger"))]
    locked = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert all(f"\n{name}==" in locked for name in names)


def test_deterministic_is_said_on_a_cpu_and_set_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    asked, called = TrainingSpec(deterministic=True), []
    monkeypatch.setattr(torch, "use_deterministic_algorithms", called.append)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.setenv("FLASH_ATTENTION_DETERMINISTIC", "")
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    assert determinism.settle(TrainingSpec(), cpu_plan(accelerator="cuda")) == ""
    assert "gives the same bits anyway" in determinism.settle(asked, cpu_plan())
    assert called == []
    assert "only kernels that give the same bits" in determinism.settle(asked, cpu_plan(accelerator="cuda"))
    assert called == [True]
    assert determinism.os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert torch.backends.cudnn.benchmark is False


@pytest.mark.gpu
def test_on_a_gpu_the_same_seed_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from tests.tasks.training.test_packs import build, llama

    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    determinism.settle(TrainingSpec(deterministic=True), cpu_plan(accelerator="cuda"))
    try:
        gradients = []
        for _ in range(2):
            model = build(llama, "sdpa").cuda().bfloat16()
            ids = torch.arange(64, device="cuda")[None]
            model(input_ids=ids, labels=ids).loss.backward()
            gradients.append([parameter.grad for parameter in model.parameters()])
        assert all(one.equal(other) for one, other in zip(*gradients, strict=True))
    finally:
        torch.use_deterministic_algorithms(False)
