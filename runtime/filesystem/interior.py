"""A container's file system as one sees it from outside, whether it runs or not."""

import errno
import gc
import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar

from shipway.runtime.containers import ending, lifecycle
from shipway.runtime.containers.container import Files, Observer
from shipway.runtime.containers.idmapping import IdMapping
from shipway.runtime.errors import KernelRefused, RuntimeFailure
from shipway.runtime.files import locked
from shipway.runtime.filesystem import copying
from shipway.runtime.filesystem.changes import Change, compare
from shipway.runtime.filesystem.copying import Side
from shipway.runtime.images.tarreader import Readable
from shipway.runtime.kernel import disk, mounts, syscalls
from shipway.runtime.kernel.userns import UserNamespace
from shipway.runtime.spec import IdRange, Mount

Result = TypeVar("Result")
PROGRAM_TIMEOUT = 10.0
ENDING = 1.0  # seconds between two looks whether a container runs, while its monitor does
_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Interior:
    """The file system of one container.

    Paths follow the rules of `docker cp`. What is copied belongs to root where it goes; with
    `keep_owner` it keeps the ids that it has in the container, or on the machine. With `follow` a
    link that the source's path names is followed; links within are copied as links.
    """

    def __init__(
        self,
        observer: Observer,
        mapping: IdMapping,
        files: Files,
        layers: Callable[[Files], Sequence[Path]],
        locks: Path,
    ) -> None:
        self._observer = observer
        self._mapping = mapping
        self._files = files
        self._layers = layers
        self._locks = locks

    def copy_out(
        self, path: str, destination: str, follow: bool = False, keep_owner: bool = False
    ) -> None:
        """Copy a file or folder to the machine. Raises CopyFailed."""
        with copying.machine() as here:
            self.within(
                lambda side: copying.copy(side, path, here, destination, follow, keep_owner)
            )

    def copy_in(
        self, source: str, path: str, follow: bool = False, keep_owner: bool = False
    ) -> None:
        """Copy a file or folder of the machine into the container. Raises CopyFailed."""
        with copying.machine() as here:
            self.within(lambda side: copying.copy(here, source, side, path, follow, keep_owner))

    def pack(self, path: str, output: Callable[[bytes], object], follow: bool = False) -> None:
        """Hand on a tar of a file or folder, with the container's ids. Raises CopyFailed."""
        self.within(lambda side: copying.pack(side, path, follow, output))

    def unpack(self, stream: Readable, path: str, keep_owner: bool = True) -> None:
        """Extract a tar into a folder that is there. Raises CopyFailed, InvalidArchive."""
        self.within(lambda side: copying.unpack(stream, side, path, keep_owner))

    def within(self, work: Callable[[Side], Result]) -> Result:
        """Do something in the file system, whether the container runs or not."""
        while True:
            fd = self._running_root()
            if fd is not None:
                try:
                    return work(Side(fd, self._files.id, id_range(self._files)))
                finally:
                    os.close(fd)
            with locked(self._locks / self._files.id):
                if not self._observer.init_pid(self._files) and self._monitor_has_ended():
                    layers = self._layers(self._files)
                    return in_stopped_root(self._mapping, self._files, layers, work)

    def changes(self) -> list[Change]:
        """What the container has changed of its image, by path. Raises CopyFailed."""
        layers = self._layers(self._files)
        while True:
            if self._observer.monitor_pid(self._files):
                # A layer that is a file system of its own is seen through the monitor's mounts.
                with suppress(FileNotFoundError), self._files.look() as layer:
                    return compare(layer / "upper", layers)
            with locked(self._locks / self._files.id):
                if self._monitor_has_ended():
                    with self._files.look() as layer:
                        upper = layer / "upper"
                        return compare(upper, layers) if upper.is_dir() else []

    def _monitor_has_ended(self) -> bool:
        """Wait for the end of a monitor that is about to: until then the mounts are its own."""
        return ending.await_end(self._observer, self._files, ENDING)

    def _running_root(self) -> int | None:
        """A descriptor of the root that the first process sees; None if none runs."""
        self._observer.await_program(self._files, PROGRAM_TIMEOUT)
        pid = self._observer.init_pid(self._files)
        if not pid or self._observer.runtime.awaits_start(self._files.id):
            return None
        try:
            fd = os.open(f"/proc/{pid}/root", _PLACE)
        except (FileNotFoundError, ProcessLookupError):
            return None
        # The pid may have become another's before that; and no container's root is the machine's.
        same = os.path.samestat(os.fstat(fd), os.stat("/"))
        if self._observer.init_pid(self._files) == pid and not same:
            return fd
        os.close(fd)
        return None


def in_stopped_root(
    mapping: IdMapping, files: Files, layers: Sequence[Path], work: Callable[[Side], Result]
) -> Result:
    """Do something in the file system of a container that does not run.

    It is mounted for as long as that takes, in a mount namespace that no other process sees. The
    caller holds the container's lock, so that nobody starts it meanwhile.
    """
    ids = id_range(files)
    size = disk_size(files)

    def mount_and_work() -> Result:
        mounts.ROOTFS.mkdir(parents=True, exist_ok=True)
        point = str(mounts.MOUNT_POINT)
        syscalls.mount("tmpfs", point, "tmpfs", syscalls.MS_NOSUID, "mode=711,size=1m")
        scratch = mounts.MOUNT_POINT / "layers"
        for folder in (scratch, mounts.ROOTFS):
            folder.mkdir()
        with ExitStack() as stack:
            writable = stack.enter_context(disk.writable(files.layer, size))
            view = mapping.look(files, ids, layers, writable.seen / "upper")
            layer = writable.attach(mounts.MOUNT_POINT / disk.PLACE)
            if writable.fd is not None:
                stack.callback(syscalls.umount, str(layer))
            overlay_work = layer / "copying"
            shutil.rmtree(overlay_work, ignore_errors=True)  # of one that was killed
            overlay_work.mkdir(mode=0o700)
            stack.callback(shutil.rmtree, overlay_work, ignore_errors=True)
            upper = layer / "upper"
            mounts.mount_overlay(
                mounts.ROOTFS, view.layers, upper, overlay_work, scratch, view.namespace
            )
            stack.callback(_umount, mounts.ROOTFS)
            root = os.open(mounts.ROOTFS, _PLACE)
            stack.callback(os.close, root)
            for mount in saved_binds(files):
                _bind(root, mount, view.namespace, stack)
            return work(Side(root, files.id, ids))

    return mounts.in_own_mount_namespace(mount_and_work)


def _umount(place: Path) -> None:
    """Unmount it now: a file system in a file must not be mounted again before it is let go."""
    try:
        syscalls.umount(str(place), lazily=False)
    except KernelRefused as error:
        if error.errno != errno.EBUSY:
            raise
        gc.collect()  # what an error's traceback held open
        syscalls.umount(str(place), lazily=False)


def id_range(files: Files) -> IdRange:
    """The machine's ids that are the container's. Raises RuntimeFailure."""
    with suppress(OSError, ValueError, KeyError, IndexError):
        mapping = json.loads(files.config.read_bytes())["linux"]["uidMappings"][0]
        return IdRange(mapping["hostID"], mapping["size"])
    return lifecycle.saved_spec(files).ids


def disk_size(files: Files) -> int | None:
    """The size of a container's writable layer, None if it has no file system of its own."""
    if (files.layer / disk.IMAGE).exists():
        return (files.layer / disk.IMAGE).stat().st_size
    with suppress(RuntimeFailure):
        return lifecycle.saved_spec(files).limits.disk
    return None


def saved_binds(files: Files) -> list[Mount]:
    """The binds of a kept container."""
    with suppress(RuntimeFailure):
        return [mount for mount in lifecycle.saved_spec(files).mounts if mount.kind == "bind"]
    return []


def _bind(root: int, mount: Mount, namespace: UserNamespace, stack: ExitStack) -> None:
    """Show a bind at its place, if there is one yet, until the stack is unwound."""
    where = mount.target.strip("/")
    with suppress(FileNotFoundError), ExitStack() as opened:
        target = syscalls.open_in_root(root, where, os.O_PATH | os.O_CLOEXEC)
        opened.callback(os.close, target)
        fd = mounts.idmapped(mount.source, namespace, mount.readonly)
        opened.callback(os.close, fd)
        syscalls.attach_mount_at(fd, target)
        seen = syscalls.open_in_root(root, where, os.O_PATH | os.O_CLOEXEC)
        stack.callback(os.close, seen)
        stack.callback(syscalls.umount, f"/proc/thread-self/fd/{seen}")
