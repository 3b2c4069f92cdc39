"""Alembic's environment: migrates the database that the settings name."""

from alembic import context
from sqlalchemy import create_engine

from shipway.platform.models import Base
from shipway.platform.settings import current


def run() -> None:
    """Run the migrations in one transaction each (SQLite: by copying tables where it must)."""
    engine = context.config.attributes.get("engine") or create_engine(current().sql)
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            render_as_batch=True,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()


run()
