"""Which Prefect server a command uses, and that no two servers share a database."""

import os
from pathlib import Path

import pytest
from prefect.settings import get_current_settings

from flows import embedded
from flows.embedded import _own_database, prefect_api, signs_of_life
from tasks.environment import EMBEDDED
from tasks.errors import ServiceError


@pytest.fixture(autouse=True)
def no_server_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", EMBEDDED):
        monkeypatch.delenv(name, raising=False)


def test_a_second_command_at_the_same_time_gets_a_database_of_its_own(tmp_path: Path) -> None:
    with _own_database(tmp_path) as first:
        with _own_database(tmp_path) as second:
            assert (first.name, second.name) == ("prefect.db", "prefect-2.db")
        with _own_database(tmp_path) as third:
            assert third == second
    with _own_database(tmp_path) as again:
        assert again == first


def test_without_a_server_the_command_has_one_of_its_own_and_says_so_to_what_it_runs(tmp_path: Path) -> None:
    with prefect_api(tmp_path):
        assert os.environ["PREFECT_API_URL"].startswith("http://127.0.0.1:")
        assert os.environ[EMBEDDED] == "1"
    assert "PREFECT_API_URL" not in os.environ
    assert EMBEDDED not in os.environ


@pytest.mark.parametrize(("found", "sent"), [("", False), ("http://127.0.0.1:4200/api", True)])
def test_signs_of_life_are_sent_where_somebody_waits_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: str, sent: bool
) -> None:
    monkeypatch.setattr(embedded, "running_api", lambda _: found)
    usual = get_current_settings().flows.heartbeat_frequency
    assert usual
    with prefect_api(tmp_path), signs_of_life():
        assert get_current_settings().flows.heartbeat_frequency == (usual if sent else None)


def test_the_server_of_up_in_the_workspace_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "running_api", lambda workspace: f"http://127.0.0.1:4200/api?{workspace.name}")
    with prefect_api(tmp_path) as start:
        assert os.environ["PREFECT_API_URL"] == f"http://127.0.0.1:4200/api?{tmp_path.name}"
        assert EMBEDDED not in os.environ
        assert start() == f"the server of `tuneflow up` at http://127.0.0.1:4200/api?{tmp_path.name}"


def test_a_named_server_that_does_not_answer_is_an_error_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with (
        prefect_api(tmp_path) as start,
        pytest.raises(ServiceError, match=r"http://127.0.0.1:9/api, does not answer\. Start it with `tuneflow up`, or unset"),
    ):
        start()
