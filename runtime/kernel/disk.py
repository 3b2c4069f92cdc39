"""A container's writable layer with a size of its own: a file system in a sparse file.

The file is a loop device only while something has it mounted, and all its mounts are detached ones
or in the mount namespace that ends with the container's monitor: whoever is killed, at any moment,
leaves neither device nor mount. This works on every file system, which project quotas do not.
"""

import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shipway.runtime.commands import run_command
from shipway.runtime.errors import HostUnfit, StartFailed
from shipway.runtime.kernel import syscalls

IMAGE = "disk.img"
# Below the mount point of a container's mounts.
PLACE = "disk"
CONTROL = "/dev/loop-control"
LOOP_CTL_GET_FREE = 0x4C82
LOOP_CONFIGURE = 0x4C0A
LO_FLAGS_AUTOCLEAR = 4
# The content is cached once, above the device, and not also below it.
LO_FLAGS_DIRECT_IO = 16
# struct loop_config: fd, block size, and in its loop_info64 the flags; the rest stays zero.
LOOP_CONFIG = struct.Struct("=II 52x I 240x")
REMEDY = "load the kernel module loop, or do without a size limit"

UNMOUNT_TIMEOUT = 10.0  # seconds the kernel may take over undoing a mount that nobody has any more

# No journal: what is kept beyond a crash is checked before it is used. Tables are not written ahead.
MAKE = ["mkfs.ext4", "-q", "-F", "-m", "0", "-i", "8192"]
FEATURES = ["-O", "^has_journal,^resize_inode", "-E", "lazy_itable_init=1,nodiscard,root_owner=0:0"]
OPTIONS = ("noinit_itable", "discard")


def make(image: Path, size: int) -> None:
    """Make a file system of so many bytes, its own tables included. Takes some 5 ms."""
    fd = os.open(image, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)
    try:
        done = run_command([*MAKE, *FEATURES, str(image)])
    except FileNotFoundError as error:
        raise HostUnfit("mkfs.ext4 is not installed", "install Debian's e2fsprogs") from error
    if done.returncode != 0:
        raise StartFailed(f"no file system could be made in {image}: {done.stderr.strip()}")


def check(image: Path) -> None:
    """Put a file system right that a crash of the machine left; one that is well takes some 5 ms.

    Only while nobody has it mounted: it would be damaged.
    """
    done = run_command(["e2fsck", "-p", str(image)])
    if done.returncode not in (0, 1):  # 1: there was something, and it is put right
        raise StartFailed(
            f"the writable layer {image} is damaged ({done.stdout.strip()}); remove the container"
        )


@dataclass(frozen=True)
class Layer:
    """The folder that holds a container's `upper` and `work`, as this process sees it.

    With `fd` it is a detached mount, which its container's mount namespace has yet to take.
    """

    seen: Path
    fd: int | None = None

    def attach(self, place: Path) -> Path:
        """The folder as the calling thread's mount namespace sees it: at `place`, if need be."""
        if self.fd is None:
            return self.seen
        place.mkdir()
        syscalls.attach_mount(self.fd, str(place))
        return place


@contextmanager
def writable(folder: Path, size: int | None) -> Iterator[Layer]:
    """A container's writable layer, for a start of it; `folder` holds it, or its image."""
    if size is None:
        yield Layer(folder)
        return
    image = folder / IMAGE
    known = image.exists()
    if not known:
        make(image, size)
    with mounted(image, checked=known) as fd:
        seen = Path(f"/proc/self/fd/{fd}")
        for name in ("upper", "work"):
            (seen / name).mkdir(mode=0o700, exist_ok=True)
        (seen / "upper").chmod(0o755)
        yield Layer(seen, fd)


@contextmanager
def looked_into(folder: Path, monitor: int, place: Path) -> Iterator[Path]:
    """A container's writable layer, for whoever looks into it, whether it runs or not.

    `monitor` is its live monitor's pid, or 0; `place` is where that has the layer mounted.
    """
    image = folder / IMAGE
    if not image.exists():
        yield folder
    elif monitor:
        yield Path(f"/proc/{monitor}/root{place}")
    else:
        with mounted(image) as fd:
            yield Path(f"/proc/self/fd/{fd}")


@contextmanager
def mounted(image: Path, *, checked: bool = False) -> Iterator[int]:
    """The file system as the descriptor of a detached mount, with `checked` after a check of it.

    When that is closed the kernel undoes the mount, unless it has been attached by then: soon after the last process
    that had it, not at once. Mounted a second time meanwhile it would be damaged, so each mount waits for the end of
    the one before. Raises StartFailed if that does not come.
    """
    backing = _lock(image)
    try:
        if checked:
            check(image)
        loop, path = _loop_device(backing)
    finally:
        # The loop device has the file, too, and with it the lock, until it is free again.
        os.close(backing)
    try:
        fd = syscalls.new_mount("ext4", path, OPTIONS)
    finally:
        os.close(loop)
    try:
        yield fd
    finally:
        os.close(fd)


def _lock(image: Path) -> int:
    """The image, opened once nobody else has it mounted."""
    backing = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    deadline = time.monotonic() + UNMOUNT_TIMEOUT
    pause = 0.001
    while True:
        try:
            fcntl.flock(backing, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return backing
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(backing)
                raise StartFailed(f"the writable layer {image} is still mounted") from None
        time.sleep(pause)
        pause = min(pause * 2, 0.05)


def _loop_device(backing: int) -> tuple[int, str]:
    """An open loop device over the open image, that is free again when its last user lets go."""
    try:
        control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HostUnfit(f"there are no loop devices ({error.strerror})", REMEDY) from error
    try:
        while True:
            path = f"/dev/loop{fcntl.ioctl(control, LOOP_CTL_GET_FREE)}"
            loop = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO
                fcntl.ioctl(loop, LOOP_CONFIGURE, LOOP_CONFIG.pack(backing, 0, flags))
                return loop, path
            except OSError as error:
                os.close(loop)
                if error.errno != errno.EBUSY:  # another took it in between
                    raise
    finally:
        os.close(control)
