"""The server's database: what an address means, and what PostgreSQL must allow, on a real PostgreSQL."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tasks.errors import InputError, ServiceError
from tasks.services.database import check_database, database_of
from tests.servers import free_port, postgres


def run_sql(url: str, *statements: str) -> None:
    async def run() -> None:
        import asyncpg

        connection = await asyncpg.connect(url.replace("+asyncpg", ""))
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(run())


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    # Not below pytest's folder: another session of pytest may close that for PostgreSQL's user.
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder, postgres(Path(folder) / "postgres") as url:
        yield url


@pytest.mark.parametrize(
    ("url", "shown", "sqlite"),
    [
        ("", "SQLite, {workspace}/server/prefect.db", True),
        ("sqlite+aiosqlite:////tmp/a.db", "SQLite, /tmp/a.db", True),
        ("postgresql+asyncpg://me:hidden@db:5433/prefect", "PostgreSQL, me@db:5433/prefect", False),
        ("postgresql://me:hidden@db/prefect", "PostgreSQL, me@db:5432/prefect", False),
        ("postgres://me@db/prefect", "PostgreSQL, me@db:5432/prefect", False),
    ],
)
def test_what_an_address_means(url: str, shown: str, sqlite: bool, tmp_path: Path) -> None:
    database = database_of(url, tmp_path)
    assert (database.shown, database.sqlite) == (shown.format(workspace=tmp_path), sqlite)
    assert "hidden" not in repr(database)
    if not sqlite:
        assert database.url.startswith("postgresql+asyncpg://me")


@pytest.mark.parametrize("url", ["mysql://me:hidden@db/prefect", "no address, hidden", "sqlite:///hidden.db"])
def test_other_databases_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"postgresql\+asyncpg://user:password@host:5432/database") as error:
        database_of(url, tmp_path)
    assert "hidden" not in str(error.value)


def test_a_database_in_which_all_is_allowed(server: str, tmp_path: Path) -> None:
    check_database(database_of(server, tmp_path))


def test_a_database_that_does_not_answer(tmp_path: Path) -> None:
    port = free_port()
    with pytest.raises(ServiceError) as error:
        check_database(database_of(f"postgresql+asyncpg://me:hidden@127.0.0.1:{port}/prefect", tmp_path))
    assert f"PostgreSQL, me@127.0.0.1:{port}/prefect cannot be used" in str(error.value)
    assert "Check the address in PREFECT_API_DATABASE_CONNECTION_URL" in str(error.value)
    assert "hidden" not in str(error.value)


def test_a_database_that_is_not_there(server: str, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match='database "missing" does not exist'):
        check_database(database_of(server.removesuffix("prefect") + "missing", tmp_path))


def test_a_role_that_may_not_make_tables_or_the_extension(server: str, tmp_path: Path) -> None:
    run_sql(
        server,
        "CREATE ROLE guest LOGIN",
        "REVOKE ALL ON SCHEMA public FROM PUBLIC",
        "GRANT USAGE ON SCHEMA public TO guest",
        "REVOKE CREATE ON DATABASE prefect FROM PUBLIC",
    )
    guest = database_of(server.replace("//prefect@", "//guest@"), tmp_path)
    with pytest.raises(ServiceError, match=r"may not make tables in the schema public.*GRANT CREATE ON SCHEMA public TO guest"):
        check_database(guest)
    run_sql(server, "GRANT CREATE ON SCHEMA public TO guest")
    with pytest.raises(
        ServiceError, match=r"pg_trgm, and the role may not create it. As administrator.*CREATE EXTENSION pg_trgm"
    ):
        check_database(guest)
    run_sql(server, "CREATE EXTENSION pg_trgm")
    check_database(guest)
