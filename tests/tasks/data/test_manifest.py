"""The data's version follows from what was asked and from the content, and from nothing else."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import DatasetManifest, ModelRef
from tasks.data import cleaning, loading, manifest, splitting, tokenizing
from tasks.data.spec import DataSpec, SplittingSpec
from tasks.encryption import vault
from tasks.encryption.keys import MasterKey

ROWS = [{"question": f"what is {n} and {n * 7}?", "answer": f"it is {n * 13}"} for n in range(60)]


@pytest.fixture
def made(write: Callable[..., str], base: ModelRef, tmp_path: Path) -> Callable[..., DatasetManifest]:
    """Prepares rows into a folder; the manifest."""

    def make(
        place: str, rows: list[dict[str, str]] = ROWS, seed: int = 0, max_length: int = 64, **asked: Any
    ) -> DatasetManifest:
        out = tmp_path / place
        out.mkdir()
        vault.begin(out)
        source = Path(write(rows)).rename(out / f"{place}.jsonl")
        spec = DataSpec(source=str(source), **asked)
        raw = loading.load("set", spec, out / "raw", f"{place}/raw", {})
        clean = cleaning.clean(raw, spec.cleaning, out / "raw", out / "clean", f"{place}/clean")
        splits = splitting.split(clean, spec.splitting, [1.0], out / "clean", out / "split", f"{place}/split", seed)
        files = {name: out / "split" / name for name in ("train", "validation", "test")}
        tokens = tokenizing.tokenize(
            splits,
            base,
            files,
            out / "tokens",
            f"{place}/tokens",
            max_length=max_length,
            truncation="cut",
            batch_size=4,
            seed=0,
        )
        return manifest.manifest_of(spec, max_length, seed, raw, clean, splits, tokens)

    return make


def test_the_place_does_not_count_nor_what_opens_it(made: Callable[..., DatasetManifest]) -> None:
    one = made("one")
    assert made("other", access="a-block") == one
    assert set(one.shards) == {"raw", "clean", "train", "validation", "test"}
    assert all(one.shards.values())
    assert set(one.tokens) == {"train", "validation", "test"}


def test_encrypted_data_have_the_same_version(made: Callable[..., DatasetManifest]) -> None:
    with vault.unlocked(MasterKey(bytes(range(32)))):
        locked = made("locked", encryption="a-block")
    assert locked == made("open")


@pytest.mark.parametrize(
    "change",
    [
        {"rows": ROWS[:-1]}, {"seed": 1}, {"max_length": 32}, {"system_prompt": "Be short."}, {"truncation": "split"},
        {"splitting": SplittingSpec(test=0.2)},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_what_decides_the_data_changes_the_version(made: Callable[..., DatasetManifest], change: dict[str, Any]) -> None:
    assert made("changed", **change).sha256 != made("usual").sha256


def test_versions_of_libraries_count(made: Callable[..., DatasetManifest], monkeypatch: pytest.MonkeyPatch) -> None:
    usual = made("usual")
    monkeypatch.setattr(manifest, "version", lambda name: "0.1")
    other = made("other")
    assert other.tokens == usual.tokens
    assert other.sha256 != usual.sha256
