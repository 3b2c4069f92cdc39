"""Builds: queueing one, asking for its end."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from shipway.platform import events
from shipway.platform.models import App, Build, User
from shipway.platform.states import BUILD_ENDED, BuildState
from shipway.platform.store import enqueue, move, say, signal

BUILDS = "builds"  # the queue
SUPERSEDED = "Superseded by a newer push."


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
    source: dict[str, str] | None = None,
) -> Build:
    """Queue a build of `commit`, or of `source` (Build.source); those of the app that wait or run are superseded by it."""
    open_ones = select(Build).where(Build.app_id == app.id, Build.state.not_in(BUILD_ENDED))
    for older in db.scalars(open_ones.with_for_update()):
        if older.state == BuildState.RUNNING:
            older.cancel_requested, older.reason = True, older.reason or SUPERSEDED
            continue
        say(db, older.stream, f" !     {SUPERSEDED}")
        move(db, older, BuildState.SUPERSEDED, reason=SUPERSEDED, ended_at=now)
    build = Build(
        app_id=app.id,
        user_id=user.id,
        commit=commit,
        branch=branch,
        old_commit=old_commit,
        push_until=push_until,
        ref_moved=ref_moved,
        source=source,
        created_at=now,
    )
    db.add(build)
    db.flush()
    enqueue(db, BUILDS, "shipway.build", build.id)
    signal(db, events.app_topic(app.id))
    return build


def cancel(db: Session, build: Build, now: float, reason: str) -> None:
    """End a build that waits at once, and ask the worker of one that runs to end it. Nothing if it has ended."""
    if build.state == BuildState.QUEUED:
        say(db, build.stream, f" !     {reason}")
        move(db, build, BuildState.CANCELLED, reason=reason, ended_at=now)
    elif build.state == BuildState.RUNNING:
        build.cancel_requested, build.reason = True, build.reason or reason
    signal(db, events.app_topic(build.app_id), events.output_topic(build.stream))


def end_asked_for(build: Build) -> tuple[BuildState, str]:
    """How a build ends that was asked to while it ran, and why."""
    state = BuildState.SUPERSEDED if build.reason == SUPERSEDED else BuildState.CANCELLED
    return state, build.reason or "Cancelled."


def cancel_all(db: Session, app: App, now: float, reason: str) -> None:
    """Cancel all of the app's builds that have not ended."""
    open_ones = select(Build).where(Build.app_id == app.id, Build.state.not_in(BUILD_ENDED))
    for build in db.scalars(open_ones):
        cancel(db, build, now, reason)
