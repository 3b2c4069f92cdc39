"""`shipway up` and `shipway down`: the checks before a start, and waiting until the platform takes a push."""

import contextlib
import os
import shutil
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path

from sqlalchemy import select

from shipway.platform import auth, codestamp, database, supervisor
from shipway.platform.errors import Conflict, ShipwayError, Unavailable
from shipway.platform.models import Host, Lease
from shipway.platform.settings import Settings
from shipway.platform.store import Store

PROGRAMS = {
    "redis-server": "redis-server",
    "haproxy": "haproxy",
    "conmon": "conmon",
    "nft": "nftables",
    "ip": "iproute2",
    "git": "git",
    "perl": "perl",
}
MIN_FREE = 1 << 30  # bytes of disk below which nothing sensible can be built
READY_TIMEOUT = 60.0
LAST_LINES = 1000  # of the platform's log, among which each process's last words are looked for
RECONCILER = "reconciler"  # the duty that a worker which takes work holds


class CannotStart(ShipwayError):
    """Something on this machine stands in the way; the message says what to do."""

    exit_code = 69  # EX_UNAVAILABLE


def up(settings: Settings, output: Callable[[str], None], *, foreground: bool = False) -> None:
    """Check the machine, bring the database up to date, start everything; what runs other code is started anew.

    In the background: returns once a push would be taken, having said what it waits for. In the foreground: returns
    when the platform has been told to end. Raises CannotStart, Conflict (foreground, and it runs already).
    """
    pid_file = supervisor.PidFile(settings)
    running = pid_file.holder() is not None
    if running and not foreground and pid_file.code() != codestamp.of_installation():
        if pid_file.keeper() == supervisor.ANOTHER:
            raise CannotStart(
                "The code has changed since the platform started, and it was started in the foreground, by systemd"
                " perhaps: restart it there (systemctl restart shipway). The apps serve on meanwhile."
            )
        output("The code has changed since the platform started: it starts anew, the apps serve on")
        running = not supervisor.ask_down(settings, handing_over=True)
    if not running:
        check_machine(settings)
        prepare(settings)
    if foreground:
        if running or not supervisor.run_foreground(settings, lambda: wait_ready(settings)):
            raise Conflict(f"Shipway runs already with the data folder {settings.data}.")
        return
    if not running:
        supervisor.run_detached(settings)
    wait_ready(settings, output)


def check_machine(settings: Settings) -> None:
    """Raise CannotStart for the first thing that is missing, with the remedy."""
    if os.geteuid() != 0:
        raise CannotStart(
            "Shipway starts containers and has to run as root: use sudo or a root shell."
        )
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            raise CannotStart(f"{program} is missing: apt-get install {package}.")
    if not (shutil.which("crun") or shutil.which("runc")):
        raise CannotStart("No OCI runtime is there: apt-get install crun.")
    try:
        settings.data.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(settings.data).free
    except OSError as error:
        raise CannotStart(
            f"The data folder {settings.data} cannot be made: {error.strerror}. Set SHIPWAY_DATA to"
            " a folder on a disk that can be written."
        ) from None
    if free < MIN_FREE:
        raise CannotStart(
            f"Only {free >> 20} MiB are free on the disk of {settings.data}; free at least"
            f" {MIN_FREE >> 20} MiB or set SHIPWAY_DATA to a folder on another disk."
        )
    for name in ("router_port", "web_port", "ssh_port"):
        _check_port(settings, name, getattr(settings, name))


def _check_port(settings: Settings, name: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.listen, port))
        except OSError as error:
            if name == "router_port" and _answers(settings.run / "haproxy"):
                return  # HAProxy went on serving while the rest of the platform was gone
            raise CannotStart(
                f"Port {port} of {settings.listen} cannot be used: {error.strerror}. End what listens"
                f" there, or choose another port with SHIPWAY_{name.upper()}."
            ) from None


def _answers(folder: "os.PathLike[str]") -> bool:
    with contextlib.suppress(OSError):
        for path in os.scandir(folder):
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(path.path)
                return True
    return False


def prepare(settings: Settings) -> None:
    """Bring folders, keys, database and the admin to where a start needs them; quick when they are."""
    make_folders(settings)
    database.prepare(settings)
    store = Store(settings)
    auth.ensure_admin(store)
    auth.local_token(store)
    store.engine.dispose()


def make_folders(settings: Settings) -> None:
    """The data folder and what is in it, closed to all other users of the machine."""
    for folder in (settings.data, settings.run):
        folder.mkdir(parents=True, exist_ok=True)
        # May be walked through, since a container's root, who is nobody here, finds its files below it.
        folder.chmod(0o711)
    for folder in (settings.logs, settings.repos, settings.secrets):
        folder.mkdir(exist_ok=True)
        folder.chmod(0o700)
    if settings.sql.startswith("sqlite"):
        # SQLite gives its other files the mode of this one.
        path = Path(settings.sql.removeprefix("sqlite:///"))
        path.touch(mode=0o600)
        path.chmod(0o600)


def wait_ready(settings: Settings, output: Callable[[str], None] = lambda _: None) -> None:
    """Return once all processes do their work; say each as it comes. Raises Unavailable after 60 s."""
    store = Store(settings)
    checks: dict[str, Callable[[], bool]] = {
        "redis": store.signals.alive,
        "web": lambda: _connects(settings.listen, settings.web_port),
        "ssh": lambda: _connects(settings.listen, settings.ssh_port),
        "router": lambda: _connects(settings.listen, settings.router_port),
        "worker": lambda: _worker_holds(store),
        "host": lambda: _host_alive(store),
    }
    deadline = time.monotonic() + READY_TIMEOUT
    pause = 0.005
    while checks:
        for name in [name for name, ready in checks.items() if ready()]:
            del checks[name]
            output(f"{name} is up")
        if checks and time.monotonic() > deadline:
            log = supervisor.log_path(settings)
            raise Unavailable(
                f"Not up within {READY_TIMEOUT:g} s: {', '.join(checks)}."
                f"{_last_words(log, checks)} More is in {log}, or in systemd's journal."
            )
        time.sleep(pause)
        pause = min(pause * 1.5, 0.05)
    store.engine.dispose()


def _last_words(log: Path, names: Iterable[str]) -> str:
    """What each of these processes said last, but for the supervisor's remarks on them."""
    last = {}
    with contextlib.suppress(FileNotFoundError), log.open(errors="replace") as lines:
        for line in deque(lines, maxlen=LAST_LINES):
            head, bar, text = line.rstrip("\n").partition(" | ")
            if bar and not text.startswith("ended with status"):
                last[head.split()[-1]] = text
    return "".join(f" {name} said: {last[name]}." for name in names if name in last)


def _connects(host: str, port: int) -> bool:
    address = "127.0.0.1" if host == "0.0.0.0" else host
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False


def _worker_holds(store: Store) -> bool:
    with store.reading() as db:
        lease = db.get(Lease, RECONCILER)
        return lease is not None and lease.until > store.now(db)


def _host_alive(store: Store) -> bool:
    with store.reading() as db:
        host = db.scalar(select(Host).where(Host.name == store.settings.host_name))
        return host is not None and host.alive_until > store.now(db)
