"""What `up` is asked for: defaults, limits, and what is refused."""

from typing import Any

import pytest

from tasks.errors import InputError
from tasks.services.spec import ServicesSpec, check_host, check_load, is_loopback, settle

EVERYWHERE = "0.0.0.0"  # noqa: S104 - named, not bound
RUNNING = {"host": "127.0.0.1", "port": 4300, "mlflow_port": 5300, "cpu_runs": 2, "gpu_groups": ["0", "1"], "notify": ""}


def test_nothing_asked_and_nothing_up_gives_the_defaults() -> None:
    assert settle({"port": None, "gpu_groups": None}, None) == ServicesSpec("127.0.0.1", 4200, 5000, 4, (), "")


def test_what_is_asked_is_used() -> None:
    asked = {"port": 4201, "gpu_groups": ["0,1", "cpu"], "cpu_runs": None}
    assert settle(asked, None) == ServicesSpec(port=4201, gpu_groups=("0,1", "cpu"))


def test_what_runs_is_started_in_the_same_way_again() -> None:
    assert settle({"port": None, "cpu_runs": 2}, RUNNING) == ServicesSpec(
        port=4300, mlflow_port=5300, cpu_runs=2, gpu_groups=("0", "1")
    )


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"port": 4200}, "--port is 4200, but what is up was started with 4300. End that first: tuneflow down."),
        ({"gpu_groups": ["0"]}, "--gpu-group is '0', but what is up was started with '0', '1'."),
        ({"mlflow_port": 1}, "--mlflow-port is 1, but what is up was started with 5300."),
    ],
)
def test_another_option_than_what_runs_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        settle(asked, RUNNING)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 0}, "--port is 0, expected 1 to 65535."),
        ({"mlflow_port": 70000}, "--mlflow-port is 70000, expected 1 to 65535."),
        ({"port": 5000}, "--port and --mlflow-port are both 5000. Give each service a port of its own."),
        ({"cpu_runs": 0}, "--cpu-runs is 0, expected at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        ServicesSpec(**options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:4200/api"),
        (EVERYWHERE, "http://127.0.0.1:4200/api"),
        ("::", "http://[::1]:4200/api"),
        ("192.0.2.7", "http://192.0.2.7:4200/api"),
    ],
)
def test_this_machine_reaches_the_server_at(host: str, address: str) -> None:
    assert ServicesSpec(host=host).api_url == address


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.3.2.1", True), ("::1", True), ("localhost", True), (EVERYWHERE, False), ("example.org", False)],
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


@pytest.mark.parametrize(
    ("host", "password", "message"),
    [
        ("127.0.0.1", "", ""),
        ("127.0.0.1", "admin:secret", ""),
        (EVERYWHERE, "admin:secret", ""),
        (EVERYWHERE, "", "Set a password first: export PREFECT_SERVER_API_AUTH_STRING=user:password."),
        ("127.0.0.1", "secret", "PREFECT_SERVER_API_AUTH_STRING is not of the form user:password."),
        (EVERYWHERE, "admin:", "PREFECT_SERVER_API_AUTH_STRING is not of the form user:password."),
    ],
)
def test_others_need_a_password(host: str, password: str, message: str) -> None:
    if not message:
        check_host(host, password)
        return
    with pytest.raises(InputError) as error:
        check_host(host, password)
    assert message in str(error.value)
    assert "secret" not in str(error.value).replace("secrets of blocks", "")


@pytest.mark.parametrize(
    ("runs", "groups", "sqlite", "refused"), [(8, 2, True, False), (9, 2, True, True), (90, 8, False, False)]
)
def test_sqlite_bears_ten_runs(runs: int, groups: int, sqlite: bool, refused: bool) -> None:
    if not refused:
        check_load(ServicesSpec(cpu_runs=runs), groups, sqlite)
        return
    with pytest.raises(InputError, match=r"9 runs on cpu and 2 on gpu are 11 at a time.*PostgreSQL.*postgresql\+asyncpg://"):
        check_load(ServicesSpec(cpu_runs=runs), groups, sqlite)
