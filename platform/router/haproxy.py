"""The data plane: HAProxy, made to route exactly what it is told, through every restart of itself and of us.

Level-triggered: `apply` compares what is wanted with what is and sends the difference. Files are written first, so
that a process which starts from them is right at once. A change needs no reload; only when slots run out is another
process started beside the old one, on the same listening socket, and the old one leaves as its connections end
(WebSockets are let live). Such processes are kept up to date, too, for they may still get requests on old connections.
"""

import contextlib
import fcntl
import logging
import os
import select
import socket
import time
from collections.abc import Callable, Iterable

from shipway.platform.errors import ShipwayError
from shipway.platform.router.haproxy_config import Config, Files
from shipway.platform.router.haproxy_slots import APPS, Backend, Command, Slot, Table
from shipway.platform.router.haproxy_state import read_map, read_table
from shipway.platform.router.haproxy_worker import (
    HAProxyFailed,
    Worker,
    find,
    open_log,
    spawn,
    trim_notes,
)
from shipway.platform.router.routes import Route

log = logging.getLogger(__name__)

RELOAD_PAUSE = 2.0  # s between two reloads
SWEEP_PAUSE = 1.0  # s between two looks at slots that drain
MAX_LEAVING = 8  # processes kept alive for old WebSockets; the oldest must go when there are more
GOING = 0.1  # s from a process's last answer to its end, at most
BACKLOG = 4096


class AlreadyRouted(ShipwayError):
    """Another controller has this HAProxy."""


class HAProxy:
    """HAProxy with a table of routes. Not for several threads at once."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.table = Table.new()
        self._files = Files(config)
        self._workers: list[Worker] = []  # the last one takes new connections
        self._deaths = select.epoll()
        self._listener: socket.socket | None = None
        self._log: int | None = None
        self._guard: int | None = None
        self._number = 0  # of the last process we have started
        self._reloaded = 0.0  # monotonic time
        self._stale = False  # what is in force is not what the files say

    # -- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Adopt the HAProxy that runs, else start one with the routes it had. Raises HAProxyFailed, AlreadyRouted."""
        self.config.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._guard = _only_one(self.config)
        for worker in find(self.config):
            self._watch(worker)
        if self._workers and not self._adopt():
            if self._listener:
                self._listener.close()
                self._listener = None
            self._end(list(self._workers), 0.0)
        if not self._workers:
            self._start_anew()

    def fileno(self) -> int:
        """Readable when a HAProxy process has died: call `tend` then."""
        return self._deaths.fileno()

    def tend(self) -> float | None:
        """Do what has become due: a restart, freeing slots, growing. Returns s until the next is, None for never."""
        self._bury()
        if not self._workers or self._stale:
            self._reload()
        self._sweep()
        self._dismiss()
        trim_notes(self.config)
        self.table.grow_ahead()
        if self.table.grown:
            if (left := self._reload_pause()) > 0:
                return left
            self._reload()
        return SWEEP_PAUSE if self.table.draining or len(self._workers) > 1 else None

    def stop(self, grace: float = 0.0) -> None:
        """End HAProxy: no new connections, `grace` seconds for those there are."""
        if self._listener:
            self._listener.close()
            self._listener = None
        self._end(list(self._workers), grace)
        self.close()

    def close(self) -> None:
        """Let go of HAProxy, which goes on without us."""
        for worker in self._workers:
            worker.close()
        self._workers.clear()
        if self._listener:
            self._listener.close()
        for fd in (self._log, self._guard):
            if fd is not None:
                os.close(fd)
        self._listener = self._log = self._guard = None
        self._deaths.close()

    @property
    def pid(self) -> int:
        """The process that takes new connections."""
        return self._workers[-1].pid

    # -- routes ---------------------------------------------------------------------------------

    def apply(self, routes: Iterable[Route]) -> None:
        """Route exactly `routes`; they are in force when this returns. Raises HAProxyFailed."""
        self._change(lambda: self.table.replace(routes))

    def update(self, routes: Iterable[Route], gone: Iterable[str] = ()) -> None:
        """Route these apps so and the apps `gone` not at all, leaving all others as they are. Raises HAProxyFailed."""

        def plan() -> list[Command]:
            removed = [command for app in gone for command in self.table.remove(app)]
            return removed + self.table.update(routes)

        self._change(plan)

    def sessions(self, server_id: str) -> int:
        """How many requests (or WebSockets) an instance has now through this router."""
        holders = self.table.holders(server_id)
        busy = self._busy({backend.name for backend, _ in holders})
        return sum(busy.get(slot.name, 0) for _, slot in holders)

    def _change(self, plan: Callable[[], list[Command]]) -> None:
        self._bury()
        quiet = self._quiet()
        reload = self._stale or not self._workers
        self._stale = True  # until all is done, whatever happens on the way
        commands = plan() + self._free(quiet)
        self._files.write(self.table)
        if not reload:
            self._stale = not self._tell(commands)
            if self.table.grown:
                time.sleep(max(0.0, self._reload_pause()))
        if self._stale or self.table.grown:
            self._reload()

    def _tell(self, commands: list[Command]) -> bool:
        """Send commands to each process that has the backends for them; False if the newest refused."""
        done = True
        for worker in self._workers:
            try:
                worker.follow(commands)
            except HAProxyFailed as error:
                if worker is self._workers[-1]:
                    log.error("%s It is reloaded from its files.", error.message)
                    done = False
        return done

    # -- slots that drain -----------------------------------------------------------------------

    def _sweep(self) -> None:
        """Make those draining slots idle that have no request left."""
        commands = self._free(self._quiet())
        self._files.write(self.table, labels=True)
        self._tell(commands)

    def _quiet(self) -> list[tuple[Backend, Slot]]:
        """The draining slots without a request."""
        draining = list(self.table.draining.values())
        if not draining or not self._workers:
            return []
        busy = self._busy({backend.name for backend, _ in draining})
        return [(backend, slot) for backend, slot in draining if not busy.get(slot.name)]

    def _free(self, slots: list[tuple[Backend, Slot]]) -> list[Command]:
        """Last in a change, so that it cannot give them away: HAProxy closes kept connections a little later."""
        still = [where for where in slots if where[1].name in self.table.draining]
        return [command for where in still for command in self.table.free(*where)]

    def _busy(self, backends: set[str]) -> dict[str, int]:
        """Current sessions by slot, over all processes."""
        found: dict[str, int] = {}
        questions = [f"show stat {name} 4 -1" for name in sorted(backends)]
        for worker in self._workers:
            try:
                answer = worker.ask_all(questions)
            except HAProxyFailed:
                if worker.ended(GOING):
                    continue  # and its requests with it
                raise
            for line in answer.splitlines():
                row = line.split(",", 5)  # pxname, svname, qcur, qmax, scur
                if len(row) > 5 and row[1].isdigit():
                    found[row[1]] = found.get(row[1], 0) + int(row[2]) + int(row[4])
        return found

    # -- processes ------------------------------------------------------------------------------

    def _watch(self, worker: Worker) -> None:
        self._workers.append(worker)
        self._deaths.register(worker.pidfd, select.EPOLLIN)

    def _forget(self, worker: Worker) -> None:
        self._workers.remove(worker)
        self._deaths.unregister(worker.pidfd)
        worker.close()

    def _bury(self) -> None:
        """Forget dead processes; without the last one, which took new connections, the rest is of no use."""
        for worker in [worker for worker in self._workers if not worker.alive]:
            if worker is self._workers[-1]:
                log.error("HAProxy (process %d) has died.", worker.pid)
                self._stale = True
            self._forget(worker)

    def _dismiss(self) -> None:
        """End the leaving processes that have no connection left, and those that are too many."""
        leaving = self._workers[:-1]
        for worker in leaving:
            with contextlib.suppress(HAProxyFailed):
                if worker.idle or worker in leaving[:-MAX_LEAVING]:
                    worker.kill()
        self._bury()

    def _end(self, workers: list[Worker], grace: float) -> None:
        for worker in workers:
            worker.leave()
        deadline = time.monotonic() + grace
        for worker in list(workers):
            worker.finish(deadline)
            self._forget(worker)

    def _reload_pause(self) -> float:
        return self._reloaded + RELOAD_PAUSE - time.monotonic()

    def _reload(self) -> None:
        """Start a process from the files; the ones before it leave. If it does not start they stay."""
        self._stale = True
        self._files.write(self.table, labels=True)
        self._launch()
        for worker in self._workers[:-1]:
            worker.leave()
        self._reloaded = time.monotonic()
        self.table.grown = self._stale = False

    def _launch(self) -> None:
        if self._listener is None:
            self._listener = _listen(self.config)
        self._number = max([self._number, *(worker.number for worker in self._workers)]) + 1
        if self._log is None:
            self._log = open_log(self.config)
        self._watch(spawn(self.config, self._number, self._listener, self._log))

    def _adopt(self) -> bool:
        """Take over running processes; False if they do not listen where they should, or are being ended."""
        newest = self._workers[-1]
        if newest.leaving:
            return False
        self._listener = newest.listener()
        self._log = newest.log()
        if self._listener.getsockname()[:2] != (self.config.address, self.config.port):
            return False
        self.table = read_table(newest)
        for worker in self._workers[:-1]:
            worker.leave()  # our forerunner may have died before it could say so
            old = read_map(worker, APPS)
            worker.frozen = {
                name for app, name in old.items() if self.table.apps.get(app) != name
            } & worker.backends
        outdated = self._files.outdated
        self._files.write_all(self.table)
        if outdated:
            self._reload()
        return True

    def _start_anew(self) -> None:
        """From the files of this boot if there are any: addresses of an earlier one may be somebody else's now."""
        if self._files.complete:
            with contextlib.suppress(HAProxyFailed):
                self._launch()
                self.table = read_table(self._workers[-1])
                if not self._files.outdated:
                    self._files.write_all(self.table)
                    return
        self._files.write_all(self.table)
        self._reload()


def _only_one(config: Config) -> int:
    fd = os.open(config.run / "controller.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise AlreadyRouted(f"Another router already works in {config.run}.") from None
    return fd


def _listen(config: Config) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.address else socket.AF_INET
    try:
        return socket.create_server(
            (config.address, config.port),
            family=family,
            backlog=BACKLOG,
            dualstack_ipv6=config.address == "::",
        )
    except OSError as error:
        raise HAProxyFailed(
            f"The router cannot listen on {config.address} port {config.port}: {error.strerror}."
            " Set router_port to a free one."
        ) from None
