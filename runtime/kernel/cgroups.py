"""Control groups of containers and their monitors, on hosts with v1, v2 or both (hybrid).

Containers live in `<parent>/containers/<id>`, all monitors in `<parent>/monitors`.
"""

import errno
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shipway.runtime.errors import HostUnfit, KernelRefused, RuntimeFailure
from shipway.runtime.kernel import syscalls

FILESYSTEM = Path("/sys/fs/cgroup")
MOUNTS = Path("/proc/self/mounts")
NEEDED = ("cpu", "memory", "pids")
KILL_TIMEOUT = 10.0
BUSY = 5.0  # seconds a group may stay busy after its last process has died


@dataclass(frozen=True)
class Hierarchy:
    """One mounted hierarchy. `controllers` of a v2 one are those it still has."""

    mount: Path
    controllers: frozenset[str]
    unified: bool


def read_hierarchies(mounts: Path = MOUNTS) -> tuple[Hierarchy, ...]:
    """The hierarchies that are mounted now."""
    found = []
    for line in mounts.read_text().splitlines():
        _, target, kind, options, *_ = line.split()
        if kind == "cgroup2":
            names = _read(Path(target, "cgroup.controllers")).split()
            found.append(Hierarchy(Path(target), frozenset(names), unified=True))
        elif kind == "cgroup":
            found.append(Hierarchy(Path(target), frozenset(options.split(",")), unified=False))
    return tuple(found)


def mount_leftovers(hierarchies: tuple[Hierarchy, ...]) -> bool:
    """On a hybrid host, mount the controllers still left in v2 as v1: crun refuses the mixture.

    Returns whether none is left in v2.
    """
    unified = next((each for each in hierarchies if each.unified), None)
    if unified is None or all(each.unified for each in hierarchies):
        return True
    for controller in sorted(unified.controllers):
        target = FILESYSTEM / controller
        try:
            target.mkdir(exist_ok=True)
            syscalls.mount("cgroup", str(target), "cgroup", 0, controller)
        except OSError:
            return False  # in use in v2, or not ours to mount: runc copes with that
    return True


class Cgroups:
    """The control groups below one parent."""

    def __init__(self, parent: str) -> None:
        self.parent = parent.strip("/")
        self.hierarchies = read_hierarchies()

    @property
    def version(self) -> str:
        """One of "v2", "v1" and "hybrid"."""
        kinds = {each.unified for each in self.hierarchies}
        return "hybrid" if len(kinds) == 2 else "v2" if kinds == {True} else "v1"

    def container_path(self, container_id: str) -> str:
        """The path that the OCI runtime is given, and that /proc/<pid>/cgroup shows."""
        return f"/{self.parent}/containers/{container_id}"

    def folder(self, controller: str, container_id: str | None = None) -> Path | None:
        """The container's group in a controller's hierarchy, or that of all containers."""
        for hierarchy in self.hierarchies:
            if controller in hierarchy.controllers:
                return hierarchy.mount / self.parent / "containers" / (container_id or "")
        return None

    def setup(self) -> None:
        """Make the parents, with the controllers that limits need. Idempotent."""
        present = frozenset().union(*(each.controllers for each in self.hierarchies))
        missing = [name for name in NEEDED if name not in present]
        if missing:
            raise HostUnfit(
                f"the control group controllers {', '.join(missing)} are missing",
                "enable them on the kernel's command line",
            )
        for hierarchy in self.hierarchies:
            base = hierarchy.mount / self.parent
            for folder in (base / "containers", base / "monitors"):
                folder.mkdir(parents=True, exist_ok=True)
            if hierarchy.unified:
                self._delegate(hierarchy)
            elif "cpuset" in hierarchy.controllers:
                self._copy_cpuset(hierarchy)

    def enter_monitors(self) -> None:
        """Move the calling *thread* to the monitors' group, for what it starts to be born there.

        A thread that moves itself waits for nobody. Only v1 has groups of threads.
        """
        for hierarchy in self._limiting():
            if not hierarchy.unified:
                (hierarchy.mount / self.parent / "monitors/tasks").write_text("0")

    def hasten_moves(self) -> None:
        """Have the kernel ready itself for moves of processes, while the caller does other things.

        The first move in a while waits for a grace period of the kernel's, some 10 ms; those soon
        after it do not. So a thread begins with one that nobody waits for. On v2 the adoption of
        the monitor is that first move.
        """
        threading.Thread(target=self._move_a_thread, daemon=True).start()

    def adopt_monitor(self, pid: int) -> None:
        """Move a process to the monitors' group, away from the caller's limits and its end.

        Where the calling thread has neither, being in the topmost group or already among the
        monitors, its child stays where it is: a move can take long, see above.
        """
        for hierarchy in self._limiting():
            (hierarchy.mount / self.parent / "monitors/cgroup.procs").write_text(str(pid))

    def _limiting(self) -> list[Hierarchy]:
        """Where the calling thread is in a group that may end with it, or has limits."""
        own = _read(Path("/proc/thread-self/cgroup")).splitlines()
        groups = [line.split(":", 2)[1:] for line in own]
        free = ("/", f"/{self.parent}/monitors")
        return [each for each in self.hierarchies if _place_in(each, groups) not in free]

    def _move_a_thread(self) -> None:
        for hierarchy in self.hierarchies:
            if not hierarchy.unified:
                # By its number: whoever says 0 is let through without the grace period.
                me = str(threading.get_native_id())
                with suppress(OSError):
                    (hierarchy.mount / self.parent / "monitors/tasks").write_text(me)
                return

    def holds(self, container_id: str, pid: int) -> bool:
        """Whether `pid` is a process of this container: the proof against a reused pid."""
        path = self.container_path(container_id)
        lines = _read(Path(f"/proc/{pid}/cgroup")).splitlines()
        return any(line.split(":", 2)[2] == path for line in lines)

    def members(self, container_id: str) -> set[int]:
        """The container's processes, by whichever hierarchy still knows them."""
        found: set[int] = set()
        for folder in self._folders(container_id):
            for current, _, _ in os.walk(folder):
                found.update(map(int, _read(Path(current, "cgroup.procs")).split()))
        return found

    def kill_all(self, container_id: str, init: int = 0) -> None:
        """SIGKILL every process of the container and wait until the kernel has none left.

        With `init` first, the kernel ends all others before any could tell of another's end.
        """
        deadline = time.monotonic() + KILL_TIMEOUT
        delay = 0.001
        while members := self.members(container_id):
            for pid in sorted(members, key=lambda pid: pid != init):
                _kill(pid)
            self.thaw(container_id)
            if time.monotonic() > deadline:
                raise RuntimeFailure(
                    f"processes {sorted(members)} of container {container_id} do not die;"
                    " they hang in the kernel"
                )
            time.sleep(delay)
            delay = min(delay * 2, 0.1)

    def is_frozen(self, container_id: str) -> bool:
        """Whether the container's processes are paused, or about to be."""
        for folder in self._folders(container_id, "freezer"):
            return _read(folder / "freezer.state").strip() in ("FROZEN", "FREEZING")
        for folder in self._folders(container_id):
            if _read(folder / "cgroup.freeze").strip() == "1":
                return True
        return False

    def remove(self, container_id: str) -> None:
        """Delete the container's groups, which must hold no process."""
        for folder in self._folders(container_id):
            for current, _, _ in os.walk(folder, topdown=False):
                _remove_folder(Path(current))

    def oom_kills(self, container_id: str) -> int:
        """How many processes of the container the kernel killed for want of memory."""
        for folder in self._folders(container_id, "memory"):
            for name in ("memory.events", "memory.oom_control"):
                count = _field(_read(folder / name), "oom_kill")
                if count is not None:
                    return count
        return 0

    def teardown(self) -> None:
        """Delete the parents; they must be empty."""
        for hierarchy in self.hierarchies:
            base = hierarchy.mount / self.parent
            for folder in (base / "containers", base / "monitors", base):
                _remove_folder(folder)

    def _folders(self, container_id: str, controller: str | None = None) -> Iterator[Path]:
        for hierarchy in self.hierarchies:
            folder = hierarchy.mount / self.container_path(container_id).lstrip("/")
            if (controller is None or controller in hierarchy.controllers) and folder.is_dir():
                yield folder

    def _delegate(self, hierarchy: Hierarchy) -> None:
        """Hand v2's controllers down to the containers' groups."""
        wanted = " ".join(f"+{name}" for name in sorted(hierarchy.controllers))
        if not wanted:
            return
        folder = hierarchy.mount
        for part in (*Path(self.parent).parts, "containers"):
            (folder / "cgroup.subtree_control").write_text(wanted)
            folder /= part
        (folder / "cgroup.subtree_control").write_text(wanted)

    def _copy_cpuset(self, hierarchy: Hierarchy) -> None:
        """A v1 cpuset is born empty, and an empty one takes no process."""
        folder = hierarchy.mount
        for part in (*Path(self.parent).parts, "monitors"):
            for name in ("cpuset.cpus", "cpuset.mems"):
                if not _read(folder / part / name).strip():
                    (folder / part / name).write_text(_read(folder / name))
            folder /= part

    def thaw(self, container_id: str) -> None:
        """Let the container's processes go on, if they are frozen."""
        for folder in self._folders(container_id):
            for name, word in (("freezer.state", "THAWED"), ("cgroup.freeze", "0")):
                if (folder / name).exists():
                    (folder / name).write_text(word)


def _field(text: str, name: str) -> int | None:
    for line in text.splitlines():
        words = line.split()
        if len(words) == 2 and words[0] == name:
            return int(words[1])
    return None


def _read(path: Path) -> str:
    """A kernel file's text; empty if the file, or what it tells about, is gone."""
    try:
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        return ""
    except OSError as error:
        if error.errno in (errno.ENODEV, errno.EOPNOTSUPP):
            return ""
        raise KernelRefused(error.errno or errno.EIO, f"read {path}: {error.strerror}") from error


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _remove_folder(folder: Path) -> None:
    """Delete a control group; the kernel calls it busy for a moment after its last process died."""
    delay, deadline = 0.001, time.monotonic() + BUSY
    while True:
        try:
            folder.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise
            time.sleep(delay)
            delay = min(delay * 2, 0.1)


def _place_in(hierarchy: Hierarchy, groups: list[list[str]]) -> str:
    """The path in a hierarchy, of a process with these groups: controllers and path of each."""
    for names, path in groups:
        if set(names.split(",")) <= hierarchy.controllers if names else hierarchy.unified:
            return path
    return ""
