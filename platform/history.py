"""What became of an app so far: its builds and releases; building again, cancelling, rolling back."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from shipway.platform import applog, auth, releases, shapes
from shipway.platform.builds import cancel, queue
from shipway.platform.errors import Conflict, NotFound
from shipway.platform.models import App, Build, Release, User
from shipway.platform.shapes import View
from shipway.platform.states import BUILD_ENDED, ReleaseState
from shipway.platform.store import Store
from shipway.platform.vault import Vault

MAX_ROWS = 200  # of a list, newest first

# -- builds -------------------------------------------------------------------------------------


def builds(store: Store, user: User, name: str, limit: int = 15) -> list[View]:
    """The app's newest builds."""
    with store.reading() as db:
        app = auth.app_for(db, user, name)
        rows = select(Build).where(Build.app_id == app.id).order_by(Build.id.desc())
        found = list(db.scalars(rows.limit(_rows(limit))))
        made = releases.made_by(db, found)
        return [shapes.build(row, made.get(row.id)) for row in found]


def build(store: Store, user: User, name: str, number: int | None = None) -> View:
    """One build, the newest without a number. Raises NotFound."""
    with store.reading() as db:
        app = auth.app_for(db, user, name)
        row = find_build(db, app, number)
        return shapes.build(row, releases.made_by(db, [row]).get(row.id))


def rebuild(store: Store, user: User, name: str) -> View:
    """Build the commit that serves (else the newest that was pushed) again and deploy it."""
    with store.transaction() as db:
        app = auth.app_for(db, user, name)
        current = releases.current(db, app)
        last = _made(db, app, current)
        if last is None:
            raise Conflict(f"Nothing was pushed to {name} yet: there is nothing to build.")
        if "archive" in (last.source or {}):
            raise Conflict(f"{name} serves an image from an archive: deploy the archive again.")
        row = queue(
            db,
            app,
            user,
            store.now(db),
            commit=last.commit,
            branch=last.branch,
            old_commit=last.commit,
            ref_moved=True,
            source=last.source,
        )
        view = shapes.build(row)
    told = f"Build {view['id']} of {shapes.what(last)} started by user {user.name}"
    applog.append(store.settings, name, "app[api]", told)
    return view


def _made(db: Session, app: App, current: Release | None) -> Build | None:
    """The build that `current` came of, directly or by way of other releases; the newest without it."""
    newest = select(Build).where(Build.app_id == app.id).order_by(Build.id.desc()).limit(1)
    if current is None:
        return db.scalar(newest)
    of_image = db.scalar(newest.where(Build.image == current.image))
    if of_image is not None or current.commit is None:
        return of_image or db.scalar(newest)
    return db.scalar(newest.where(Build.commit == current.commit))


def cancel_build(store: Store, user: User, name: str, number: int | None = None) -> View:
    """End a build that waits or runs, or the deploy of what it made; the newest without a number.

    Raises Conflict if both have ended.
    """
    with store.transaction() as db:
        app = auth.app_for(db, user, name)
        row = find_build(db, app, number)
        made = releases.made_by(db, [row]).get(row.id)
        if made:
            _end_release(db, made, user, store.now(db))
        elif row.state in BUILD_ENDED:
            raise Conflict(f"Build {row.id} has ended already: {row.state.value}.")
        else:
            cancel(db, row, store.now(db), f"Cancelled by {user.name}.")
        view = shapes.build(row, made)
    told = f"Build {view['id']} cancelled by user {user.name}"
    applog.append(store.settings, name, "app[api]", told)
    return view


def find_build(db: Session, app: App, number: int | None) -> Build:
    """The app's build of that id, the newest without one. Raises NotFound."""
    query = select(Build).where(Build.app_id == app.id)
    if number is not None:
        query = query.where(Build.id == number)
    row = db.scalar(query.order_by(Build.id.desc()).limit(1))
    if row is None:
        what = "no builds yet" if number is None else f"no build {number}"
        raise NotFound(f"{app.name} has {what}: see `shipway builds -a {app.name}`.")
    return row


# -- releases -----------------------------------------------------------------------------------


def all_releases(store: Store, user: User, name: str, limit: int = 15) -> list[View]:
    """The app's newest releases."""
    with store.reading() as db:
        app = auth.app_for(db, user, name)
        query = select(Release).where(Release.app_id == app.id).order_by(Release.version.desc())
        return [
            shapes.release(row, current=row.id == app.release_id)
            for row in db.scalars(query.limit(_rows(limit)))
        ]


def release(store: Store, user: User, name: str, version: int | None = None) -> View:
    """One release with the names of its config vars, the one that serves without a version. Raises NotFound."""
    with store.reading() as db:
        app = auth.app_for(db, user, name)
        row = find_release(db, app, version)
        config = Vault(store.settings).open(app.id, row.config)
        view = shapes.release(row, current=row.id == app.release_id)
        return {**view, "config": sorted(config)}


def rollback(store: Store, user: User, name: str, version: int | None = None) -> View:
    """Make a new release of the image, config, process types and scale of an earlier one, the one before without a version.

    What is on its way then is superseded. Answers {"from": version, "to": version, "release": the new one}. Raises NotFound, Conflict.
    """
    with store.transaction() as db:
        app = auth.app_for(db, user, name)
        current = releases.current(db, app)
        if current is None:
            raise Conflict(f"{name} has no release yet: there is nothing to roll back to.")
        target = _target(db, app, current, version)
        app.config = target.config  # what is pushed next starts from what was rolled back to
        row = releases.again(
            db, app, user, store.now(db), target, f"Rollback to v{target.version}", overrides=True
        )
        made = shapes.release(row, current=False)
        view = {"from": current.version, "to": target.version, "release": made}
    told = f"Rollback to v{view['to']} by user {user.name}"
    applog.append(store.settings, name, "app[api]", told)
    applog.append_release(store.settings, name, made["version"], user.name)
    return view


def cancel_release(store: Store, user: User, name: str, version: int | None = None) -> View:
    """End a deploy that waits or is under way, the newest without a version. Raises NotFound, Conflict."""
    with store.transaction() as db:
        app = auth.app_for(db, user, name)
        if version is None:
            waiting = releases.under_way(db, app)
            if not waiting:
                raise Conflict(f"No deploy of {name} is under way.")
            row = waiting[-1]
        else:
            row = find_release(db, app, version)
        _end_release(db, row, user, store.now(db))
        view = shapes.release(row, current=False)
    told = f"Release v{view['version']} cancelled by user {user.name}"
    applog.append(store.settings, name, "app[api]", told)
    return view


def _end_release(db: Session, row: Release, user: User, now: float) -> None:
    if row.state not in releases.UNFINISHED:
        raise Conflict(f"v{row.version} has ended already: {row.state.value}.")
    if not releases.end(db, row, "cancelled", f"Cancelled by {user.name}.", now):
        raise Conflict(f"v{row.version} answers already: go back with `shipway rollback`.")


def find_release(db: Session, app: App, version: int | None) -> Release:
    """The app's release of that version, the one that serves without one. Raises NotFound."""
    if version is None:
        current = releases.current(db, app)
        if current is None:
            raise NotFound(f"{app.name} has no release yet: push some code first.")
        return current
    row = db.scalar(select(Release).where(Release.app_id == app.id, Release.version == version))
    if row is None:
        raise NotFound(
            f"{app.name} has no release v{version}: see `shipway releases -a {app.name}`."
        )
    return row


def _target(db: Session, app: App, current: Release, version: int | None) -> Release:
    if version is None:
        earlier = (
            select(Release)
            .where(
                Release.app_id == app.id,
                Release.version < current.version,
                Release.state == ReleaseState.RETIRED,
            )
            .order_by(Release.version.desc())
            .limit(1)
        )
        found = db.scalar(earlier)
        if found is None:
            raise Conflict(f"v{current.version} is the first release of {app.name} that served.")
        return found
    target = find_release(db, app, version)
    if target.id == current.id:
        raise Conflict(f"v{version} is what serves already.")
    if target.state != ReleaseState.RETIRED:
        raise Conflict(
            f"v{version} never served ({target.state.value}), so there is nothing to go back to."
        )
    if target.image not in releases.restorable(db, app):
        raise Conflict(
            f"The image of v{version} is gone: those of the last {releases.KEPT_RELEASES} releases that served are kept."
        )
    return target


def _rows(limit: int) -> int:
    return max(1, min(limit, MAX_ROWS))
