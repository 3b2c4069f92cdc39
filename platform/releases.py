"""Releases: making the next one, and what each change of an app asks for."""

from collections.abc import Iterable

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from shipway.platform import events
from shipway.platform.models import App, Build, Release, User
from shipway.platform.states import ReleaseState
from shipway.platform.store import enqueue, signal

DEPLOYS = "deploys"  # the queue


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
) -> Release:
    """Add the app's next release and have it deployed."""
    last = db.scalar(select(func.max(Release.version)).where(Release.app_id == app.id)) or 0
    release = Release(
        app_id=app.id,
        version=last + 1,
        build_id=build.id if build else None,
        user_id=user.id,
        description=description,
        commit=commit,
        image=image,
        processes=processes,
        config=config,
        created_at=now,
    )
    db.add(release)
    db.flush()
    enqueue(db, DEPLOYS, "shipway.deploy", release.id)
    signal(db, events.app_topic(app.id))
    return release


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
    db: Session, app: App, user: User, now: float, base: Release, description: str
) -> Release:
    """The next release, of the image and the process types of `base`, with the app's config of now."""
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
    )
