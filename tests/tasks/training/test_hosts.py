"""Several hosts at one training, as network namespaces of this machine: own addresses, own links, shared files."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.contracts import ModelRef
from tasks.errors import ChildError, RequestError
from tasks.process import carrying, python_module, run_child
from tasks.training.agent import end_ranks, interface_of
from tasks.training.hosts import agent, cluster_of, on_host, unusable
from tasks.training.job import Cluster, TrainingJob
from tasks.training.rendezvous import Group
from tests.netns import NAMESPACE, Net
from tests.tasks.training.conftest import build_job, cpu_plan

TOY = str(Path(__file__).with_name("toy_rank.py"))


@pytest.fixture
def net() -> Iterator[Net]:
    made = Net()
    try:
        made.up()
    except (OSError, subprocess.CalledProcessError) as error:
        made.down()
        pytest.skip(f"no network namespaces can be made here: {error}")
    yield made
    made.down()


def toy_job(folder: Path, cluster: Cluster) -> TrainingJob:
    """A job whose program is a toy: nothing of its model and its data is there."""
    base = ModelRef(
        uri="none", location="none", sha256="0" * 64, parameters=1, architecture="Toy", max_positions=8, vocabulary=8, bytes=0,
        hidden_size=1, layers=1,
    )  # fmt: skip
    (folder / "checkpoints").mkdir()
    return build_job(base, folder, folder, plan=cpu_plan(devices=2)).model_copy(update={"cluster": cluster})


def ranks_of(host: str) -> list[int]:
    found = []
    for pid in carrying(f"TUNEFLOW_HOST={host}"):
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"toy_rank" in words and b"torch.distributed.run" not in words:
            found.append(pid)
    return found


def test_a_command_reaches_a_host_through_the_template() -> None:
    cluster = Cluster(hosts=("gpu-1",), address="10.0.0.1")
    words = on_host(cluster, "gpu-1", ["kill", "-9", "7"])
    assert words[0] == "ssh"
    assert words[-2] == "gpu-1"
    assert words[-1].endswith("&& exec kill -9 7")
    assert "BatchMode=yes" in words
    assert agent(cluster, "gpu-1", 20.0)[-1].endswith("-m tasks.shim 0 20 " + sys.executable + " -m tasks.training.agent")


def test_the_interface_of_an_address_is_found() -> None:
    assert interface_of("127.0.0.1") == "lo"
    with pytest.raises(LookupError, match=r"no network interface has the address 192\.0\.2\.1"):
        interface_of("192.0.2.1")


def test_without_hosts_training_is_of_this_machine() -> None:
    assert cluster_of(()) is None


def test_two_variables_say_how_hosts_are_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    hosts = ("me@127.0.0.1", "127.0.0.2")
    found = cluster_of(hosts, 2)
    assert found is not None
    assert (found.hosts, found.per_host, found.address) == (hosts, 2, "127.0.0.1")
    assert found.command.startswith("ssh ")
    monkeypatch.setenv("TUNEFLOW_HOST_COMMAND", NAMESPACE)
    monkeypatch.setenv("TUNEFLOW_ADDRESS", "10.0.0.9")
    told = cluster_of(hosts)
    assert told is not None
    assert (told.command, told.address) == (NAMESPACE, "10.0.0.9")


@pytest.mark.parametrize("least", [1, 2])
def test_torchrun_is_told_how_many_hosts_are_enough(tmp_path: Path, least: int) -> None:
    cluster = cluster_of(("127.0.0.1", "127.0.0.2", "127.0.0.3"), 2, least)
    assert cluster is not None
    told = json.loads(Group(toy_job(tmp_path, cluster), cluster, ["toy"], "")._told("127.0.0.2"))
    assert told["arguments"][:2] == [f"--nnodes={least}:3", "--nproc-per-node=2"]
    assert told["arguments"][-1] == "toy"


def test_a_host_without_an_address_is_refused() -> None:
    with pytest.raises(RequestError, match=r"resources\.hosts names nowhere\.invalid, which has no address here"):
        cluster_of(["nowhere.invalid"])


def test_hosts_that_cannot_take_part_are_named(tmp_path: Path) -> None:
    here = Cluster(hosts=("a",), address="127.0.0.1", command="sh -c {command}")
    assert unusable(here, tmp_path) == []
    (problem,) = unusable(here, tmp_path / "absent")
    assert problem.startswith("resources.hosts: a cannot take part (it does not see the same files). It must be reached")
    (problem,) = unusable(here.model_copy(update={"command": "absent-program {host} {command}"}), tmp_path)
    assert "No such file or directory: 'absent-program'" in problem


def test_old_ranks_of_a_member_are_ended_and_nothing_else() -> None:
    def start(**variables: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env={**os.environ, **variables})

    rank, launcher, stranger = start(TUNEFLOW_MEMBER="g/a", RANK="0"), start(TUNEFLOW_MEMBER="g/a"), start(RANK="0")
    other = start(TUNEFLOW_MEMBER="g/b", RANK="1")
    try:
        end_ranks("g/a", 500.0)  # none is as old
        assert rank.poll() is None
        time.sleep(0.2)
        end_ranks("g/a", 0.1)
        assert rank.wait(60) == -signal.SIGKILL
        assert [process.poll() for process in (launcher, stranger, other)] == [None] * 3
    finally:
        for process in (rank, launcher, stranger, other):
            process.kill()
            process.wait()


class Story:
    """What happens to a group of two hosts: a rank dies, the first host is lost, and comes back."""

    def __init__(self, net: Net, job: TrainingJob) -> None:
        self.net, self.job = net, job
        self.first, self.second = net.hosts
        self.started: list[dict[str, Any]] = []
        self.acts = [self.kill_rank, self.lose_host, self.restore_host, self.end]

    def __call__(self, event: dict[str, Any]) -> None:
        if event["kind"] == "started":
            self.started.append(event)
        worlds = [2, 2, 1, 2]  # that must have formed before each act
        number = len(worlds) - len(self.acts)
        ready = event["kind"] == "metrics" and self.acts and event["world"] == worlds[number]
        if ready and len(self.started) > number and event["step"] >= self.started[-1]["resumed_from"] + 5:
            threading.Thread(target=self.acts.pop(0)).start()

    def kill_rank(self) -> None:
        os.kill(ranks_of(self.second)[0], signal.SIGKILL)

    def lose_host(self) -> None:
        self.net.lose(self.first)

    def restore_host(self) -> None:
        self.net.restore(self.first)

    def end(self) -> None:
        (self.job.checkpoints / "enough").touch()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_group_survives_the_loss_of_a_rank_and_of_its_first_host_and_takes_it_back(
    net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)  # hosts have interfaces of their own
    cluster = Cluster(hosts=net.hosts, least=1, address=net.address, command=NAMESPACE)
    job = toy_job(tmp_path, cluster)
    path = tmp_path / "job.json"
    path.write_text(job.model_dump_json())
    story = Story(net, job)
    lines: list[str] = []
    try:
        run_child(python_module("tasks.training.rendezvous", str(path), TOY), on_event=story, on_line=lines.append)
    except ChildError as error:
        raise AssertionError("\n".join([str(error), *map(str, story.started)])) from error
    assert not story.acts
    assert [event["world"] for event in story.started] == [2, 2, 1, 2]
    begun = [event["resumed_from"] for event in story.started]
    assert begun[0] == 0
    assert all(later >= earlier + 5 for earlier, later in itertools.pairwise(begun))
    assert ranks_of(story.first) == ranks_of(story.second) == []
