"""Rows as plain dicts: what the API answers with and the web UI shows.

Times are seconds since the epoch; sizes are bytes; `version` is a whole number (people write v3). No secret is in them.
"""

from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from shipway.platform import formation, releases
from shipway.platform.models import (
    Access,
    App,
    Build,
    Domain,
    Formation,
    Instance,
    Release,
    SshKey,
    Token,
    User,
)
from shipway.platform.settings import Settings
from shipway.platform.states import Desired, InstanceState, outcome

View = dict[str, Any]


def app(db: Session, settings: Settings, row: App) -> View:
    """An app: where it answers, what serves, how many instances are wanted and up."""
    current = releases.current(db, row)
    states = list(
        db.scalars(
            select(Instance.state).where(
                Instance.app_id == row.id,
                Instance.release_id == row.release_id,
                Instance.desired == Desired.RUNNING,
            )
        )
    )
    return {
        "name": row.name,
        "owner": row.owner.name,
        "url": settings.app_url(row.name),
        "git_url": f"{settings.dashboard}/{row.name}.git",
        "ssh_url": ssh_url(settings, row.name),
        "deploy_branch": row.deploy_branch,
        "version": current.version if current else None,
        "commit": current.commit if current else None,
        "formation": quantities(db, row),
        "wanted": len(states),
        "up": states.count(InstanceState.UP),
        "crashed": states.count(InstanceState.CRASHED),
        "created_at": row.created_at,
    }


def app_details(db: Session, settings: Settings, row: App) -> View:
    """An app with its domains and the users who were let in."""
    let_in = select(User.name).join(Access).where(Access.app_id == row.id).order_by(User.name)
    return {
        **app(db, settings, row),
        "domains": [settings.app_host(row.name), *domains(db, row)],
        "access": list(db.scalars(let_in)),
        "builds": db.scalar(select(func.count(Build.id)).where(Build.app_id == row.id)),
    }


def ssh_url(settings: Settings, name: str) -> str:
    """What `git remote add` takes for git over SSH."""
    host = urlsplit(settings.dashboard).hostname or settings.listen
    return f"ssh://git@{host}:{settings.ssh_port}/{name}"


def domains(db: Session, row: App) -> list[str]:
    """The app's host names beside its own under the platform's domain."""
    found = select(Domain.name).where(Domain.app_id == row.id).order_by(Domain.name)
    return list(db.scalars(found))


def quantities(db: Session, row: App) -> dict[str, int]:
    """Instances wanted by process type: those of the current release, or what was stored before there is one."""
    current = releases.current(db, row)
    if current is not None:
        return dict(sorted(formation.wanted(db, row, current).items()))
    stored = select(Formation.process_type, Formation.quantity).where(Formation.app_id == row.id)
    return {kind: quantity for kind, quantity in sorted(db.execute(stored).all())}  # noqa: C416 -- rows are no pairs to dict()


def build(row: Build, made: Release | None = None) -> View:
    """A build and `made`, the release that it led to: its `version` and `release_state`.

    `state` is the build's own; `outcome` is what became of the push (states.Outcome), and `reason` why it failed.
    """
    return {
        "id": row.id,
        "commit": row.commit,
        "branch": row.branch.removeprefix("refs/heads/"),
        "source": (row.source or {}).get("image"),
        "builder": row.builder,
        "state": row.state.value,
        "outcome": outcome(row.state, made.state if made else None).value,
        "reason": made.reason if made else row.reason,
        "user": row.user.name,
        "version": made.version if made else None,
        "release_state": made.state.value if made else None,
        "image": row.image,
        "phases": row.phases,
        "cancel_requested": row.cancel_requested,
        "created_at": row.created_at,
        "started_at": row.started_at,
        "ended_at": row.ended_at,
    }


def what(row: Build) -> str:
    """What a build is of, in a word or two: a short commit, an image, an archive."""
    if row.source and "image" in row.source:
        return row.source["image"]
    return row.commit[:8] or "an archive"


def release(row: Release, *, current: bool) -> View:
    """A release; its config is not part of it."""
    return {
        "version": row.version,
        "description": row.description,
        "state": row.state.value,
        "current": current,
        "reason": row.reason,
        "user": row.user.name,
        "commit": row.commit,
        "build": row.build_id,
        "image": row.image,
        "processes": row.processes,
        "formation": row.formation or {},
        "created_at": row.created_at,
        "ended_at": row.ended_at,
    }


def instance(row: Instance) -> View:
    """An instance, wanted and actual, with its memory as of the host's last heartbeat."""
    return {
        "id": row.id,
        "name": row.name,
        "process_type": row.process_type,
        "state": row.state.value,
        "ready": row.ready,
        "desired": row.desired.value,
        "version": row.release.version,
        "command": row.release.processes.get(row.process_type, ""),
        "host": row.host.name,
        "address": row.address,
        "memory": row.host.memory.get(str(row.id)),
        "restarts": row.restarts,
        "exit_code": row.exit_code,
        "reason": row.reason,
        "created_at": row.created_at,
        "started_at": row.started_at,
        "up_at": row.up_at,
    }


def user(row: User) -> View:
    """A user."""
    return {"name": row.name, "admin": row.is_admin, "created_at": row.created_at}


def key(row: SshKey) -> View:
    """A public key."""
    return {
        "name": row.name,
        "fingerprint": row.fingerprint,
        "kind": row.public_key.partition(" ")[0],
        "created_at": row.created_at,
    }


def token(row: Token) -> View:
    """A token, without its secret, which nobody has but its owner."""
    return {
        "id": row.id,
        "name": row.name,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
    }
