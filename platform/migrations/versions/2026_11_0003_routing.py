"""what an app's owner sets about its requests"""

import sqlalchemy as sa
from alembic import op

revision = "2026_11_0003"
down_revision = "2026_11_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column, empty."""
    with op.batch_alter_table("apps") as apps:
        apps.add_column(sa.Column("routing", sa.JSON(), nullable=True))


def downgrade() -> None:
    """Take it away."""
    with op.batch_alter_table("apps") as apps:
        apps.drop_column("routing")
