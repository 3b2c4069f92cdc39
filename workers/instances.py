"""One instance of this machine: its container's specification, its start, its end, and what is written down of it.

Each function here may be cut short by kill -9 at any line; the next process finds the row in STARTING, UP or
STOPPING, the container or not, and `resume` or `stop` goes on from there.
"""

import contextlib
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from signal import SIGTERM

from sqlalchemy.orm import Session

from shipway.platform import applog, deploysettings, events, formation
from shipway.platform.errors import LeaseLost
from shipway.platform.models import App, Instance, Release
from shipway.platform.states import InstanceState, ReleaseState
from shipway.platform.store import move, signal
from shipway.runtime.containers.container import Container, Exit
from shipway.runtime.errors import ContainerExists, ContainerLost, NoSuchContainer, RuntimeFailure
from shipway.runtime.spec import ContainerSpec, IdRange, Limits
from shipway.workers import backoff, checks, health
from shipway.workers.context import Context
from shipway.workers.program import inside, port, program

log = logging.getLogger(__name__)

WEB = "web"
EXIT_WAIT = 5.0  # seconds the monitor has to note how a process ended
SIGTERM_BIT = 1 << 14
KILLED = 137
MOST_SAID = 16 << 10  # bytes of what a check's command says that are kept


def environment(ctx: Context, app: App, release: Release, name: str) -> dict[str, str]:
    """What the environment of a release's process `name` holds beside its image's own."""
    return {
        **ctx.vault.open(release.app_id, release.config),
        "DYNO": name,
        "SHIPWAY_APP": app.name,
        "SHIPWAY_RELEASE": f"v{release.version}",
        "SHIPWAY_COMMIT": release.commit or "",
    }


def specification(ctx: Context, row: Instance) -> ContainerSpec:
    """The container that runs the instance."""
    command = row.release.processes[row.process_type]
    return replace(
        process_container(
            ctx,
            row.app,
            row.release,
            row.process_type,
            row.name,
            command,
            container_id=row.container,
            labels=labels(ctx, row),
        ),
        log_path=applog.instance_file(ctx.settings, row.app.name, row.name, row.id),
        log_size=ctx.settings.log_size,
    )


def process_container(
    ctx: Context,
    app: App,
    release: Release,
    kind: str,
    name: str,
    command: str,
    *,
    container_id: str,
    labels: Mapping[str, str],
) -> ContainerSpec:
    """The container of any process of a release: an instance, or a command that runs once. `kind` is web, `name` web.1."""
    settings = ctx.settings
    image = ctx.engine.images.get(release.image)
    how = program(ctx.engine, image, kind, command)
    return ContainerSpec(
        id=container_id,
        image=release.image,
        args=how.args,
        env={
            **how.env,
            **environment(ctx, app, release, name),
            "PORT": str(port(image.config)),
        },
        ids=IdRange(app.uid_base),
        cwd=how.cwd,
        user=how.user,
        groups=how.groups,
        capabilities=how.capabilities,
        limits=Limits(
            memory=settings.instance_memory,
            cpus=settings.instance_cpus or None,
            pids=settings.instance_pids,
        ),
        labels=labels,
    )


def labels(ctx: Context, row: Instance) -> dict[str, str]:
    """What says on disk whose container it is. `born` tells it from one of another database with the same ids."""
    return {
        "shipway.data": str(ctx.settings.data),
        "shipway.instance": str(row.id),
        "shipway.born": repr(row.created_at),
    }


class InstanceWork:
    """What the agent's threads do with an instance. Rows are as the agent read them: detached, app and release loaded."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._store = ctx.store
        self._watches: dict[int, checks.Watch] = {}  # by instance id
        self._unwell: dict[str, str] = {}  # why we ended a container, by its id

    # -- start -----------------------------------------------------------------------------------

    def start(self, row: Instance, abort: int) -> list[int]:
        """Run the container of a row that has just been moved to STARTING; returns what to watch once it is up.

        Empty if it did not come up, or if `abort` (an eventfd) was written to.
        """
        self._log(row, f"Starting process with command `{row.release.processes[row.process_type]}`")
        try:
            container = self._run(row)
        except RuntimeFailure as error:
            self._crash(row, None, f"could not be started: {error}")
            return []
        return self._see_up(row, container, abort)

    def resume(self, row: Instance, abort: int) -> list[int]:
        """Go on with an instance that another process of ours began; as `start`."""
        try:
            container = self._ctx.engine.get(row.container)
        except NoSuchContainer:
            return self._without_container(row, abort)
        if dict(container.labels) != labels(self._ctx, row):
            self._ctx.engine.remove(row.container)
            return self._without_container(row, abort)
        if container.state == "created":
            return self.start(row, abort)
        if container.state != "running":
            self.ended(row)
            return []
        return self._see_up(row, container, abort)

    def _without_container(self, row: Instance, abort: int) -> list[int]:
        if row.state == InstanceState.STARTING:
            return self.start(row, abort)
        # The machine was started anew, or somebody removed it: no fault of the app's.
        self._crash(row, None, "its container was gone", counts=False)
        return []

    def _run(self, row: Instance) -> Container:
        spec = specification(self._ctx, row)
        try:
            return self._ctx.engine.run(spec)
        except ContainerExists:
            return self._ctx.engine.get(spec.id)

    def _see_up(self, row: Instance, container: Container, abort: int) -> list[int]:
        fds = self._ctx.engine.pidfds(row.container)
        if len(fds) < 2:  # init or its monitor died already
            health.close_all(fds)
            self.ended(row)
            return []
        if row.state == InstanceState.UP or self._await_up(row, container, [*fds, abort]):
            self._watch(row, container)
            return fds
        health.close_all(fds)
        return []

    def _await_up(self, row: Instance, container: Container, ended: list[int]) -> bool:
        outcome, why = self._await_well(row, container, ended)
        if outcome == health.Outcome.UP:
            return self._note_up(row, container)
        if outcome == health.Outcome.TIMEOUT:
            self._boot_timeout(row, why or self._unbound(row, container))
        elif not health.raised(ended[-1]):
            self.ended(row)
        return False

    def _await_well(
        self, row: Instance, container: Container, ended: list[int]
    ) -> tuple[health.Outcome, str]:
        """By the app's own checks, and where it has none by whether it answers, or stays alive."""
        own = checks.at_start(checks.of(row.release.manifest, row.process_type))
        startup = [check for check in own if check.type == checks.STARTUP]
        target = self._target(row, container)
        outcome = health.Outcome.UP
        if row.process_type == WEB and not any(c.way in ("path", "listening") for c in startup):
            timeout = self._timeouts(row).boot_timeout
            outcome = health.await_answer((container.ip, target.port), target.host, timeout, ended)
        elif row.process_type != WEB and not startup:
            outcome = health.await_alive(health.ALIVE, ended)
        if outcome != health.Outcome.UP:
            return outcome, ""
        return checks.await_well(own, target, ended, lambda text: self._log(row, text))

    def _target(self, row: Instance, container: Container) -> checks.Target:
        engine = self._ctx.engine
        image = engine.images.get(row.release.image)

        def run(command: str | tuple[str, ...], timeout: float) -> tuple[int, str]:
            said = bytearray()

            def take(chunk: bytes) -> None:
                said.extend(chunk[: max(0, MOST_SAID - len(said))])

            args = inside(image, command)
            found = engine.execute_in(row.container, args, output=take, timeout=timeout)
            return found.code, said.decode(errors="replace")

        return checks.Target(
            address=container.ip or "",
            port=port(image.config),
            host=self._ctx.settings.app_host(row.app.name),
            pid=container.pid,
            began=time.monotonic(),
            run=run,
        )

    def _unbound(self, row: Instance, container: Container) -> str:
        seconds = f"{self._timeouts(row).boot_timeout:g} seconds"
        text = f"Web process failed to bind to $PORT within {seconds} of launch"
        hint = health.misbound(container.pid, self._port(row))
        return f"{text}: {hint}" if hint else text

    def _boot_timeout(self, row: Instance, why: str) -> None:
        text = f"Error R10 (Boot timeout) -> {why}"
        self._log(row, text)
        self._log(row, "Stopping process with SIGKILL")
        with contextlib.suppress(RuntimeFailure):
            self._ctx.engine.stop(row.container, 0.0)
        self._crash(row, KILLED, text)

    # -- while it runs ---------------------------------------------------------------------------

    def _watch(self, row: Instance, container: Container) -> None:
        """Begin the checks of an instance that is up, if it has some for that."""
        own = checks.of(row.release.manifest, row.process_type)
        lasting = [check for check in own if check.type != checks.STARTUP]
        if not lasting:
            return
        self._watches[row.id] = checks.Watch(
            lasting,
            self._target(row, container),
            is_ready=row.ready,
            ready=lambda ready, why: self._set_ready(row, why, ready=ready),
            dead=lambda why: self._replace(row, why),
        )

    def let_be(self, instance_id: int) -> None:
        """End the checks of an instance."""
        if watch := self._watches.pop(instance_id, None):
            watch.stop()

    def _set_ready(self, row: Instance, why: str, *, ready: bool) -> None:
        with self._store.transaction() as db:
            fresh = db.get(Instance, row.id)
            if fresh is None or (fresh.fence, fresh.state) != (row.fence, InstanceState.UP):
                return
            fresh.ready = ready
            db.flush()
            _tell_router(db, row)
            signal(db, events.app_topic(row.app_id))
        self._log(row, "Ready again, back in the routes" if ready else f"Out of the routes: {why}")

    def _replace(self, row: Instance, why: str) -> None:
        """End an instance that is not alive any more, as far as its check can tell; a crash like any other."""
        self._set_ready(row, why, ready=False)
        self._unwell[row.container] = why
        self._log(row, "Stopping all processes with SIGTERM")
        with contextlib.suppress(NoSuchContainer, ContainerLost):
            self._ctx.engine.stop(row.container, self._timeouts(row).stop_timeout)

    def is_answering(self, row: Instance) -> bool:
        """Whether connections to a web instance are open, as far as its container is there."""
        if row.process_type != WEB or not row.port:
            return False
        try:
            pid = self._ctx.engine.get(row.container).pid
            tables = [Path(f"/proc/{pid}/net/{name}").read_text() for name in ("tcp", "tcp6")]
        except (NoSuchContainer, OSError):
            return False
        return any(health.connected(table, row.port) for table in tables)

    # -- end -------------------------------------------------------------------------------------

    def ended(self, row: Instance) -> None:
        """Write down how an instance that nobody stopped came to its end."""
        why = self._unwell.pop(row.container, None)
        try:
            found = self._ctx.engine.wait(row.container, EXIT_WAIT)
        except ContainerLost:
            self._crash(row, None, "its monitor died (log pipe lost)")
        except NoSuchContainer:
            self._crash(row, None, "its container was gone", counts=False)
        else:
            self._crash(row, found.code if found else None, why or self._how(row, found))

    def stop(self, row: Instance) -> None:
        """End an instance that is not wanted: SIGTERM, its grace, SIGKILL."""
        if row.state != InstanceState.STOPPING and not self._move(row, InstanceState.STOPPING):
            return
        self._log(row, "Stopping all processes with SIGTERM")
        found = self._stop_container(row)
        self._ctx.engine.remove(row.container)
        code = found.code if found else None
        if self._move(row, InstanceState.STOPPED, exit_code=code, address=None):
            if found:
                self._log(row, f"Process exited with status {found.code}")
            self._log(row, "State changed from up to down")

    def forget(self, row: Instance) -> None:
        """Write down that an instance without a process is over."""
        if row.fence:
            self._ctx.engine.remove(row.container)
        self._move(row, InstanceState.STOPPED, address=None)

    def _stop_container(self, row: Instance) -> Exit | None:
        engine = self._ctx.engine
        try:
            container = engine.get(row.container)
            grace = self._timeouts(row).stop_timeout if _passes_sigterm_on(container.pid) else 0.0
            began = time.monotonic()
            found = engine.stop(row.container, grace)
        except (NoSuchContainer, ContainerLost):
            return None
        if grace and time.monotonic() - began >= grace:
            self._log(
                row,
                "Error R12 (Exit timeout) -> At least one process failed to exit within"
                f" {grace:g} seconds of SIGTERM",
            )
            self._log(row, "Stopping remaining processes with SIGKILL")
        return found

    def _how(self, row: Instance, found: Exit | None) -> str:
        if found is None:
            return "ended, and its monitor did not say how"
        if found.oom:
            limit = self._ctx.settings.instance_memory >> 20
            self._log(row, "Error R15 (Memory quota vastly exceeded)")
            return f"Process ran out of memory (limit {limit} MiB), status {found.code}"
        return f"Process exited with status {found.code}"

    # -- rows ------------------------------------------------------------------------------------

    def _note_up(self, row: Instance, container: Container) -> bool:
        number = self._port(row) if row.process_type == WEB else None
        with self._store.transaction() as db:
            now = self._store.now(db)
            if not self._swap(
                db, row, InstanceState.UP, up_at=now, address=container.ip, port=number, ready=True
            ):
                return False
            _tell_router(db, row)
        self._log(row, "State changed from starting to up")
        return True

    def _crash(self, row: Instance, code: int | None, reason: str, *, counts: bool = True) -> None:
        with self._store.transaction() as db:
            fresh = db.get(Instance, row.id)
            if fresh is None:
                return
            now = self._store.now(db)
            up_for = now - fresh.up_at if fresh.up_at else None
            crashes = backoff.crashes_in_a_row(fresh.restarts, up_for) if counts else fresh.restarts
            pause = backoff.delay(crashes) if counts else 0.0
            before = fresh.state
            if not self._swap(
                db,
                row,
                InstanceState.CRASHED,
                exit_code=code,
                reason=reason,
                restarts=crashes,
                next_start_at=now + pause,
                ended_at=now,
                address=None,
            ):
                return
            if before == InstanceState.UP:
                _tell_router(db, row)
        self._log(row, reason)
        self._log(row, f"State changed from {before} to crashed")
        if pause:
            self._log(row, f"Starts again in {pause:g} seconds, after {crashes} crashes in a row")
        self._ctx.engine.remove(row.container)

    def _move(self, row: Instance, target: InstanceState, **values: object) -> bool:
        with self._store.transaction() as db:
            if target == InstanceState.STOPPED:
                values["ended_at"] = self._store.now(db)
            return self._swap(db, row, target, **values)

    def _swap(self, db: Session, row: Instance, target: InstanceState, **values: object) -> bool:
        """Move the row on if it is still at the fence that we know; False if it is not."""
        fresh = db.get(Instance, row.id)
        if fresh is None or fresh.fence != row.fence:
            return False
        try:
            move(db, fresh, target, **values)
        except LeaseLost:
            return False
        row.state = target
        signal(db, events.app_topic(row.app_id))
        return True

    def _timeouts(self, row: Instance) -> deploysettings.DeploySettings:
        return deploysettings.of(self._ctx.settings, row.app.deploy_settings)

    def _port(self, row: Instance) -> int:
        """Where the instance's web process is to listen."""
        return port(self._ctx.engine.images.get(row.release.image).config)

    def _log(self, row: Instance, text: str) -> None:
        try:
            applog.append(self._ctx.settings, row.app.name, f"shipway[{row.name}]", text)
        except OSError as error:  # a full disk must not keep instances from starting and ending
            log.warning("log of %s: %s", row.app.name, error)


def _tell_router(db: Session, row: Instance) -> None:
    app, fresh = db.get(App, row.app_id), db.get(Instance, row.id)
    # An instance may have come to another release since the row was read: see releases.rescaled.
    if app and fresh and app.release_id == fresh.release_id and row.process_type == WEB:
        formation.routes_changed(db, app)


def serves(row: Instance) -> bool:
    """Whether the instance's release is the app's, or is live until its successor is."""
    release: Release = row.release
    return row.app.release_id == release.id or release.state == ReleaseState.LIVE


def _passes_sigterm_on(pid: int) -> bool:
    """Whether SIGTERM to the container's first process will end the container in an orderly way.

    A process 1 without a handler never sees it, where any other would have ended at once. Then what it has started (a
    server, behind a script) is told in its stead, and with nothing started it may be killed at once.
    """
    if _heeds_sigterm(pid):
        return True
    below = _descendants(pid)
    for child in below:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, SIGTERM)
    return bool(below)


def _heeds_sigterm(pid: int) -> bool:
    """Whether a process has a handler for SIGTERM."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    for line in status.splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) & SIGTERM_BIT)
    return True


def _descendants(pid: int) -> list[int]:
    """All that a process has started, and what these have."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in path.read_text().split():
                found += [int(child), *_descendants(int(child))]
    return found


def new_abort() -> int:
    """An eventfd by which the agent can call a start off."""
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
