"""GPU groups: what is asked, what is there, and what a worker's environment says."""

import pytest

from tasks.errors import InputError
from tasks.services.devices import Group, devices_here, groups_of


@pytest.mark.parametrize(
    ("asked", "here", "groups"),
    [
        ([], [], [Group("gpu-stand-in-1", stand_in="stand-in-1")]),
        ([], ["0", "1"], [Group("gpu-0", ("0", "1"))]),
        (["0", "1,2"], ["0", "1", "2"], [Group("gpu-0", ("0",)), Group("gpu-1", ("1", "2"))]),
        (
            ["cpu", "0", "cpu"], ["0"],
            [
                Group("gpu-stand-in-1", stand_in="stand-in-1"), Group("gpu-0", ("0",)),
                Group("gpu-stand-in-2", stand_in="stand-in-2"),
            ],
        ),
        (["GPU-1a2b-3c"], [], [Group("gpu-GPU-1a2b-3c", ("GPU-1a2b-3c",))]),
    ],
)  # fmt: skip
def test_groups(asked: list[str], here: list[str], groups: list[Group]) -> None:
    assert groups_of(asked, here) == groups


@pytest.mark.parametrize(
    ("asked", "here", "message"),
    [
        (["2"], ["0", "1"], "--gpu-group '2': there is no GPU 2. This machine has 0, 1."),
        (["0"], [], "there is no GPU 0. This machine has none; --gpu-group cpu computes on the CPU instead."),
        (["0,0"], ["0"], "device 0 is in two groups or stands twice."),
        (["0", "1,0"], ["0", "1"], "--gpu-group '1,0': device 0 is in two groups or stands twice."),
        (["zero"], ["0"], "'zero' is not a device. Expected numbers such as 0 or 0,1, or cpu."),
        ([""], ["0"], "'' is not a device."),
    ],
)
def test_groups_that_cannot_be(asked: list[str], here: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        groups_of(asked, here)
    assert message in str(error.value)


def test_a_worker_sees_its_devices_alone() -> None:
    assert Group("gpu-1", ("1", "2")).environment == {"CUDA_VISIBLE_DEVICES": "1,2"}
    assert Group("x", stand_in="stand-in-2").environment == {"CUDA_VISIBLE_DEVICES": "", "TUNEFLOW_STAND_IN": "stand-in-2"}
    assert (Group("gpu-1", ("1", "2")).size, Group("x", stand_in="stand-in-1").size) == (2, 1)


@pytest.mark.parametrize(("chosen", "devices"), [("", []), ("1", ["1"]), ("0, 2", ["0", "2"]), ("-1", [])])
def test_the_users_choice_of_devices_holds(chosen: str, devices: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert devices_here() == devices
