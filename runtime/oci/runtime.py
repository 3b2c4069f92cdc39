"""crun, runc or gVisor's runsc: which one this host can use, and the argument lists of its commands.

crun and runc are tried by the tests. runsc is not in Debian and was not tried: its arguments and the
names of its state files are taken from its sources.
"""

import fcntl
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from shipway.runtime.errors import HostUnfit
from shipway.runtime.kernel import cgroups

CRUN_REMEDY = "mount the controllers left in cgroup v2 as v1, or use runc"
REMEDIES = {
    "crun": "install Debian's package crun",
    "runc": "install Debian's package runc, or crun",
    "runsc": "install gVisor's runsc; Debian has no package of it",
}
NAMES = ("auto", *REMEDIES)
# Those that take a sealed copy of themselves for their own.
COPYING = ("crun", "runc")
CHUNK = 1 << 20


@dataclass(frozen=True)
class OciRuntime:
    """One installed OCI runtime, keeping its own state below `root`."""

    name: str
    path: Path
    root: Path

    @property
    def version(self) -> str:
        """Its version, by asking it."""
        argv = [str(self.path), "--version"]
        result = subprocess.run(argv, capture_output=True, text=True, timeout=10)
        match = re.search(r"version (\S+)", result.stdout)
        return match[1] if match else "unknown"

    @property
    def program(self) -> Path:
        """What to execute, as long as this process lives: a copy in memory that nobody can change.

        crun and runc make themselves such a copy at each call, lest a container overwrite them
        (CVE-2019-5736), and start anew from it; it is half of their time. They take ours for it.
        """
        if self.name not in COPYING:
            return self.path
        found = self.path.stat()
        copy = sealed_copy(self.path, os.getpid(), found.st_ino, found.st_mtime)
        # A kernel may be told to execute nothing that is in memory only.
        return copy if os.access(copy, os.X_OK) else self.path

    def arguments(self) -> list[str]:
        """The options that stand before every command."""
        return ["--root", str(self.root)]

    def start(self, container_id: str) -> list[str]:
        """The command that lets a created container go on."""
        return [str(self.program), *self.arguments(), "start", container_id]

    def pause(self, container_id: str) -> list[str]:
        """The command that freezes a container's processes."""
        return [str(self.program), *self.arguments(), "pause", container_id]

    def resume(self, container_id: str) -> list[str]:
        """The command that lets a paused container go on."""
        return [str(self.program), *self.arguments(), "resume", container_id]

    def delete(self, container_id: str) -> list[str]:
        """The command that deletes a container, killing it if need be."""
        return [str(self.program), *self.arguments(), "delete", "--force", container_id]

    def execute(self, container_id: str, process: Path, pid_file: Path) -> list[str]:
        """The command that runs one more process, described in a file, in a container."""
        options = ["--process", str(process), "--pid-file", str(pid_file)]
        return [str(self.program), *self.arguments(), "exec", *options, container_id]

    def state_files(self, container_id: str) -> list[Path]:
        """What the runtime keeps of a container: one folder, but of runsc two files."""
        if self.name == "runsc":
            return list(self.root.glob(f"{container_id}_sandbox:*"))
        folder = self.root / container_id
        return [folder] if folder.exists() else []

    def awaits_start(self, container_id: str) -> bool:
        """Whether the container is created and its program not yet started; runsc does not tell."""
        return (self.root / container_id / "exec.fifo").exists()


@cache
def sealed_copy(program: Path, pid: int, _inode: int, _changed: float) -> Path:
    """A copy of a program in the memory of this process, sealed against every change.

    Made once, but anew in a forked process, which may have closed what it inherited, and when the
    program is another by its inode and time of change.
    """
    fd = os.memfd_create(program.name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with program.open("rb") as source:
        while os.sendfile(fd, source.fileno(), None, CHUNK):
            pass
    os.fchmod(fd, 0o555)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return Path(f"/proc/{pid}/fd/{fd}")


def find_runtime(wanted: str, root: Path) -> OciRuntime:
    """The runtime to use. `wanted` is one of NAMES; "auto" is crun if it can run here, else runc."""
    if wanted not in NAMES:
        raise HostUnfit(f"the runtime {wanted!r} is not known", f"choose {', '.join(NAMES)}")
    if wanted in ("auto", "crun") and shutil.which("crun"):
        if cgroups.mount_leftovers(cgroups.read_hierarchies()):
            return installed("crun", root)
        if wanted == "crun":
            raise HostUnfit("crun refuses this host's mixture of cgroup v1 and v2", CRUN_REMEDY)
    return installed("runc" if wanted == "auto" else wanted, root)


def installed(name: str, root: Path) -> OciRuntime:
    """The runtime of that name. Raises HostUnfit."""
    path = shutil.which(name)
    if path is None:
        raise HostUnfit(f"{name} is not installed", REMEDIES[name])
    return OciRuntime(name, Path(path), root / name)
