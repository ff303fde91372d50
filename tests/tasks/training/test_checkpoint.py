import shutil
from pathlib import Path
from typing import Any

import pytest

from tasks.errors import WorkspaceError
from tasks.training import checkpoint
from tasks.training.checkpoint import demand_room, folder_of, make_room, newest, newest_step, prove, prune, seal, taken_bytes


def write(root: Path, step: int) -> Path:
    folder = folder_of(root, step)
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(bytes([step]) * 10)
    return folder


def leave_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(checkpoint, "free_bytes", lambda _: free)


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    for step in (3, 6):
        seal(write(tmp_path, step), step, {"step": step}, ranks=2, pace=(0.5, 0.1))
    write(tmp_path, 9)  # never finished
    found, refused = newest(tmp_path)
    assert found is not None
    assert (found.step, found.state, found.ranks, found.pace) == (6, {"step": 6}, 2, (0.5, 0.1))
    assert refused == ("step-00000009: it was not finished",)


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path) -> None:
    for step in (3, 6):
        seal(write(tmp_path, step), step, {})
    (folder_of(tmp_path, 6) / "weights").write_bytes(b"cut")
    found, refused = newest(tmp_path)
    assert found is not None
    assert found.step == 3
    assert refused == ("step-00000006: weights is not what was written",)


def test_old_checkpoints_go(tmp_path: Path) -> None:
    for step in (3, 6, 9):
        seal(write(tmp_path, step), step, {})
    prune(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000006", "step-00000009"]


def test_no_checkpoint_is_a_fresh_start(tmp_path: Path) -> None:
    assert newest(tmp_path / "nothing") == (None, ())


def test_what_differs_from_what_was_in_memory_is_not_proven(tmp_path: Path) -> None:
    import torch

    folder = write(tmp_path, 3)
    torch.save({"weight": torch.arange(1000.0)}, folder / "state.pt")
    assert [record.path for record in prove(folder)] == ["state.pt", "weights"]
    content = bytearray((folder / "state.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "state.pt").write_bytes(content)
    with pytest.raises(OSError, match=r"state\.pt: .+ is not what was written"):
        prove(folder)


def test_ranks_prove_all_files_between_them(tmp_path: Path) -> None:
    folder = write(tmp_path, 3)
    for name in "abcd":
        (folder / name).write_text(name)
    parts = [{record.path for record in prove(folder, part, 2)} for part in range(2)]
    assert parts[0] | parts[1] == {"a", "b", "c", "d", "weights"}
    assert not parts[0] & parts[1]


def test_a_training_whose_checkpoints_do_not_fit_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = 10_000_000  # 160 MB and a bit each
    leave_free(monkeypatch, 330_000_000)
    demand_room(tmp_path, weights)
    leave_free(monkeypatch, 310_000_000)
    with pytest.raises(
        WorkspaceError, match=r"has 0\.29 GiB for checkpoints, but two of them take about 0\.30 GiB: the newest"
    ):
        demand_room(tmp_path, weights)


def test_what_old_checkpoints_hold_counts_as_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = 10_000_000
    leave_free(monkeypatch, 310_000_000)
    with (write(tmp_path, 3) / "more").open("wb") as file:
        file.truncate(20_000_000)
    demand_room(tmp_path, weights)


@pytest.mark.parametrize(
    "free, fits, left, said",
    [
        (30 << 20, True, [3, 6, 9], ""),
        (12 << 20, True, [9], "only the newest is kept"),
        (5 << 20, False, [9], "it is not written: the newest, of step 9, stays"),
    ],
)
def test_where_the_disk_fills_up_older_checkpoints_go_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, fits: bool, left: list[int], said: str
) -> None:
    for step in (3, 6, 9):
        seal(write(tmp_path, step), step, {})
    leave_free(monkeypatch, free)
    found, warning = make_room(tmp_path, 10 << 20)
    assert found == fits
    assert warning.endswith(said)
    assert bool(warning) == bool(said)
    assert [int(path.name[5:]) for path in sorted(tmp_path.glob("step-*"))] == left


def test_what_the_last_checkpoint_took_is_known(tmp_path: Path) -> None:
    assert taken_bytes(tmp_path) == 0
    seal(write(tmp_path, 3), 3, {})
    assert taken_bytes(tmp_path) == 10
    shutil.rmtree(folder_of(tmp_path, 3))
    assert newest_step(tmp_path) == 0


def test_the_state_of_a_checkpoint_is_read_without_its_hashes(tmp_path: Path) -> None:
    state: dict[str, Any] = {"tokens": 5}
    seal(write(tmp_path, 3), 3, state, ranks=4)
    kept = checkpoint.trusted(tmp_path, 3)
    assert (kept.state, kept.ranks, kept.pace) == (state, 4, None)
