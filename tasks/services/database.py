"""The Prefect server's database: SQLite in the workspace, or PostgreSQL by address. The address is a secret."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import InputError, ServiceError
from tasks.services.spec import DATABASE_VARIABLE

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_EXTENSION = "pg_trgm"
_PATIENCE = 15.0  # seconds


@dataclass(frozen=True)
class Database:
    """Where the server keeps its records.

    Args:
        shown: kind and place, without the password.
        url: the whole address; "" for the file in the workspace.
        sqlite: whether it is SQLite.
    """

    shown: str
    url: str = field(repr=False)
    sqlite: bool


def database_of(url: str, workspace: Path) -> Database:
    """The database that an address names; "" is a SQLite file in the workspace.

    Raises:
        InputError: the address is not one of SQLite or PostgreSQL.
    """
    if not url:
        return Database(f"SQLite, {workspace / 'server' / 'prefect.db'}", "", sqlite=True)
    parsed = _parse(url)
    if parsed.drivername == "sqlite+aiosqlite":
        return Database(f"SQLite, {parsed.database}", url, sqlite=True)
    # The forms that other tools write; Prefect speaks through asyncpg alone.
    parsed = parsed.set(drivername="postgresql+asyncpg")
    place = f"{parsed.username or ''}@{parsed.host or 'localhost'}:{parsed.port or 5432}/{parsed.database or ''}"
    return Database(f"PostgreSQL, {place}", parsed.render_as_string(hide_password=False), sqlite=False)


def check_database(database: Database) -> None:
    """Prove that PostgreSQL can be reached and that the server can make its tables there.

    Raises:
        ServiceError: it cannot, with what to do.
    """
    if database.sqlite:
        return
    try:
        found = asyncio.run(asyncio.wait_for(_facts(database.url), _PATIENCE))
    except Exception as error:
        # Neither the address nor the cause is shown whole: both may hold the password.
        raise ServiceError(
            f"{database.shown} cannot be used: {_reason(error)}. Check the address in {DATABASE_VARIABLE} "
            f"(postgresql+asyncpg://user:password@host:5432/database) and that the database runs."
        ) from None
    if not found["tables"]:
        raise ServiceError(
            f"{database.shown}: the role may not make tables in the schema {found['schema']}. Make it the owner of the "
            f"database, or as administrator: GRANT CREATE ON SCHEMA {found['schema']} TO {found['role']}."
        )
    if not found["has"] and not found["may"]:
        raise ServiceError(
            f"{database.shown}: Prefect needs the extension {_EXTENSION}, "
            + (
                f"and the role may not create it. As administrator, in this database: CREATE EXTENSION {_EXTENSION}."
                if found["there"]
                else "which this PostgreSQL does not have. Install its contrib package (postgresql-contrib)."
            )
        )


async def _facts(url: str) -> dict[str, Any]:
    """What the role may do there."""
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    engine = create_async_engine(url, poolclass=NullPool, hide_parameters=True)
    question = text(f"""
        SELECT current_user AS role, coalesce(current_schema(), 'public') AS schema,
          coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS tables,
          EXISTS (SELECT 1 FROM pg_extension WHERE extname = '{_EXTENSION}') AS has,
          EXISTS (SELECT 1 FROM pg_available_extensions WHERE name = '{_EXTENSION}') AS there,
          coalesce((SELECT bool_or(trusted) FROM pg_available_extension_versions WHERE name = '{_EXTENSION}'), false)
            AND has_database_privilege(current_database(), 'CREATE')
          OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
            AND EXISTS (SELECT 1 FROM pg_available_extensions WHERE name = '{_EXTENSION}') AS may
    """)  # noqa: S608 - a constant
    try:
        async with engine.connect() as connection:
            return dict((await connection.execute(question)).mappings().one())
    finally:
        await engine.dispose()


def _reason(error: Exception) -> str:
    error = getattr(error, "orig", None) or error
    if isinstance(error, TimeoutError):
        return f"no answer within {_PATIENCE:.0f} s"
    text = str(error).splitlines()[0] if str(error) else ""
    return f"{text.rstrip('.')} ({type(error).__name__})"


def _parse(url: str) -> "URL":
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise InputError(f"The database's address cannot be read. {_FORMS}") from None
    if parsed.drivername not in ("postgresql+asyncpg", "postgresql", "postgres", "sqlite+aiosqlite"):
        raise InputError(f"The database's address starts with {parsed.drivername}://. {_FORMS}")
    return parsed


_FORMS = (
    f"Expected in {DATABASE_VARIABLE}: postgresql+asyncpg://user:password@host:5432/database, "
    f"or sqlite+aiosqlite:///file; without one a SQLite file in the workspace."
)
