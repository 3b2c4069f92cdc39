"""Apps that are being taken down: once nothing of one runs, its files go, then its rows.

The row of the app goes last and frees the name; until then each step is done again from the start.
"""

import shutil

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from shipway.platform import applog, events, formation
from shipway.platform.models import (
    Access,
    App,
    Build,
    Domain,
    Formation,
    Instance,
    Output,
    Release,
)
from shipway.platform.repos import Repos
from shipway.platform.states import BuildState, Desired, InstanceState, ReleaseState
from shipway.platform.store import signal
from shipway.workers import claims, retention
from shipway.workers.context import Context


def take_down(ctx: Context, repos: Repos) -> None:
    """Take each destroyed app one step further."""
    with ctx.store.reading() as db:
        apps = list(db.scalars(select(App).where(App.destroyed_at.is_not(None))))
    for app in apps:
        if _is_quiet(ctx, app):
            _remove_files(ctx, repos, app)
            _remove_rows(ctx, app)


def _is_quiet(ctx: Context, app: App) -> bool:
    """Whether nothing of the app runs any more; ask for the end of what does."""
    with ctx.store.reading() as db:
        if not (_restless_instances(db, app) or _open_releases(db, app) or _running(db, app)):
            return True
    with ctx.store.transaction() as db:
        row = db.get_one(App, app.id)
        now = ctx.store.now(db)
        for release in _open_releases(db, app):
            if release.lease_until < now:
                claims.end_release(db, release, ReleaseState.FAILED, "The app was destroyed.", now)
        for build in _running(db, app):
            build.cancel_requested = True
            if build.lease_until < now:
                claims.end_build(db, build, BuildState.CANCELLED, "The app was destroyed.", now)
        wanted = [i for i in _restless_instances(db, app) if i.desired == Desired.RUNNING]
        formation.retire(db, row, wanted)
    return False


def _restless_instances(db: Session, app: App) -> list[Instance]:
    return list(
        db.scalars(
            select(Instance).where(
                Instance.app_id == app.id, Instance.state != InstanceState.STOPPED
            )
        )
    )


def _open_releases(db: Session, app: App) -> list[Release]:
    states = (ReleaseState.PENDING, ReleaseState.DEPLOYING)
    return list(
        db.scalars(select(Release).where(Release.app_id == app.id, Release.state.in_(states)))
    )


def _running(db: Session, app: App) -> list[Build]:
    return list(
        db.scalars(select(Build).where(Build.app_id == app.id, Build.state == BuildState.RUNNING))
    )


def _remove_files(ctx: Context, repos: Repos, app: App) -> None:
    repos.remove(app.name)
    shutil.rmtree(applog.folder(ctx.settings, app.name), ignore_errors=True)
    for folder in (retention.build_cache(ctx, app.id), retention.build_storage(ctx, app.id)):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(ctx.settings.bill(app.id, "").parent, ignore_errors=True)
    for ref in ctx.engine.images.refs():
        if ref.startswith(f"app-{app.id}/") or ref == f"cache/{app.name}":
            ctx.engine.images.untag(ref)


def _remove_rows(ctx: Context, app: App) -> None:
    with ctx.store.transaction() as db:
        builds = select(Build.id).where(Build.app_id == app.id)
        releases = select(Release.id).where(Release.app_id == app.id)
        streams = [
            *(f"build:{each}" for each in db.scalars(builds)),
            *(f"release:{each}" for each in db.scalars(releases)),
        ]
        for begin in range(0, len(streams), 500):
            db.execute(delete(Output).where(Output.stream.in_(streams[begin : begin + 500])))
        for kind in (Instance, Release, Build, Domain, Formation, Access):
            db.execute(delete(kind).where(kind.app_id == app.id))
        db.execute(delete(App).where(App.id == app.id))
        signal(db, events.ROUTES, events.app_topic(app.id))
