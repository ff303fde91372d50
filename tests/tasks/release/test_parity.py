"""Parity, by tensors made by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import tensor

from tasks.contracts import Parity
from tasks.errors import ParityError
from tasks.models import load_model
from tasks.release.parity import compare, demand, golden_prompts, say

NAN, INF = math.nan, math.inf
EXPECTED = ([tensor([[-1.0, -2.0]]), tensor([[-3.0, -4.0], [-5.0, -INF]])], [[1, 2], [3]])


def answer(*rows: Any, texts: Any = ([1, 2], [3])) -> Any:
    return [tensor(row) for row in rows], list(texts)


@pytest.mark.parametrize(
    ("found", "difference", "same", "passed"),
    [
        (answer([[-1.0, -2.0]], [[-3.0, -4.0], [-5.0, -INF]]), 0.0, True, True),
        (answer([[-1.0, -2.25]], [[-3.0, -4.0], [-5.0, -INF]]), 0.25, True, True),
        (answer([[-1.0, -2.0]], [[-3.5, -4.0], [-5.25, -INF]]), 0.5, True, False),
        (answer([[-1.0, -2.0]], [[-3.0, -4.0], [-5.0, -INF]], texts=([1, 2], [4])), 0.0, False, False),
        (answer([[-1.0, -2.0]], [[-3.0, -4.0], [-5.0, -INF]], texts=([1], [3])), 0.0, False, False),
        (answer([[-1.0, NAN]], [[-3.0, -4.0], [-5.0, -INF]]), 1e9, True, False),
        (answer([[-1.0, -2.0]], [[-3.0, NAN], [-5.0, -INF]]), 1e9, True, False),
        (answer([[-1.0, -2.0]], [[-3.0, -4.0], [-5.0, -6.0]]), 1e9, True, False),
    ],
    ids=["equal", "near", "far", "another token", "a shorter text", "nan first", "nan later", "possible here alone"],
)
def test_compare(found: Any, difference: float, same: bool, passed: bool) -> None:
    result = compare(EXPECTED, found, tolerance=0.25)
    assert result == Parity(prompts=2, max_difference=difference, tolerance=0.25, same_tokens=same, passed=passed)
    assert Parity.model_validate_json(result.model_dump_json()) == result


def test_compare_wants_an_answer_to_every_prompt() -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare(EXPECTED, ([tensor([[-1.0, -2.0]])], [[1, 2]]), 0.1)


@pytest.mark.parametrize(
    ("same", "difference", "texts"), [(True, 0.5, "the greedy texts are equal"), (False, 0.0, "greedy texts differ")]
)
def test_demand_refuses_what_differs(same: bool, difference: float, texts: str) -> None:
    with pytest.raises(ParityError) as caught:
        demand(Parity(prompts=3, max_difference=difference, tolerance=0.001, same_tokens=same, passed=False), "adapter")
    assert str(caught.value) == (
        f"The export adapter is not the trained model: on 3 golden prompts log-probabilities differ by up to "
        f"{difference:.2g} (allowed: 0.001) and {texts}. Nothing was released."
    )


def test_demand_lets_pass_what_passed() -> None:
    demand(Parity(prompts=1, max_difference=0, tolerance=0, same_tokens=True, passed=True), "adapter")


def test_golden_prompts_are_the_first(tmp_path: Path) -> None:
    path = tmp_path / "golden.jsonl"
    path.write_text("".join(json.dumps({"prompt": "p", "input_ids": [n]}) + "\n" for n in range(5)))
    assert golden_prompts(path, 2) == [[0], [1]]
    assert len(golden_prompts(path, 99)) == 5


def test_say_is_one_pass_over_the_prompt_and_then_greedy(tiny_base: Any) -> None:
    model = load_model(tiny_base.location, torch.float32).eval()
    prompt = [5, 6, 7]
    (log,), (text,) = say(model, [prompt], new_tokens=6, end=-1)
    assert log.shape == (3, 512)
    ids = list(prompt)
    with torch.no_grad():
        torch.testing.assert_close(log, model(tensor([ids])).logits[0].log_softmax(-1))
        for _ in range(6):  # without a cache
            ids.append(int(model(tensor([ids])).logits[0, -1].argmax()))
    assert text == ids[3:]
    assert say(model, [prompt], new_tokens=6, end=text[2])[1][0] == text[: text.index(text[2]) + 1]
