"""`shipway up`: runs the processes of the Procfile and starts again what dies.

Our own processes are forked from the supervisor, which has loaded all of their modules once (`warm.py`): that way they
start at once and share the memory of what they have in common. Anything else in the Procfile is executed.

Two processes watch each other through pidfds: the supervisor, parent of all the others, and its keeper, which starts
a new supervisor if that one is killed (and the other way round). Neither is needed for apps to serve. Machines with
systemd have the unit in docs/shipway.service do the keeper's work, with `shipway up --foreground`.

SIGTERM ends everything. SIGHUP ends all but HAProxy, which serves on until the next supervisor's router finds it: that
is how a new version takes over without any app noticing.
"""

import contextlib
import fcntl
import os
import select
import selectors
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from shipway.platform import codestamp, warm
from shipway.platform.errors import InvalidInput, Unavailable
from shipway.platform.settings import Settings

STOP_GRACE = 15.0  # seconds a process has after SIGTERM
# A process that dies is started at once; one that keeps dying waits longer each time.
BACKOFF = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
STEADY = 10.0  # seconds after which a process counts as started well
MAX_LOG = 16 << 20  # bytes of the platform's own log, before it is rotated
ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# These go last, in this order, when all is stopped: the others speak through them to the end.
ROUTER = "router"
LAST = (ROUTER, "redis")
OURS, ANOTHER = "keeper", "another"  # who keeps the supervisor: our keeper, or systemd, say
NOTIFY = "NOTIFY_SOCKET"  # where systemd is told of readiness


@dataclass
class Process:
    """One line of the Procfile and the process that runs it."""

    name: str
    argv: list[str]
    pid: int = 0
    pidfd: int = -1
    output: int = -1
    rest: bytes = b""
    started: float = 0.0
    failures: int = 0
    start_at: float = field(default=0.0)


def read_procfile(path: Path) -> dict[str, list[str]]:
    """The Procfile's processes: name to argv."""
    found: dict[str, list[str]] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, command = line.partition(":")
        if not colon or not command.strip():
            raise InvalidInput(f"{path} line {number}: expected `name: command`, found {line!r}.")
        found[name.strip()] = shlex.split(command)
    return found


def procfile() -> Path:
    """The Procfile of this installation: the checkout's, or the one beside an installed package."""
    checkout = Path(__file__).resolve().parent.parent / "Procfile"
    return checkout if checkout.exists() else Path(sys.prefix) / "share/shipway/Procfile"


class Supervisor:
    """Starts, watches, restarts and ends the processes."""

    def __init__(self, settings: Settings, write: Callable[[bytes], None]) -> None:
        lines = read_procfile(procfile())
        if settings.redis_url:
            lines.pop("redis", None)
        self._environ = {**os.environ, **settings.environment()}
        # Commands named `shipway` are this installation's, whatever PATH says.
        self._environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
        self._environ.pop(NOTIFY, None)  # gunicorn would tell systemd that all is ready
        self._processes = [Process(name, argv) for name, argv in lines.items()]
        self._write = write
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._handing_over = False  # the end is a restart: HAProxy is to serve on
        self._width = max(len(process.name) for process in self._processes)

    def run(self, keeper_died: Callable[[], int], keeper: int) -> None:
        """Run until SIGTERM, SIGINT or SIGHUP.

        `keeper` is a pidfd of the keeper, -1 if there is none yet; `keeper_died` makes a new one and returns its
        pidfd, -1 where there shall be none.
        """
        with _signal_pipe() as signals:
            self._selector.register(signals, selectors.EVENT_READ, "signal")
            others = [process for process in self._processes if process.name != "redis"]
            for process in self._processes:
                if process not in others:
                    self._start(process)  # is executed, and can come up while we load
            warm.load(process.argv for process in others)
            for process in others:
                self._start(process)
            keeper = keeper if keeper >= 0 else keeper_died()
            if keeper >= 0:
                self._selector.register(keeper, selectors.EVENT_READ, "keeper")
            while not self._stopping:
                for key, _ in self._selector.select(self._next_start()):
                    if key.data == "signal":
                        self._stopping = True
                        self._handing_over = signal.SIGHUP in os.read(signals, 64)
                    elif key.data == "keeper":
                        self._selector.unregister(key.fd)
                        os.close(key.fd)
                        self._selector.register(keeper_died(), selectors.EVENT_READ, "keeper")
                    else:
                        self._attend(*key.data)
                for process in self._processes:
                    if process.pid == 0 and process.start_at <= time.monotonic():
                        self._start(process)
            self._stop_all()

    def _next_start(self) -> float | None:
        waiting = [process.start_at for process in self._processes if process.pid == 0]
        return max(0.0, min(waiting) - time.monotonic()) if waiting else None

    def _start(self, process: Process) -> None:
        reader, writer = os.pipe2(os.O_CLOEXEC)
        process.pid = _spawn(process.argv, self._environ, writer, _death_signal(process.name))
        os.close(writer)
        process.pidfd = os.pidfd_open(process.pid)
        process.output, process.started = reader, time.monotonic()
        self._selector.register(process.pidfd, selectors.EVENT_READ, ("exit", process))
        self._selector.register(reader, selectors.EVENT_READ, ("output", process))

    def _attend(self, what: str, process: Process) -> None:
        if what == "output":
            self._read(process)
        else:
            self._ended(process)

    def _read(self, process: Process) -> None:
        data = os.read(process.output, 65536)
        if not data:
            self._close_output(process)
            return
        *lines, process.rest = (process.rest + data).split(b"\n")
        for line in lines:
            self._say(process.name, line)

    def _say(self, name: str, line: bytes) -> None:
        self._write(b"%s | %s\n" % (name.ljust(self._width).encode(), line))

    def _close_output(self, process: Process) -> None:
        if process.output >= 0:
            self._selector.unregister(process.output)
            os.close(process.output)
            process.output = -1
        if process.rest:
            self._say(process.name, process.rest)
            process.rest = b""

    def _ended(self, process: Process) -> None:
        self._selector.unregister(process.pidfd)
        os.close(process.pidfd)
        _, status = os.waitpid(process.pid, 0)
        os.set_blocking(process.output, False) if process.output >= 0 else None
        with contextlib.suppress(BlockingIOError):
            while process.output >= 0:
                self._read(process)
        self._close_output(process)
        code = os.waitstatus_to_exitcode(status)
        how = f"signal {-code}" if code < 0 else f"status {code}"
        process.pid = 0
        steady = time.monotonic() - process.started > STEADY
        process.failures = 0 if steady else process.failures + 1
        wait = BACKOFF[min(max(process.failures - 1, 0), len(BACKOFF) - 1)]
        process.start_at = time.monotonic() + wait
        if not self._stopping:
            self._say(process.name, f"ended with {how}, starts again in {wait:g} s".encode())

    def _stop_all(self) -> None:
        first = [process for process in self._processes if process.name not in LAST]
        groups = [first, *([p] for name in LAST for p in self._processes if p.name == name)]
        for group in groups:
            alive = [process for process in group if process.pid]
            for process in alive:
                # The router takes HAProxy down with it, unless it has no time to.
                leaving = process.name == ROUTER and self._handing_over
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL if leaving else signal.SIGTERM)
            self._await_end(alive, time.monotonic() + STOP_GRACE)

    def _await_end(self, group: list[Process], deadline: float) -> None:
        while any(process.pid for process in group):
            if time.monotonic() > deadline:
                for process in group:
                    if process.pid:
                        os.kill(process.pid, signal.SIGKILL)
            for key, _ in self._selector.select(max(0.05, deadline - time.monotonic())):
                if isinstance(key.data, tuple):
                    self._attend(*key.data)


def _death_signal(name: str) -> int:
    # Without its supervisor a process must not linger beside the next one. SIGKILL and not SIGTERM: on SIGTERM the
    # router's controller would take HAProxy down with it, and apps shall serve on.
    return signal.SIGTERM if name == "redis" else signal.SIGKILL


def _spawn(argv: list[str], environ: dict[str, str], output: int, death_signal: int) -> int:
    parent = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        warm.die_with_parent(death_signal)
        if os.getppid() != parent:
            os._exit(1)
        os.setsid()
        for number in ENDS:
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if warm.is_ours(argv):
            warm.become(argv, environ)
        os.execvpe(argv[0], argv, environ)  # noqa: S606
    except OSError as error:
        os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


@contextlib.contextmanager
def _signal_pipe() -> Iterator[int]:
    """A file descriptor from which the numbers of signals that ask for an end can be read."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    for number in ENDS:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(writer)
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(-1)
        os.close(reader)
        os.close(writer)


class LogFile:
    """The platform's own log: appended to, rotated once by size."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open()

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, line: bytes) -> None:
        """Append one line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S ", time.gmtime()).encode()
        with contextlib.suppress(OSError):  # a full disk must not end the platform
            os.write(self._fd, stamp + line)
            if os.fstat(self._fd).st_size > MAX_LOG:
                os.replace(self._path, self._path.with_suffix(".log.1"))
                os.close(self._fd)
                self._open()


class PidFile:
    """Says which supervisor runs: its lock is held as long as that process lives."""

    def __init__(self, settings: Settings) -> None:
        self.path = settings.run / "shipway.pid"
        self._fd = -1

    def take(self, keeper: str) -> bool:
        """Become the one that runs; False if another already does. `keeper` is who starts it again: OURS or ANOTHER."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            return False
        text = f"{os.getpid()}\n{codestamp.of_installation()}\n{keeper}\n".encode()
        os.pwrite(self._fd, text, 0)  # before the cut, so that nobody finds the file empty
        os.ftruncate(self._fd, len(text))
        return True

    def holder(self) -> int | None:
        """The pid of the supervisor that runs, None if there is none."""
        return int(pid) if (pid := self._word(0)) else None

    def code(self) -> str:
        """Which code it runs (codestamp.py), empty if none runs or it is too old to say."""
        return self._word(1)

    def keeper(self) -> str:
        """Who starts it again, empty as with `code`."""
        return self._word(2)

    def _word(self, number: int) -> str:
        words = (self._held() or "").split()
        return words[number] if number < len(words) else ""

    def _held(self) -> str | None:
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return os.pread(fd, 64, 0).decode().strip() or None
        else:
            return None
        finally:
            os.close(fd)


def run_foreground(settings: Settings, wait_ready: Callable[[], None]) -> bool:
    """Run the platform in this process until SIGTERM or SIGHUP; False if it runs already.

    Started by systemd, it tells that it is ready once `wait_ready` has returned, which may raise Unavailable until then.
    """
    if not PidFile(settings).take(ANOTHER):
        return False
    if NOTIFY in os.environ:
        me = os.getpid()
        _daemon(lambda: _tell_systemd(wait_ready, me))
    Supervisor(settings, _write_stdout).run(lambda: -1, -1)
    return True


def _tell_systemd(wait_ready: Callable[[], None], supervisor: int) -> None:
    """Tell systemd of readiness, however late; until then why it is not there. Ends with the supervisor."""
    while Path(f"/proc/{supervisor}").exists():
        try:
            wait_ready()
        except Unavailable as error:
            subprocess.run(["systemd-notify", f"--status={error.message}"], check=False)
        else:
            subprocess.run(["systemd-notify", "--ready", "--status="], check=False)
            return


def _write_stdout(line: bytes) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(1, line)


def log_path(settings: Settings) -> Path:
    """Where the processes' lines go: `<time> <process> | <text>`. Under systemd the journal has them."""
    return settings.data / "platform.log"


def run_detached(settings: Settings) -> None:
    """Start the platform in the background, with a keeper beside it. Returns at once."""
    _down_mark(settings).unlink(missing_ok=True)
    _daemon(lambda: _supervise(settings, keeper_pid=0))


def _supervise(settings: Settings, keeper_pid: int) -> None:
    log = LogFile(log_path(settings))
    pid_file = PidFile(settings)
    if not pid_file.take(OURS):
        return
    me = os.getpid()

    def new_keeper() -> int:
        return os.pidfd_open(_daemon(lambda: _keep(settings, me)))

    try:
        keeper = os.pidfd_open(keeper_pid) if keeper_pid else -1
    except ProcessLookupError:
        keeper = -1
    Supervisor(settings, log.write).run(new_keeper, keeper)
    pid_file.path.unlink(missing_ok=True)


def _keep(settings: Settings, supervisor: int) -> None:
    """The keeper: start a new supervisor whenever one ends that nobody asked to."""
    me = os.getpid()
    while True:
        try:
            watched = os.pidfd_open(supervisor)
        except ProcessLookupError:
            watched = -1
        if watched >= 0:
            select.select([watched], [], [])
            os.close(watched)
        if _down_mark(settings).exists():
            return
        supervisor = PidFile(settings).holder() or _daemon(
            lambda: _supervise(settings, keeper_pid=me)
        )


def _down_mark(settings: Settings) -> Path:
    return settings.run / "down"


def ask_down(settings: Settings, *, handing_over: bool = False) -> bool:
    """End the platform that runs; returns once it has ended, False if none ran.

    `handing_over` leaves HAProxy serving, for the next start's router.
    """
    _down_mark(settings).parent.mkdir(parents=True, exist_ok=True)
    _down_mark(settings).touch()
    pid = PidFile(settings).holder()
    if pid is None:
        return False
    with contextlib.suppress(ProcessLookupError):
        watched = os.pidfd_open(pid)
        os.kill(pid, signal.SIGHUP if handing_over else signal.SIGTERM)
        select.select([watched], [], [])
        os.close(watched)
    return True


def _daemon(body: Callable[[], None]) -> int:
    """Run `body` in a process of its own session that nobody has to wait for; returns its pid."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child:
        os.close(writer)
        os.waitpid(child, 0)
        pid = int(os.read(reader, 32))
        os.close(reader)
        return pid
    os.setsid()
    grandchild = os.fork()
    if grandchild:
        os.write(writer, str(grandchild).encode())
        os._exit(0)
    code = 1
    try:
        warm.close_inherited()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        signal.set_wakeup_fd(-1)
        for number in ENDS:
            signal.signal(number, signal.SIG_DFL)
        os.chdir("/")
        body()
        code = 0
    finally:
        os._exit(code)
