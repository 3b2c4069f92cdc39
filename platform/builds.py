"""Builds: queueing one, asking for its end."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from shipway.platform import events
from shipway.platform.models import App, Build, User
from shipway.platform.states import BuildState
from shipway.platform.store import enqueue, move, say, signal

BUILDS = "builds"  # the queue


def queue(
    db: Session,
    app: App,
    user: User,
    now: float,
    *,
    commit: str,
    branch: str,
    old_commit: str | None,
    push_until: float = 0.0,
    ref_moved: bool = False,
) -> Build:
    """Queue a build of `commit`; those of the app that still wait are superseded by it."""
    waiting = select(Build).where(Build.app_id == app.id, Build.state == BuildState.QUEUED)
    for older in db.scalars(waiting):
        say(db, older.stream, " !     Superseded by a newer push.")
        move(
            db,
            older,
            BuildState.SUPERSEDED,
            reason="Superseded by a newer push.",
            ended_at=now,
        )
    build = Build(
        app_id=app.id,
        user_id=user.id,
        commit=commit,
        branch=branch,
        old_commit=old_commit,
        push_until=push_until,
        ref_moved=ref_moved,
        created_at=now,
    )
    db.add(build)
    db.flush()
    enqueue(db, BUILDS, "shipway.build", build.id)
    signal(db, events.app_topic(app.id))
    return build
