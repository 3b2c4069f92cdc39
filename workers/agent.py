"""The resident thread of the host process: makes this machine's containers what the database wants of it.

Level-triggered: each pass reads this host's rows and gives each instance its next step (`decide.py`). It is woken by
signals, by the pidfds of what runs, by its own threads' ends, and by the clock for what is due. Long steps run in
threads; only this thread touches the agent's own tables.
"""

import contextlib
import fcntl
import logging
import os
import selectors
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import joinedload

from shipway.platform import deploysettings, events
from shipway.platform.errors import LeaseLost
from shipway.platform.models import Host, Instance
from shipway.platform.settings import Settings
from shipway.platform.states import Desired, InstanceState
from shipway.platform.store import move
from shipway.runtime.errors import RuntimeFailure
from shipway.workers import backoff, health
from shipway.workers.context import Context
from shipway.workers.decide import Seen, Step, next_step
from shipway.workers.instances import InstanceWork, labels, new_abort, serves

log = logging.getLogger(__name__)

HEARTBEAT = 5.0  # seconds
ALIVE = 20.0  # seconds a heartbeat counts for
LOGS = 5.0  # seconds between two looks for logs that have grown
SWEEP = 60.0  # seconds between two looks for containers that belong to no row
LISTEN = 5.0  # seconds a listener waits before it looks whether all is over
THREADS = 128
DATABASE_PAUSE = 1.0  # seconds until the next try when the database does not answer


@dataclass
class Job:
    """A thread's work at one instance; writing to `abort` calls a start off."""

    abort: int
    aborted: bool = False


class Agent:
    """One per machine: see `hold_host`."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._store = ctx.store
        self._work = InstanceWork(ctx)
        self._pool = ThreadPoolExecutor(THREADS, "instance")
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._host_id = 0
        self._jobs: dict[int, Job] = {}
        self._watched: dict[int, list[int]] = {}  # pidfds by instance id
        self._ends: SimpleQueue[tuple[int, list[int]]] = SimpleQueue()  # of jobs
        self._restart_at: dict[tuple[int, int], float] = {}  # monotonic, by id and fence
        self._drained_at: dict[int, float] = {}  # monotonic, by id
        self._chores = {"heartbeat": 0.0, "logs": 0.0, "sweep": 0.0}  # next time, monotonic
        self._strange: set[str] = set()

    def poke(self) -> None:
        """Have the agent look at the rows now."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self._wake, 1)

    def run(self) -> None:
        """Work until the process ends. Containers are left running."""
        threading.Thread(target=self._listen, name="signals", daemon=True).start()
        while not self._ctx.stopping.is_set():
            try:
                if not self._host_id:
                    self._register()
                self._wait(self._pass())
            except SQLAlchemyError as error:
                log.warning("the database does not answer: %s", error)
                self._wait(DATABASE_PAUSE)

    def lay_down(self) -> None:
        """Say that nobody looks after this host for now, so that nobody waits for it."""
        with contextlib.suppress(SQLAlchemyError), self._store.transaction() as db:
            if host := db.get(Host, self._host_id):
                host.alive_until = self._store.now(db)

    # -- waiting ---------------------------------------------------------------------------------

    def _listen(self) -> None:
        topics = (events.host_topic(self._ctx.settings.host_name), events.ROUTED)
        with self._store.signals.listen(*topics) as listener:
            while not self._ctx.stopping.is_set():
                # With Redis down `wait` returns early, and looking is the only way to know.
                if listener.wait(LISTEN) or not self._store.signals.alive():
                    self.poke()

    def _wait(self, seconds: float) -> None:
        for key, _ in self._selector.select(max(0.0, seconds)):
            if key.data is None:
                os.eventfd_read(self._wake)
            elif key.data in self._watched:  # an earlier one of these may have let go of it
                self._process_died(key.data)
        with contextlib.suppress(Empty):
            while True:
                self._job_ended(*self._ends.get_nowait())

    def _process_died(self, instance_id: int) -> None:
        self._unwatch(instance_id)
        row = self._row(instance_id)
        if row and instance_id not in self._jobs:
            self._begin(row, lambda _abort: self._work.ended(row))

    def _job_ended(self, instance_id: int, fds: list[int]) -> None:
        os.close(self._jobs.pop(instance_id).abort)
        if fds:
            self._watched[instance_id] = fds
            for fd in fds:
                self._selector.register(fd, selectors.EVENT_READ, instance_id)

    def _unwatch(self, instance_id: int) -> None:
        self._work.let_be(instance_id)
        for fd in (fds := self._watched.pop(instance_id, [])):
            self._selector.unregister(fd)
        health.close_all(fds)

    # -- one pass --------------------------------------------------------------------------------

    def _pass(self) -> float:
        """Give every instance its next step; returns in how many seconds to look again."""
        rows, now = self._rows()
        again = [self._chore("heartbeat", HEARTBEAT, self._heartbeat)]
        starts = []
        for row in rows:
            step, wait = next_step(self._seen(row, now))
            if wait is not None:
                again.append(wait)
            if step == Step.START:
                starts.append(row)
            else:
                self._take(step, row)
        self._start(starts)
        self._forget_others({row.id for row in rows})
        again.append(self._chore("logs", LOGS, self._rotate_logs))
        again.append(self._chore("sweep", SWEEP, self._sweep))
        return min(again)

    def _rows(self) -> tuple[list[Instance], float]:
        with self._store.reading() as db:
            found = db.scalars(
                select(Instance)
                .where(Instance.host_id == self._host_id, Instance.state != InstanceState.STOPPED)
                .options(joinedload(Instance.app), joinedload(Instance.release))
                .order_by(Instance.id)
            )
            return list(found), self._store.now(db)

    def _row(self, instance_id: int) -> Instance | None:
        with self._store.reading() as db:
            return db.get(
                Instance,
                instance_id,
                options=(joinedload(Instance.app), joinedload(Instance.release)),
            )

    def _seen(self, row: Instance, now: float) -> Seen:
        drained = row.up_at is None or row.app.routes_done >= row.drain_generation
        leaving = (row.desired, row.state) == (Desired.STOPPED, InstanceState.UP)
        timeouts = deploysettings.of(self._ctx.settings, row.app.deploy_settings)
        return Seen(
            desired=row.desired,
            state=row.state,
            busy=row.id in self._jobs,
            watched=row.id in self._watched,
            serves=serves(row),
            drained=drained,
            restart_in=self._restart_in(row, now),
            drained_for=self._drained_for(row, drained=drained),
            drain_timeout=timeouts.drain_timeout,
            answering=leaving and drained and self._work.is_answering(row),
        )

    def _restart_in(self, row: Instance, now: float) -> float:
        if row.state != InstanceState.CRASHED:
            return 0.0
        monotonic = time.monotonic()
        # Measured once, then by a clock that nobody sets.
        due = self._restart_at.setdefault(
            (row.id, row.fence), monotonic + backoff.wait_left(row.next_start_at, now)
        )
        return max(0.0, due - monotonic)

    def _drained_for(self, row: Instance, *, drained: bool) -> float:
        if not drained or row.desired != Desired.STOPPED:
            return 0.0
        return time.monotonic() - self._drained_at.setdefault(row.id, time.monotonic())

    def _take(self, step: Step, row: Instance) -> None:
        match step:
            case Step.RESUME:
                self._begin(row, lambda abort: self._work.resume(row, abort))
            case Step.STOP:
                self._unwatch(row.id)
                self._begin(row, lambda _abort: self._work.stop(row))
            case Step.FORGET:
                self._begin(row, lambda _abort: self._work.forget(row))
            case Step.ABORT if not self._jobs[row.id].aborted:
                os.eventfd_write(self._jobs[row.id].abort, 1)
                self._jobs[row.id].aborted = True

    def _start(self, rows: Iterable[Instance]) -> None:
        """Move them to STARTING in one transaction, then start them all at once."""
        for row in self._moved_to_starting([row.id for row in rows]):
            self._restart_at.pop((row.id, row.fence - 1), None)
            self._begin(row, lambda abort, row=row: self._work.start(row, abort))  # type: ignore[misc]

    def _moved_to_starting(self, ids: list[int]) -> list[Instance]:
        if not ids:
            return []
        moved = []
        options = (joinedload(Instance.app), joinedload(Instance.release))
        with self._store.transaction() as db:
            now = self._store.now(db)
            for row in db.scalars(select(Instance).where(Instance.id.in_(ids)).options(*options)):
                if row.desired != Desired.RUNNING:
                    continue
                with contextlib.suppress(LeaseLost):
                    move(
                        db,
                        row,
                        InstanceState.STARTING,
                        fence=row.fence + 1,
                        started_at=now,
                        up_at=None,
                        ended_at=None,
                        exit_code=None,
                    )
                    moved.append(row)
        return moved

    def _begin(self, row: Instance, job: Callable[[int], list[int] | None]) -> None:
        abort = new_abort()
        self._jobs[row.id] = Job(abort)

        def body() -> None:
            fds: list[int] | None = None
            try:
                fds = job(abort)
            except (RuntimeFailure, SQLAlchemyError, OSError) as error:
                log.warning("instance %d: %s", row.id, error)
                time.sleep(DATABASE_PAUSE)  # it is tried again by the next pass
            except Exception:  # the agent must outlive a fault at one instance
                log.exception("instance %d", row.id)
                time.sleep(DATABASE_PAUSE)
            finally:
                self._ends.put((row.id, fds or []))
                self.poke()

        self._pool.submit(body)

    def _forget_others(self, ids: set[int]) -> None:
        for instance_id in set(self._watched) - ids:
            self._unwatch(instance_id)
        for instance_id in set(self._drained_at) - ids:
            del self._drained_at[instance_id]
        for key in [key for key in self._restart_at if key[0] not in ids]:
            del self._restart_at[key]

    # -- chores ----------------------------------------------------------------------------------

    def _chore(self, name: str, every: float, body: Callable[[], None]) -> float:
        left = self._chores[name] - time.monotonic()
        if left > 0:
            return left
        self._chores[name] = time.monotonic() + every
        self._pool.submit(_guarded, body)
        return every

    def _register(self) -> None:
        name = self._ctx.settings.host_name
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        with self._store.transaction() as db:
            host = db.scalar(select(Host).where(Host.name == name))
            if host is None:
                host = Host(name=name, memory={})
                db.add(host)
            host.boot_id = boot
            host.alive_until = self._store.now(db) + ALIVE
            db.flush()
            self._host_id = host.id

    def _heartbeat(self) -> None:
        with self._store.reading() as db:
            rows = db.scalars(
                select(Instance).where(
                    Instance.host_id == self._host_id,
                    Instance.state.in_(
                        (InstanceState.STARTING, InstanceState.UP, InstanceState.STOPPING)
                    ),
                )
            )
            ids = {row.container: str(row.id) for row in rows}
        stats = self._ctx.engine.stats(ids)
        with self._store.transaction() as db:
            host = db.get_one(Host, self._host_id)
            host.alive_until = self._store.now(db) + ALIVE
            host.memory = {ids[key]: found.memory for key, found in stats.items()}

    def _rotate_logs(self) -> None:
        """Set aside the logs of instances that have grown over the settings' size."""
        self._ctx.engine.rotate_logs(size=self._ctx.settings.log_size)

    def _sweep(self) -> None:
        """Remove containers that the database knows to be over.

        Never one that it does not know: that would trust an empty or restored database to be right.
        """
        data = str(self._ctx.settings.data)
        for container in self._ctx.engine.list():
            if container.labels.get("shipway.data") != data:
                continue
            row = self._row(int(container.labels.get("shipway.instance", "0")))
            if row is None or dict(container.labels) != labels(self._ctx, row):
                self._report(container.id)
            elif row.state == InstanceState.STOPPED or row.fence > _fence(container.id):
                self._ctx.engine.remove(container.id)

    def _report(self, container_id: str) -> None:
        if container_id not in self._strange:
            self._strange.add(container_id)
            log.warning(
                "container %s belongs to no instance in the database: left alone", container_id
            )


def hold_host(settings: Settings) -> int:
    """Wait until no other process is this host's agent; the descriptor that holds the lock from then on."""
    path = settings.run / f"host-{settings.host_name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_EX)
    return fd


def _fence(container_id: str) -> int:
    return int(container_id.rpartition("-")[2])


def _guarded(body: Callable[[], None]) -> None:
    try:
        body()
    except (RuntimeFailure, SQLAlchemyError, OSError) as error:
        log.warning("%s: %s", body.__name__, error)
    except Exception:  # a chore comes round again
        log.exception("%s", body.__name__)
