"""Releases: making the next one, and what each change of an app asks for."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from shipway.platform import events, formation
from shipway.platform.models import App, Build, Release, User
from shipway.platform.states import ReleaseState
from shipway.platform.store import enqueue, move, say, signal

DEPLOYS = "deploys"  # the queue
KEPT_RELEASES = 10  # per app, of those that went live: what a rollback can go back to
WENT_LIVE = (ReleaseState.LIVE, ReleaseState.RETIRED)
UNFINISHED = (ReleaseState.PENDING, ReleaseState.DEPLOYING)
RELEASE = "release"  # the process type that runs once, before a release's instances are started

End = Literal["cancelled", "superseded"]
ENDS: Mapping[str, ReleaseState] = {
    "cancelled": ReleaseState.CANCELLED,
    "superseded": ReleaseState.SUPERSEDED,
}


def create(
    db: Session,
    app: App,
    user: User,
    now: float,
    *,
    description: str,
    image: str,
    processes: dict[str, str],
    config: bytes | None,
    build: Build | None = None,
    commit: str | None = None,
    quantities: Mapping[str, int] | None = None,
    manifest: dict[str, Any] | None = None,
    overrides: bool = False,
    runs_release: bool = True,
) -> Release:
    """Add the app's next release and have it deployed; earlier ones that it makes needless are not.

    `quantities` are instances by process type, where they shall be others than what the app is scaled to.
    `overrides` says that the release stands for itself, as code that was pushed or a rollback does: what is on its
    way is not needed any more. `runs_release`: its release command runs, if it has one.
    """
    release = _add(
        db,
        app,
        user,
        now,
        description=description,
        image=image,
        processes=processes,
        config=config,
        build_id=build.id if build else None,
        commit=commit,
        manifest=manifest,
        release_due=runs_release and RELEASE in processes,
    )
    release.formation = formation.planned(db, app, release, quantities)
    _supersede(db, app, release, now, overrides=overrides)
    enqueue(db, DEPLOYS, "shipway.deploy", release.id)
    signal(db, events.app_topic(app.id))
    return release


def _add(db: Session, app: App, user: User, now: float, **values: Any) -> Release:
    last = db.scalar(select(func.max(Release.version)).where(Release.app_id == app.id)) or 0
    release = Release(
        app_id=app.id,
        version=last + 1,
        user_id=user.id,
        created_at=now,
        **values,
    )
    db.add(release)
    db.flush()
    return release


def _supersede(db: Session, app: App, newer: Release, now: float, *, overrides: bool) -> None:
    """End those that are on their way and bring nothing that `newer` does not bring as well.

    Code that is on its way is not given up for a change of config that builds on it: if that failed, the code would
    be lost.
    """
    serving = current(db, app)
    for older in under_way(db, app):
        if older.id == newer.id:
            continue
        if overrides or (serving is not None and older.image == serving.image):
            end(db, older, "superseded", f"Superseded by v{newer.version}.", now)


def under_way(db: Session, app: App) -> list[Release]:
    """The releases that wait or are being deployed, locked against who would claim them."""
    query = select(Release).where(Release.app_id == app.id, Release.state.in_(UNFINISHED))
    return list(db.scalars(query.order_by(Release.version).with_for_update()))


def end(db: Session, release: Release, how: End, reason: str, now: float) -> bool:
    """End a release that waits at once, and ask who deploys one to end it; False if it is too late for that."""
    if release.app.release_id == release.id or release.state not in UNFINISHED:
        return False
    if release.state == ReleaseState.PENDING:
        say(db, release.stream, f" !     {reason}")
        move(db, release, ENDS[how], reason=reason, ended_at=now)
        signal(db, events.output_topic(release.stream))
    else:
        release.end_wanted, release.reason = how, reason
    signal(db, events.app_topic(release.app_id))
    return True


def rescaled(db: Session, app: App, user: User, now: float, description: str) -> Release | None:
    """A release of what serves, with the app's scale of now. Its instances become those of the new release as they run.

    None if nothing serves, or something is on its way, which takes the scale with it.
    """
    serving = current(db, app)
    if serving is None or serving.state != ReleaseState.LIVE or under_way(db, app):
        return None
    release = _add(
        db,
        app,
        user,
        now,
        description=description,
        image=serving.image,
        processes=serving.processes,
        config=serving.config,
        commit=serving.commit,
        manifest=serving.manifest,
    )
    release.formation = formation.wanted(db, app, release)
    for instance in formation.running(db, serving):
        instance.release_id = release.id
    db.flush()
    app.release_id = release.id
    move(db, serving, ReleaseState.RETIRED)
    move(db, release, ReleaseState.LIVE, ended_at=now)
    formation.routes_changed(db, app)
    return release


def restorable(db: Session, app: App) -> set[str]:
    """The images that are kept of the app's releases that went live."""
    query = select(Release.image).where(Release.app_id == app.id, Release.state.in_(WENT_LIVE))
    newest_ones = query.order_by(Release.version.desc()).limit(KEPT_RELEASES)
    return set(db.scalars(newest_ones))


def current(db: Session, app: App) -> Release | None:
    """The release that serves."""
    return db.get(Release, app.release_id) if app.release_id else None


def made_by(db: Session, builds: Iterable[Build]) -> dict[int, Release]:
    """The releases that builds led to, by the build's id; a build that failed led to none."""
    query = select(Release).where(Release.build_id.in_([build.id for build in builds]))
    return {release.build_id: release for release in db.scalars(query) if release.build_id}


def newest(db: Session, app: App) -> Release | None:
    """What serves or, where something newer is on its way, that: changes build on it, so that none is undone."""
    ahead = (ReleaseState.PENDING, ReleaseState.DEPLOYING, ReleaseState.LIVE)
    query = select(Release).where(Release.app_id == app.id, Release.state.in_(ahead))
    return db.scalar(query.order_by(Release.version.desc()).limit(1))


def again(
    db: Session,
    app: App,
    user: User,
    now: float,
    base: Release,
    description: str,
    *,
    overrides: bool = False,
    runs_release: bool = True,
) -> Release:
    """The next release, of the image, process types and scale of `base`, with the app's config of now."""
    return create(
        db,
        app,
        user,
        now,
        description=description,
        image=base.image,
        processes=base.processes,
        config=app.config,
        commit=base.commit,
        quantities=base.formation,
        manifest=base.manifest,
        overrides=overrides,
        runs_release=runs_release,
    )
