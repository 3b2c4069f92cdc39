"""Bringing the database to the newest scheme."""

from pathlib import Path

from sqlalchemy import inspect, text
from sqlalchemy.exc import DatabaseError

from shipway.platform.errors import ShipwayError
from shipway.platform.settings import Settings
from shipway.platform.store import Store

HEAD = "2026_11_0004"  # the newest migration; a test holds it to the folder


class DatabaseDamaged(ShipwayError):
    """The database file is not whole: start from a backup."""

    exit_code = 74  # EX_IOERR


def prepare(settings: Settings) -> None:
    """Make or migrate the database if it is not at HEAD; quick when it is."""
    settings.data.mkdir(parents=True, exist_ok=True)
    store = Store(settings)
    try:
        if _version(store) != HEAD:
            _migrate(store)
    except DatabaseError as error:
        raise DatabaseDamaged(
            f"The database {settings.sql} cannot be used: {error.orig}. Apps that run keep running;"
            " put a backup of the file in its place, then start Shipway again."
        ) from None
    finally:
        store.engine.dispose()


def _version(store: Store) -> str | None:
    with store.engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("select version_num from alembic_version")).scalar()


def _migrate(store: Store) -> None:
    from alembic import (
        command,  # 0.2 s that a start without migrations need not wait for
    )
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["engine"] = store.engine
    command.upgrade(config, "head")
