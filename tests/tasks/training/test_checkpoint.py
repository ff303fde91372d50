from pathlib import Path

from tasks.training.checkpoint import folder_of, newest, prune, seal


def write(root: Path, step: int) -> Path:
    folder = folder_of(root, step)
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(bytes([step]) * 10)
    return folder


def test_the_newest_whole_checkpoint_is_found(tmp_path: Path) -> None:
    for step in (3, 6):
        seal(write(tmp_path, step), step, {"step": step})
    write(tmp_path, 9)  # never finished
    found, refused = newest(tmp_path)
    assert found is not None
    assert (found.step, found.state) == (6, {"step": 6})
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
