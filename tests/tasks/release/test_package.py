"""What travels with a released model: its card and the list of its files."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tasks.contracts import ExportedModel, FinetuneResult
from tasks.release.package import MANIFEST, model_card, write_package
from tasks.storage import sha256_file
from tests.tasks.reporting.conftest import result


@pytest.fixture
def story() -> FinetuneResult:
    return result()


def export_of(story: FinetuneResult, **changes: Any) -> ExportedModel:
    assert story.release is not None
    return story.release.exports[0].model_copy(update=changes)


def front_matter(card: str) -> dict[str, Any]:
    _, matter, text = card.split("---\n", 2)
    assert text.startswith("# support-bot")
    loaded: dict[str, Any] = yaml.safe_load(matter)
    return loaded


def card(story: FinetuneResult, **changes: Any) -> str:
    return model_card("support-bot", export_of(story, **changes), story.model, story.data, story.evaluation)


def test_the_manifest_lists_every_other_file_with_its_hash(story: FinetuneResult, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "deep" / "x.json").write_text("{}")
    write_package(tmp_path, "support-bot", export_of(story), story.model, story.data, story.evaluation)
    content = json.loads((tmp_path / MANIFEST).read_text())
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.name != MANIFEST)
    assert content["files"] == [
        {"path": str(path.relative_to(tmp_path)), "sha256": sha256_file(path), "bytes": path.stat().st_size} for path in files
    ]
    assert [entry["path"] for entry in content["files"]] == ["README.md", "deep/x.json", "model.safetensors"]
    assert (content["name"], content["model_sha256"]) == ("support-bot", story.model.sha256)


def test_writing_twice_changes_nothing(story: FinetuneResult, tmp_path: Path) -> None:
    texts = []
    for _ in range(2):
        write_package(tmp_path, "support-bot", export_of(story), story.model, story.data, story.evaluation)
        texts.append((tmp_path / MANIFEST).read_text())
    assert texts[0] == texts[1]


def test_the_card_has_the_hubs_front_matter(story: FinetuneResult) -> None:
    assert front_matter(card(story, format="safetensors")) == {
        "library_name": "transformers",
        "base_model": story.model.base.uri,
        "pipeline_tag": "text-generation",
        "tags": ["tuneflow", story.model.method],
    }
    assert front_matter(card(story, format="adapter"))["library_name"] == "peft"


@pytest.mark.parametrize("uri", ["models:/bot@champion", "./my models/a: b #c", "'quoted'", "s3://bucket/x", "*star", "123"])
def test_the_front_matter_holds_any_address(story: FinetuneResult, uri: str) -> None:
    base = story.model.base.model_copy(update={"uri": uri})
    story = story.model_copy(update={"model": story.model.model_copy(update={"base": base})})
    assert front_matter(card(story))["base_model"] == uri


def test_the_card_tells_scores_data_and_reasons(story: FinetuneResult) -> None:
    text = card(story)
    for score in story.evaluation.scores:
        assert f"| {score.benchmark} | {score.metric} | {score.model} | {score.value:.4f} |" in text
    for reason in (*story.evaluation.verdict.reasons, *story.model.plan.reasons):
        assert f"- {reason}\n" in text
    assert "3000 rows in, 2740 kept, dropped: 118 exact_duplicate, 64 near_duplicate, 69 no_answer, 9 empty" in text
    assert story.data.tokenized.sha256 in text
