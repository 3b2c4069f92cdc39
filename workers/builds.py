"""The task `shipway.build`: a commit becomes an image, and the image a release."""

import logging
import shutil
import threading
from functools import lru_cache
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from shipway.buildpacks.build import BuildRequest, BuildResult
from shipway.buildpacks.build import build as build_image
from shipway.buildpacks.errors import BuildFailed, StackFailed
from shipway.buildpacks.stacks import Stack, ensure_stack
from shipway.platform import applog, events, releases
from shipway.platform.errors import LeaseLost, ShipwayError
from shipway.platform.models import App, Build, User
from shipway.platform.repos import Repos
from shipway.platform.states import BuildState
from shipway.platform.store import say
from shipway.runtime.errors import RuntimeFailure
from shipway.runtime.spec import IdRange, Limits
from shipway.workers import claims, retention
from shipway.workers.celery_app import app as celery
from shipway.workers.console import Console
from shipway.workers.context import Context, context
from shipway.workers.errors import CancelRequested, Interrupted, Stopping, WorkFailed
from shipway.workers.lease import LeaseKeeper
from shipway.workers.slots import Slots
from shipway.workers.source import unpack_commit

log = logging.getLogger(__name__)

LOOK = 1.0  # seconds between two looks at whether the build shall go on, without a signal
PIDS = 4096  # processes of one build: compilers fork
BUILD_SHARES = 128  # an eighth of an instance's share of the CPU


@celery.task(name="shipway.build")  # type: ignore[untyped-decorator]
def build(build_id: int) -> None:
    """Run the builds that wait."""
    run_builds(context())


@lru_cache(maxsize=1)
def _slots(size: int) -> Slots:
    return Slots(size)


def run_builds(ctx: Context) -> None:
    """Run builds until none is left that could be begun, or this process ends."""

    def step() -> bool:
        claimed = None if ctx.stopping.is_set() else claims.claim_build(ctx.store, ctx.owner)
        if claimed:
            BuildRun(ctx, claimed).run()
        return claimed is not None

    _slots(ctx.settings.builds).work_off(step)


class BuildRun:
    """One attempt at one build, claimed by this process."""

    def __init__(self, ctx: Context, claimed: Build) -> None:
        self._ctx = ctx
        self._build = claimed
        self._app = claimed.app
        self._console = Console(ctx.store, claimed.stream)
        self._stop = threading.Event()  # the build container ends when it is set
        self._interrupted: Exception | None = None  # why
        self._over = threading.Event()

    def run(self) -> None:
        """Build; whatever happens, the row tells it in the end, unless the build is another's by then."""
        minder = threading.Thread(target=self._mind, name=f"build-{self._build.id}", daemon=True)
        minder.start()
        try:
            self._succeed(self._build_image())
        except (Interrupted, LeaseLost) as error:
            self._interrupt(error)
        except (WorkFailed, BuildFailed, StackFailed, RuntimeFailure, ShipwayError) as error:
            self._fail(self._interrupted or error)
        except SQLAlchemyError:
            log.exception("build %d left to its lease", self._build.id)
        except Exception:  # a fault of ours must end the build, and be found in the platform's log
            log.exception("build %d", self._build.id)
            self._fail(WorkFailed("Shipway itself failed; its log on the server says how."))
        finally:
            self._over.set()
            self._console.close()
            self._clean()

    # -- the steps -------------------------------------------------------------------------------

    def _build_image(self) -> BuildResult:
        self._clean()
        stack = self._stack()
        source = self._folder / "source"
        unpack_commit(
            self._ctx.engine.layers,
            Repos(self._ctx.settings),
            self._app.name,
            self._build.commit,
            source,
        )
        request = self._request(stack, source)
        return build_image(self._ctx.engine, request, self._console.line, self._stop)

    def _stack(self) -> Stack:
        return ensure_stack(self._ctx.engine, self._ctx.settings.stack, self._console.line)

    def _request(self, stack: Stack, source: Path) -> BuildRequest:
        settings = self._ctx.settings
        bundle = Path(settings.ca_bundle) if settings.ca_bundle else None
        return BuildRequest(
            app=self._app.name,
            build_id=f"{self._build.id}-{self._build.fence}",
            source=source,
            previous=self._previous(),
            stack=stack,
            ids=IdRange(self._app.uid_base),
            workdir=self._folder,
            env=settings.build_env,
            ca_bundle=bundle if bundle and bundle.exists() else None,
            limits=Limits(
                memory=settings.build_memory,
                cpus=settings.build_cpus,
                cpu_shares=BUILD_SHARES,
                pids=PIDS,
            ),
            timeout=settings.build_timeout,
            labels={"shipway.commit": self._build.commit},
            cache=retention.build_cache(self._ctx, self._app.id),
            ref=retention.image_ref(self._app.id, self._build.id),
        )

    def _previous(self) -> str | None:
        """The image of the app's last good build: what has not changed is taken from it."""
        with self._ctx.store.reading() as db:
            return db.scalar(
                select(Build.image)
                .where(Build.app_id == self._app.id, Build.state == BuildState.SUCCEEDED)
                .order_by(Build.id.desc())
                .limit(1)
            )

    def _succeed(self, result: BuildResult) -> None:
        """The build's end and the release it makes are one change."""
        if self._interrupted:
            raise self._interrupted
        store, build = self._ctx.store, self._build
        lines = self._console.take()
        with store.transaction() as db:
            now = store.now(db)
            row = claims.still_held(db, build)
            if row is None:
                raise LeaseLost(f"Build {build.id} was taken over by another worker.")
            app = db.get_one(App, self._app.id)
            _say(row, db, lines)
            row.image, row.phases = result.image, dict(result.phases)
            row.processes = dict(result.processes)
            db.flush()
            claims.end_build(db, row, BuildState.SUCCEEDED, None, now)
            release = releases.create(
                db,
                app,
                db.get_one(User, build.user_id),
                now,
                description=f"Deploy {build.commit[:8]}",
                image=result.image,
                processes=dict(result.processes),
                config=app.config,
                build=row,
                commit=build.commit,
            )
        self._log(f"Deploy {build.commit[:8]} by user {build.user.name}")
        self._log(f"Release v{release.version} created by user {build.user.name}")

    # -- other ends ------------------------------------------------------------------------------

    def _fail(self, error: Exception) -> None:
        if isinstance(error, Interrupted | LeaseLost):
            self._interrupt(error)
            return
        # What the buildpacks failed at, they have said.
        said = isinstance(error, BuildFailed)
        self._end(BuildState.FAILED, str(error), None if said else f" !     Build failed: {error}")

    def _interrupt(self, error: Exception) -> None:
        if isinstance(error, CancelRequested):
            self._end(BuildState.CANCELLED, "Cancelled.", " !     Build cancelled.")
        elif isinstance(error, Stopping):
            claims.give_back(self._ctx.store, self._build)
        # A lease that was lost: the build is another's, and so is its row.

    def _end(self, state: BuildState, reason: str, line: str | None) -> None:
        store = self._ctx.store
        lines = [*self._console.take(), *([line] if line else [])]
        with store.transaction() as db:
            row = claims.still_held(db, self._build)
            if row is None:
                return
            _say(row, db, lines)
            claims.end_build(db, row, state, reason, store.now(db))
        self._log(f"Build of {self._build.commit[:8]} {state}: {reason}")

    # -- while it runs ---------------------------------------------------------------------------

    def _mind(self) -> None:
        """Renew the lease, and stop the build when it is to stop (a thread of its own)."""
        keeper = LeaseKeeper(self._ctx.store, self._build)
        topic = events.app_topic(self._app.id)
        try:
            with self._ctx.store.signals.listen(topic) as listener:
                while not self._over.is_set():
                    keeper.tend()
                    self._check_wanted()
                    listener.wait(LOOK)
        except (Interrupted, LeaseLost) as error:
            self._interrupted = error
            self._stop.set()

    def _check_wanted(self) -> None:
        if self._ctx.stopping.is_set():
            raise Stopping
        with self._ctx.store.reading() as db:
            if db.scalar(select(Build.cancel_requested).where(Build.id == self._build.id)):
                raise CancelRequested

    # -- what is left behind ---------------------------------------------------------------------

    @property
    def _folder(self) -> Path:
        return retention.build_folder(self._ctx, self._build.id, self._build.fence)

    def _clean(self) -> None:
        """Remove what attempts at this build have left: this one's, and those before it."""
        fence = self._build.fence
        for attempt in range(1, fence + 1):
            self._ctx.engine.remove(f"build-{self._app.name}-{self._build.id}-{attempt}")
        for folder in self._folder.parent.glob(f"{self._build.id}-*"):
            if int(folder.name.rpartition("-")[2]) <= fence:
                shutil.rmtree(folder, ignore_errors=True)

    def _log(self, text: str) -> None:
        applog.append(self._ctx.settings, self._app.name, "app[api]", text)


def _say(row: Build, db: Session, lines: list[str]) -> None:
    if lines:
        say(db, row.stream, *lines)
