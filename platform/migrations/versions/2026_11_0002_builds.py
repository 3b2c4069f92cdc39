"""what builds are told and made of"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_0002"
down_revision = "2026_11_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns, all empty."""
    with op.batch_alter_table("apps") as apps:
        apps.add_column(sa.Column("build_settings", sa.JSON(), nullable=True))
        apps.add_column(sa.Column("buildpacks", sa.JSON(), nullable=True))
        apps.add_column(sa.Column("build_secrets", sa.LargeBinary(), nullable=True))
    with op.batch_alter_table("builds") as builds:
        builds.add_column(sa.Column("source", sa.JSON(), nullable=True))
        builds.add_column(sa.Column("builder", sa.String(), nullable=True))
        builds.add_column(sa.Column("inputs", sa.String(), nullable=True))


def downgrade() -> None:
    """Take them away."""
    with op.batch_alter_table("builds") as builds:
        for name in ("inputs", "builder", "source"):
            builds.drop_column(name)
    with op.batch_alter_table("apps") as apps:
        for name in ("build_secrets", "buildpacks", "build_settings"):
            apps.drop_column(name)
