"""What has grown old: images that no kept release needs, folders of dead builds, log files of instances long gone."""

import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from shipway.platform import applog, branches, releases
from shipway.platform.models import App, Build, Instance, Release
from shipway.platform.repos import Repos
from shipway.platform.states import BuildState, InstanceState, ReleaseState
from shipway.workers import tasks
from shipway.workers.context import Context

LOG_DAYS = 7.0  # for so long an ended instance's file stays, however full the app's folder is
APP_LOGS = 4  # files of settings.log_size that one app's folder may hold in all
DAY = 86_400.0


def clean(ctx: Context) -> None:
    """Remove all that nobody needs any more."""
    prune_images(ctx)
    remove_dead_folders(ctx)
    remove_dead_tasks(ctx)
    remove_old_logs(ctx)
    maintain_repos(ctx)


def build_folder(ctx: Context, build_id: int, fence: int) -> Path:
    """Where an attempt keeps its files: on the engine's file system, so that layers need no copy."""
    return ctx.settings.data / "runtime" / "work" / f"{build_id}-{fence}"


def build_cache(ctx: Context, app_id: int) -> Path:
    """What the builds of one app keep for each other."""
    return ctx.settings.data / "runtime" / "cache" / str(app_id)


def build_storage(ctx: Context, app_id: int) -> Path:
    """What steps of Dockerfiles have left for the app's next build."""
    return ctx.settings.data / "runtime" / "storage" / str(app_id)


def image_ref(app_id: int, build_id: int) -> str:
    """The tag that keeps a build's image."""
    return f"app-{app_id}/build:{build_id}"


def maintain_repos(ctx: Context) -> None:
    """Pack the apps' repositories and let go of commits that never went live."""
    repos = Repos(ctx.settings)
    with ctx.store.reading() as db:
        apps = [
            (app.name, branches.dead_builds(db, app.id))
            for app in db.scalars(select(App).where(App.destroyed_at.is_(None)))
        ]
    for name, dead in apps:
        if repos.path(name).exists():
            repos.maintain(name, dead)


def prune_images(ctx: Context) -> int:
    """Untag the images that no kept release has and free what nothing refers to; bytes freed."""
    with ctx.store.reading() as db:
        kept = kept_images(db)
    store = ctx.engine.images
    for ref, digest in store.refs().items():
        if ref.startswith("app-") and digest not in kept:
            store.untag(ref)
    return store.prune(kept)


def kept_images(db: Session) -> set[str]:
    """The images of releases that run, may run, or may be gone back to, and of each app's last good build."""
    kept: set[str] = set()
    for app in db.scalars(select(App)):
        built = (
            select(Build.image)
            .where(Build.app_id == app.id, Build.state == BuildState.SUCCEEDED)
            .order_by(Build.id.desc())
            .limit(1)
        )
        kept |= releases.restorable(db, app)
        kept.update(image for image in db.scalars(built) if image)
    open_states = (ReleaseState.PENDING, ReleaseState.DEPLOYING, ReleaseState.LIVE)
    kept.update(db.scalars(select(Release.image).where(Release.state.in_(open_states))))
    running = select(Instance.release_id).where(Instance.state != InstanceState.STOPPED)
    kept.update(db.scalars(select(Release.image).where(Release.id.in_(running))))
    return kept


def remove_dead_folders(ctx: Context) -> None:
    """Remove the folders of attempts that nobody is at any more."""
    for folder in (ctx.settings.data / "runtime" / "work").glob("*-*"):
        build_id, _, fence = folder.name.partition("-")
        with ctx.store.reading() as db:
            build = db.get(Build, int(build_id))
        if not build or build.state != BuildState.RUNNING or build.fence > int(fence):
            shutil.rmtree(folder, ignore_errors=True)


def remove_dead_tasks(ctx: Context) -> None:
    """Remove the containers of release commands that nobody waits for any more."""
    for container in ctx.engine.list():
        if not container.id.startswith(tasks.PREFIX):
            continue
        release_id, _, fence = container.id.removeprefix(tasks.PREFIX).split("-")
        with ctx.store.reading() as db:
            release = db.get(Release, int(release_id))
        if not release or release.state != ReleaseState.DEPLOYING or release.fence > int(fence):
            ctx.engine.remove(container.id)


def remove_old_logs(ctx: Context) -> None:
    """Remove files of instances that ended long ago, the oldest first, from apps whose logs take too much room."""
    limit = ctx.settings.log_size * APP_LOGS
    with ctx.store.reading() as db:
        names = list(db.scalars(select(App.name)))
        alive = set(db.scalars(select(Instance.id).where(Instance.state != InstanceState.STOPPED)))
    for name in names:
        files = applog.folder(ctx.settings, name).glob("*.log*")
        ended = [path for path in files if (_instance_of(path) or 0) not in alive | {0}]
        for path in surplus(measured(ended), limit):
            path.unlink(missing_ok=True)


def measured(files: Iterable[Path]) -> Iterator[tuple[Path, int, float]]:
    """Each file with its bytes and the time of its last write, but those that a rotation or a removal took meanwhile."""
    for path in files:
        with suppress(FileNotFoundError):
            about = path.stat()
            yield path, about.st_size, about.st_mtime


def surplus(files: Iterable[tuple[Path, int, float]], limit: int) -> list[Path]:
    """Which of the files (path, bytes, time of last write) to remove so that the rest fits into `limit` bytes.

    Those written to in the last days stay, whatever their size.
    """
    oldest_first = sorted(files, key=lambda each: each[2])
    total = sum(size for _, size, _ in oldest_first)
    young = time.time() - LOG_DAYS * DAY
    gone = []
    for path, size, written in oldest_first:
        if total <= limit or written > young:
            break
        gone.append(path)
        total -= size
    return gone


def _instance_of(path: Path) -> int | None:
    """The instance id in a log file's name (web.1.417.log, web.1.417.log.1); None of the platform's own."""
    number = path.name.partition(".log")[0].rpartition(".")[2]
    return int(number) if number.isdigit() else None
