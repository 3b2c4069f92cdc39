"""The task `shipway.deploy`: a release takes over from the one before it, or nothing changes.

Level-triggered: each step looks at the rows and does what is missing, so a worker that takes a half-done deploy over
begins at the top. `app.release_id` is what the router serves by; it moves first, and the release is called live once
the router has done it, so that whoever waits for LIVE finds the new version answering.
"""

import logging
import threading
import time

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from shipway.platform import applog, deploysettings, events, formation, releases
from shipway.platform.errors import LeaseLost, ShipwayError
from shipway.platform.models import App, Host, Instance, Release
from shipway.platform.states import Desired, InstanceState, ReleaseState
from shipway.platform.store import move, say, signal
from shipway.workers import checks, claims
from shipway.workers.celery_app import app as celery
from shipway.workers.context import Context, context
from shipway.workers.errors import DeployFailed, EndWanted, Interrupted, Stopping
from shipway.workers.lease import LeaseKeeper
from shipway.workers.logtail import last_lines
from shipway.workers.patience import Patience, waited_for, waiting_line
from shipway.workers.tasks import Task

log = logging.getLogger(__name__)

LOOK = 1.0  # seconds between two looks without a signal
ROUTES_TIMEOUT = 30.0  # seconds the router has to take the new instances
HOST_GRACE = 30.0  # seconds beyond boot_timeout after which a silent host fails the deploy
SHOWN_LINES = 20  # of a crashed instance


@celery.task(name="shipway.deploy")  # type: ignore[untyped-decorator]
def deploy(release_id: int) -> None:
    """Deploy the releases that wait."""
    run_deploys(context())


def run_deploys(ctx: Context) -> None:
    """Deploy until nothing is left that could be begun, or this process ends."""
    while not ctx.stopping.is_set():
        release = claims.claim_release(ctx.store, ctx.owner)
        if release is None:
            return
        Deploy(ctx, release).run()


class Deploy:
    """One attempt at one release, claimed by this process."""

    def __init__(self, ctx: Context, release: Release) -> None:
        self._ctx = ctx
        self._store = ctx.store
        self._release = release
        self._app = release.app
        self._keeper = LeaseKeeper(ctx.store, release)

    def run(self) -> None:
        """Deploy; whatever happens, the row tells it in the end, unless the release is another's by then."""
        try:
            self._take_over()
        except Stopping:
            claims.give_back(self._store, self._release)
        except LeaseLost:
            log.info("release %d is another worker's now", self._release.id)
        except EndWanted:
            self._end_early()
        except (DeployFailed, ShipwayError) as error:
            self._give_up(error)
        except SQLAlchemyError:
            log.exception("release %d left to its lease", self._release.id)
        except Exception:  # a fault of ours must end the deploy, and be found in the platform's log
            log.exception("release %d", self._release.id)
            self._give_up(DeployFailed("Shipway itself failed; its log on the server says how."))

    # -- the story -------------------------------------------------------------------------------

    def _take_over(self) -> None:
        with self._store.signals.listen(events.app_topic(self._app.id)) as self._listener:
            self._run_release_command()
            self._start_instances()
            self._await_up()
            generation = self._switch_routes()
            routed = self._await_routes(generation)
            self._run_postdeploy()
            self._go_live(routed=routed)

    def _run_release_command(self) -> None:
        """The release phase: nothing of the new release runs before it has succeeded."""
        with self._store.reading() as db:
            release = self._wanted(db)
        if not release.release_due:
            return
        self._tell("-----> Running the release command...")
        self._run_task(releases.RELEASE, release.processes[releases.RELEASE])
        with self._store.transaction() as db:
            self._ours(db).release_due = False

    def _run_postdeploy(self) -> None:
        """App.json's script, once the new version answers; if it fails that is said, and the version serves."""
        command = (self._release.manifest or {}).get("postdeploy")
        if not command or not self._release.build_id:
            return
        self._tell("-----> Running app.json's postdeploy script...")
        try:
            self._run_task("postdeploy", command)
        except DeployFailed as error:
            self._tell(f" !     {error} The new version serves all the same.")

    def _run_task(self, kind: str, command: str) -> None:
        """Run a command of the release, minding the lease meanwhile. Raises DeployFailed, Interrupted, LeaseLost."""
        own = deploysettings.of(self._ctx.settings, self._app.deploy_settings)
        stop, over = threading.Event(), threading.Event()
        interrupted: list[Exception] = []

        def mind() -> None:
            try:
                with self._store.signals.listen(events.app_topic(self._app.id)) as listener:
                    while not over.is_set():
                        self._keeper.tend()
                        self._check_task_wanted()
                        listener.wait(LOOK)
            except (Interrupted, LeaseLost, SQLAlchemyError) as error:
                interrupted.append(error)
                stop.set()

        threading.Thread(target=mind, name=f"task-{self._release.id}", daemon=True).start()
        try:
            Task(self._ctx, self._release, kind, command).run(stop, own.release_timeout)
        except DeployFailed:
            if interrupted:
                raise interrupted[0] from None
            raise
        finally:
            over.set()

    def _check_task_wanted(self) -> None:
        """A newer release lets a command finish, which may be half-way through a database's migration."""
        if self._ctx.stopping.is_set():
            raise Stopping
        with self._store.reading() as db:
            release = self._ours(db)
            cancelled = release.end_wanted == "cancelled" or release.app.destroyed_at is not None
            if cancelled and release.app.release_id != release.id:
                raise EndWanted

    def _start_instances(self) -> None:
        with self._store.transaction() as db:
            release = self._wanted(db)
            if release.attempts == 1:
                say(db, release.stream, "-----> Launching...")
            formation.fill(db, release.app, release, self._store.now(db))

    def _await_up(self) -> None:
        """Return once every instance is up. Raises DeployFailed for the first that is not going to be."""
        own = deploysettings.of(self._ctx.settings, self._app.deploy_settings)
        boot = own.boot_timeout + checks.patience(self._release.manifest)
        deadline = time.monotonic() + boot + HOST_GRACE
        patience = Patience()
        while True:
            with self._store.reading() as db:
                self._wanted(db)
                instances = formation.running(db, self._release)
                now = self._store.now(db)
            for instance in instances:
                if instance.state == InstanceState.CRASHED:
                    raise self._crashed(instance)
            late = [i for i in instances if i.state != InstanceState.UP]
            if not late:
                return
            if time.monotonic() > deadline:
                raise self._overdue(late[0])
            waited = waited_for(late, now)
            if patience.is_over(waited):
                self._tell(waiting_line(late, waited))
            self._wait(min(LOOK, patience.due - waited))

    def _switch_routes(self) -> int:
        """Have the router serve this release; the generation of routes to wait for."""
        with self._store.transaction() as db:
            release = self._wanted(db)
            app = release.app
            if app.release_id != release.id:
                app.release_id = release.id
                formation.routes_changed(db, app)
            return app.routes_wanted

    def _await_routes(self, generation: int) -> bool:
        """Whether the router has done `generation` in time."""
        deadline = time.monotonic() + ROUTES_TIMEOUT
        while time.monotonic() < deadline:
            with self._store.reading() as db:
                done = db.scalar(select(App.routes_done).where(App.id == self._app.id))
            if done is not None and done >= generation:
                return True
            self._wait()
        return False

    def _go_live(self, *, routed: bool) -> None:
        """The release's end, and that of the one before it: its instances may go."""
        with self._store.transaction() as db:
            release = self._ours(db)
            now = self._store.now(db)
            for older in _others(db, release):
                formation.retire(db, release.app, formation.running(db, older))
                if older.state == ReleaseState.LIVE:
                    move(db, older, ReleaseState.RETIRED)
            formation.adopt(db, release.app, release)
            move(db, release, ReleaseState.LIVE, ended_at=now)
            # What was scaled while this was under way.
            formation.fill(db, release.app, release, now)
            say(db, release.stream, *self._farewell(routed=routed))
            signal(db, events.app_topic(self._app.id), events.output_topic(release.stream))

    def _farewell(self, *, routed: bool) -> list[str]:
        late = [] if routed else [" !     The router has not taken the new version yet; it will."]
        released = [*late, f"       Released v{self._release.version}"]
        if "web" not in self._release.processes:
            return [
                *released,
                " !     No web process: nothing answers at the app's address. Start the others with",
                f" !     `shipway ps:scale {self._app.name} {next(iter(self._release.processes), 'worker')}=1`.",
            ]
        return [
            *released,
            f"       {self._ctx.settings.app_url(self._app.name)} deployed to Shipway",
        ]

    # -- other ends ------------------------------------------------------------------------------

    def _give_up(self, error: Exception) -> None:
        """Undo: the new instances go, the old release goes on as if nothing had been."""
        with self._store.transaction() as db:
            try:
                release = self._ours(db)
            except LeaseLost:
                return
            before = _last_live(db, release)
            say(db, release.stream, *_complaint(error, goes_on=before is not None))
            if release.app.release_id == release.id:
                release.app.release_id = before
            claims.end_release(db, release, ReleaseState.FAILED, str(error), self._store.now(db))
        applog.append(
            self._ctx.settings,
            self._app.name,
            "app[api]",
            f"Release v{self._release.version} failed: {error}",
        )

    def _end_early(self) -> None:
        """The new instances go, since the release is not wanted any more."""
        with self._store.transaction() as db:
            try:
                release = self._ours(db)
            except LeaseLost:
                return
            state = releases.ENDS[release.end_wanted or "cancelled"]
            reason = release.reason or "The app was destroyed."
            say(db, release.stream, f" !     {reason}")
            claims.end_release(db, release, state, reason, self._store.now(db))

    def _crashed(self, instance: Instance) -> DeployFailed:
        path = applog.instance_file(self._ctx.settings, self._app.name, instance.name, instance.id)
        why = instance.reason or "ended"
        return DeployFailed(f"{instance.name}: {why}", instance.name, last_lines(path, SHOWN_LINES))

    def _overdue(self, instance: Instance) -> DeployFailed:
        with self._store.reading() as db:
            host = db.get_one(Host, instance.host_id)
            silent = host.alive_until < self._store.now(db)
        if silent:
            return DeployFailed(
                f"{instance.name}: the host {host.name} does not report; is `shipway host` running there?"
            )
        return DeployFailed(
            f"{instance.name}: still {instance.state}, although the time to boot is over."
        )

    # -- small ones ------------------------------------------------------------------------------

    def _wait(self, seconds: float = LOOK) -> None:
        if self._ctx.stopping.is_set():
            raise Stopping
        self._keeper.tend()
        self._listener.wait(seconds)

    def _tell(self, line: str) -> None:
        with self._store.transaction() as db:
            say(db, self._ours(db).stream, line)

    def _wanted(self, db: Session) -> Release:
        """As `_ours`, of a release that shall still be deployed. Raises EndWanted, DeployFailed too."""
        release = self._ours(db)
        if release.app.destroyed_at is not None:
            raise DeployFailed("The app was destroyed.")
        if release.end_wanted and release.app.release_id != release.id:
            raise EndWanted
        return release

    def _ours(self, db: Session) -> Release:
        """The release's row in this transaction. Raises LeaseLost if it is another's by now."""
        row = claims.still_held(db, self._release)
        if row is None:
            raise LeaseLost(f"Release {self._release.id} was taken over by another worker.")
        return row


def _others(db: Session, release: Release) -> list[Release]:
    """The app's releases before this one that still serve, or have instances that are wanted."""
    return list(
        db.scalars(
            select(Release).where(
                Release.app_id == release.app_id,
                Release.id != release.id,
                Release.state.not_in(releases.UNFINISHED),
                (Release.state == ReleaseState.LIVE)
                | Release.id.in_(
                    select(Instance.release_id).where(Instance.desired == Desired.RUNNING)
                ),
            )
        )
    )


def _last_live(db: Session, release: Release) -> int | None:
    return db.scalar(
        select(Release.id).where(
            Release.app_id == release.app_id, Release.state == ReleaseState.LIVE
        )
    )


def _complaint(error: Exception, *, goes_on: bool) -> list[str]:
    lines = [f" !     Deploy failed: {error}"]
    if isinstance(error, DeployFailed) and error.lines:
        lines += [f"       Last lines of {error.name}:", *(f"         {x}" for x in error.lines)]
    return [*lines, " !     The version before goes on unchanged."] if goes_on else lines
