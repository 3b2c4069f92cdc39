"""One container on disk and in the kernel: where its files are, and what state it is really in."""

import json
import os
import select
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from shipway.runtime.containers.states import State
from shipway.runtime.errors import NoSuchContainer
from shipway.runtime.files import atomic_write
from shipway.runtime.kernel import disk
from shipway.runtime.kernel.cgroups import Cgroups
from shipway.runtime.kernel.mounts import MOUNT_POINT
from shipway.runtime.oci.runtime import OciRuntime
from shipway.runtime.spec import DEFAULT_LOG

SIGKILL_CODE = 128 + 9
# What can be left unfinished: a container, or one run of a container that is kept.
WHOLE = "whole"
RUN = "run"


@dataclass(frozen=True)
class Exit:
    """How a container ended, and when (epoch seconds).

    `code` is 128 + the signal's number if it was signalled; `oom` tells whether the kernel killed
    it for want of memory.
    """

    code: int
    oom: bool
    at: float


@dataclass(frozen=True)
class Container:
    """What is known of a container at one moment. Times are epoch seconds; 0.0 is "not yet".

    `pid` is its init's, 0 if there is none. "lost" means that its monitor died: it may still run,
    but nobody reads its output or will learn its exit code.
    """

    id: str
    state: State
    pid: int
    ip: str
    image: str
    labels: Mapping[str, str]
    created_at: float
    started_at: float
    exit: Exit | None
    log_path: Path | None


@dataclass(frozen=True)
class Record:
    """What is written of a container when it is made; only `ip` changes, at each start.

    `digest` is the image's: `image` may come to name another.
    """

    id: str
    image: str
    ip: str
    labels: Mapping[str, str]
    created_at: float
    log_path: str | None
    digest: str = ""
    log_size: int = DEFAULT_LOG
    log_files: int = 2


class Files:
    """The paths of one container. Durable ones below `root`, what a reboot may take below `run`."""

    def __init__(self, root: Path, run: Path, container_id: str) -> None:
        self.id = container_id
        self.folder = root / "containers" / container_id
        self.record = self.folder / "container.json"
        self.spec = self.folder / "spec.json"
        self.layer = self.folder / "layer"
        self.upper = self.layer / "upper"
        self.work = self.layer / "work"
        self.persist = self.folder / "monitor"
        self.exit = self.persist / "exit"
        self.oom = self.folder / "oom"
        self.spared = self.folder / "spared"
        self.monitor_pid = self.folder / "monitor.pid"
        self.init_pid = self.folder / "init.pid"
        self.started = self.folder / "started"
        self.noted = self.folder / "noted"
        self.caller = self.folder / "caller"
        self.hosts = self.folder / "hosts"
        self.shifted = self.folder / "shifted.json"
        self.bundle = run / container_id
        self.config = self.bundle / "config.json"
        self.runtime_log = self.bundle / "runtime.log"
        self.control = self.bundle / "ctl"
        self.unfinished = root / "unfinished" / container_id

    def create(self) -> None:
        """Make the folders; there must be none yet."""
        for folder in (self.folder, self.layer, self.upper, self.work, self.persist):
            folder.mkdir(mode=0o700)
        # The container's root directory takes its mode from here.
        self.upper.chmod(0o755)
        self.bundle.mkdir(mode=0o700)

    def reset(self) -> None:
        """Forget the last run: all but the record, the specification, the layer and the log."""
        # The exit goes last: until then the container is one that ended.
        marks = (self.oom, self.spared, self.noted)
        for path in (self.started, self.monitor_pid, self.init_pid, *marks):
            path.unlink(missing_ok=True)
        for path in self.persist.iterdir() if self.persist.is_dir() else ():
            path.unlink(missing_ok=True)
        self.persist.mkdir(mode=0o700, exist_ok=True)
        self.bundle.mkdir(mode=0o700)

    @contextmanager
    def look(self) -> Iterator[Path]:
        """The folder with the container's `upper`, to be looked into whether it runs or not."""
        monitor = read_pid(self.monitor_pid)
        live = monitor if monitor and is_monitor(monitor, self.bundle) else 0
        with disk.looked_into(self.layer, live, MOUNT_POINT / disk.PLACE) as folder:
            yield folder

    def begin(self, what: str = WHOLE) -> None:
        """Note that the container, or a run of it, is being made or cleared, before it is touched.

        Whoever dies before `finish` leaves the note, by which `sweeping.sweep` finds the rest.
        """
        self.unfinished.write_text(what)

    def finish(self) -> None:
        """Note that it is made, or gone."""
        self.unfinished.unlink(missing_ok=True)

    def write_record(self, record: Record, durable: bool = False) -> None:
        """Put down what the container is."""
        atomic_write(self.record, json.dumps(asdict(record)).encode(), durable=durable)

    def read_record(self) -> Record:
        """What was put down, or as much as the folder itself tells after a crash on the way."""
        try:
            return Record(**json.loads(self.record.read_bytes()))
        except (OSError, ValueError, TypeError):
            pass
        try:
            made = self.folder.stat().st_mtime
        except FileNotFoundError:
            raise NoSuchContainer(self.id) from None
        return Record(self.id, "", "", {}, made, None)

    def note_started(self) -> None:
        """Put down that, and when, the container's program was started."""
        atomic_write(self.started, repr(time.time()).encode(), durable=False)


class Observer:
    """Tells a container's state from the kernel's, conmon's and the OCI runtime's own files."""

    def __init__(self, cgroups: Cgroups, runtime: OciRuntime) -> None:
        self.cgroups = cgroups
        self.runtime = runtime

    def container(self, files: Files) -> Container:
        """The container now. Raises NoSuchContainer."""
        record = files.read_record()
        pid = self.init_pid(files)
        state = self.state(files, pid)
        return Container(
            id=files.id,
            state=state,
            pid=pid if state != "stopped" else 0,
            ip=record.ip,
            image=record.image,
            labels=record.labels,
            created_at=record.created_at,
            started_at=self._started_at(files, state),
            exit=self.exit(files) if state == "stopped" else None,
            log_path=Path(record.log_path) if record.log_path else None,
        )

    def state(self, files: Files, pid: int) -> State:
        """What the container is doing. `pid` is what `init_pid` just said."""
        if files.exit.exists():
            return "stopped"
        if not self.monitor_pid(files):
            # It may have noted the exit and ended between those two looks.
            if files.exit.exists():
                return "stopped"
            return "lost" if files.monitor_pid.exists() else "created"
        if not pid and not files.init_pid.exists():
            return "created"
        if self.runtime.awaits_start(files.id):
            return "created"
        return "paused" if self.cgroups.is_frozen(files.id) else "running"

    def init_pid(self, files: Files) -> int:
        """The pid of the container's first process, 0 if it is not alive."""
        pid = read_pid(files.init_pid)
        return pid if pid and self.cgroups.holds(files.id, pid) else 0

    def monitor_pid(self, files: Files) -> int:
        """The pid of the container's conmon, 0 if it is not alive."""
        pid = read_pid(files.monitor_pid)
        return pid if pid and is_monitor(pid, files.bundle) else 0

    def await_program(self, files: Files, timeout: float) -> None:
        """Wait until init is the container's program, at most so many seconds.

        For some milliseconds after a start init is still the OCI runtime, which nobody may join.
        """
        deadline = time.monotonic() + timeout
        delay = 0.001
        while self._is_runtime(self.init_pid(files)) and time.monotonic() < deadline:
            time.sleep(delay)
            delay = min(delay * 2, 0.1)

    def _is_runtime(self, pid: int) -> bool:
        """Whether it is that still: runc's has a name of its own, crun's its words when called."""
        try:
            name = Path(f"/proc/{pid}/comm").read_text()
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            return False
        return name.startswith(self.runtime.name) or os.fsencode(self.runtime.root) in words

    def note_spared(self, files: Files) -> None:
        """Put down how many of its processes died for want of memory, before we kill it ourselves.

        What the kernel counted until then was not the container's end.
        """
        count = self.cgroups.oom_kills(files.id)
        if count and self.init_pid(files):
            atomic_write(files.spared, str(count).encode(), durable=False)

    def exit(self, files: Files) -> Exit | None:
        """How the container ended, if its monitor has noted it."""
        try:
            code = int(files.exit.read_text())
            at = files.exit.stat().st_mtime
        except (FileNotFoundError, ValueError):
            return None
        return Exit(code, self._was_oom(files, code), at)

    def _was_oom(self, files: Files, code: int) -> bool:
        if files.oom.exists():
            return True
        found = code == SIGKILL_CODE and self.cgroups.oom_kills(files.id) > read_number(
            files.spared
        )
        if found:
            files.oom.touch()  # the control group, and its count, will not outlive a reboot
        return found

    def _started_at(self, files: Files, state: State) -> float:
        try:
            return float(files.started.read_text())
        except (FileNotFoundError, ValueError):
            pass
        if state == "created":
            return 0.0
        try:  # whoever started it died before noting so: it was soon after init was made
            return files.init_pid.stat().st_mtime
        except FileNotFoundError:
            return 0.0


def read_pid(path: Path) -> int:
    """The pid in a file, 0 if there is none."""
    return read_number(path)


def read_number(path: Path) -> int:
    """The number in a file, 0 if there is none."""
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return 0


def is_monitor(pid: int, bundle: Path) -> bool:
    """Whether `pid` is the live conmon of the container with that bundle."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return b"--bundle" in words and os.fsencode(bundle) in words


def find_monitors(bundle: Path) -> list[int]:
    """Every live conmon of that bundle, by looking at all processes: for what a crash left."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if is_monitor(pid, bundle)]


def open_pidfd(pid: int) -> int | None:
    """A pidfd, or None if there is no such process any more (or `pid` is 0)."""
    try:
        return os.pidfd_open(pid) if pid else None
    except ProcessLookupError:
        return None


def wait_for_end(fds: list[int], timeout: float | None) -> bool:
    """Wait until one of the pidfds is readable (its process died), at most `timeout` seconds."""
    poll = select.poll()
    for fd in fds:
        poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if timeout is None else max(0.0, timeout) * 1000))
