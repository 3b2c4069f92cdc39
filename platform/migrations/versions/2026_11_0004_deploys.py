"""what a release is made of, how its deploy is told to end, and whether an instance is ready"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_0004"
down_revision = "2026_11_0003"
branch_labels = None
depends_on = None

BEFORE = ("PENDING", "DEPLOYING", "LIVE", "FAILED", "RETIRED")
NEW = ("CANCELLED", "SUPERSEDED")


def upgrade() -> None:
    """Add columns and two states."""
    with op.batch_alter_table("apps") as apps:
        apps.add_column(sa.Column("deploy_settings", sa.JSON(), nullable=True))
    with op.batch_alter_table("builds") as builds:
        builds.add_column(sa.Column("manifest", sa.JSON(), nullable=True))
    with op.batch_alter_table("releases") as releases:
        releases.add_column(sa.Column("formation", sa.JSON(), nullable=True))
        releases.add_column(sa.Column("manifest", sa.JSON(), nullable=True))
        releases.add_column(
            sa.Column("release_due", sa.Boolean(), nullable=False, server_default=sa.false())
        )
        releases.add_column(sa.Column("end_wanted", sa.String(), nullable=True))
    with op.batch_alter_table("instances") as instances:
        instances.add_column(
            sa.Column("ready", sa.Boolean(), nullable=False, server_default=sa.true())
        )
    if op.get_bind().dialect.name == "postgresql":
        for name in NEW:
            op.execute(f"ALTER TYPE releasestate ADD VALUE IF NOT EXISTS '{name}'")
    else:
        _states((*BEFORE, *NEW))


def downgrade() -> None:
    """Take them away; a state that is not known then becomes what it comes nearest to."""
    op.execute("UPDATE releases SET state = 'FAILED' WHERE state IN ('CANCELLED', 'SUPERSEDED')")
    if op.get_bind().dialect.name != "postgresql":  # which cannot drop the values of a type
        _states(BEFORE)
    with op.batch_alter_table("instances") as instances:
        instances.drop_column("ready")
    with op.batch_alter_table("releases") as releases:
        for name in ("end_wanted", "release_due", "manifest", "formation"):
            releases.drop_column(name)
    with op.batch_alter_table("builds") as builds:
        builds.drop_column("manifest")
    with op.batch_alter_table("apps") as apps:
        apps.drop_column("deploy_settings")


def _states(names: tuple[str, ...]) -> None:
    with op.batch_alter_table("releases") as releases:
        releases.alter_column("state", type_=sa.Enum(*names, name="releasestate"))
