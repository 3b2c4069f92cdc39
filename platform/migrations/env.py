"""Alembic's environment: migrates the database that the settings name."""

from collections.abc import Iterator
from contextlib import contextmanager

from alembic import context
from sqlalchemy import Connection, create_engine

from shipway.platform.models import Base
from shipway.platform.settings import current


def run() -> None:
    """Run the migrations in one transaction each (SQLite: by copying tables where it must)."""
    engine = context.config.attributes.get("engine") or create_engine(current().sql)
    with engine.connect() as connection, _tables_may_be_copied(connection):
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_as_batch=True,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()


@contextmanager
def _tables_may_be_copied(connection: Connection) -> Iterator[None]:
    """SQLite's tables are changed by a copy; the old one cannot be dropped while others' rows name its own."""
    if connection.dialect.name != "sqlite":
        yield
        return
    # By the driver: within a transaction, which SQLAlchemy would begin, it does nothing.
    driver = connection.connection.driver_connection
    assert driver is not None
    driver.execute("PRAGMA foreign_keys=OFF")
    try:
        yield
    finally:
        driver.execute("PRAGMA foreign_keys=ON")


run()
