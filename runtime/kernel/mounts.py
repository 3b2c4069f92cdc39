"""The mounts of a container: layers seen through its ids, and the overlay above them.

Where mounts cannot be id-mapped, the namespace has no descriptor, and they are made as they are: see
`containers/idmapping.py`.
All of it is done in a mount namespace that only the container's monitor keeps alive, so the kernel
takes every mount away when the monitor ends, however that comes about.
"""

import errno
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from shipway.runtime.errors import HostUnfit, InvalidSpec, KernelRefused
from shipway.runtime.kernel import syscalls
from shipway.runtime.kernel.syscalls import (
    MOUNT_ATTR_IDMAP,
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOSUID,
    Result,
)
from shipway.runtime.kernel.userns import UserNamespace

# Every container has its own mounts here, seen in its monitor's mount namespace only; to the host
# the folder is empty. The OCI runtime walks to it as the container's root, who is nobody to the
# host, so it lies outside of the engine's folders, which may be closed to others.
MOUNT_POINT = Path("/run/shipway/mounts")
ROOTFS = MOUNT_POINT / "rootfs"

# Explicit, because distributions choose other defaults, and a layer made from an upper directory
# must not hold redirects or metadata-only copies.
FILE_SYSTEM_REMEDY = "put the data folder on ext4, xfs or btrfs, with Linux 5.19 or later"
OVERLAY_OPTIONS = "index=off,metacopy=off,redirect_dir=off,xino=off"


def in_own_mount_namespace(work: Callable[[], Result]) -> Result:
    """Run `work` in a thread with a mount namespace of its own.

    Processes that `work` starts stay in it. What the host unmounts later is unmounted there too.
    """

    def apart() -> Result:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_SLAVE)
        return work()

    return syscalls.in_own_thread(apart)


def _mount_overlay(target: Path, data: str, upper: Path) -> None:
    try:
        syscalls.mount("overlay", str(target), "overlay", 0, data)
    except KernelRefused as error:
        if error.errno == errno.ENODEV:
            raise HostUnfit("the kernel has no overlayfs", "load its module overlay") from error
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            raise HostUnfit(
                f"the file system of {upper} takes no overlay",
                FILE_SYSTEM_REMEDY,
            ) from error
        raise


def bind_idmapped(
    source: Path | str, target: Path, namespace: UserNamespace, readonly: bool
) -> None:
    """Mount a directory or file at `target`: the ids on its disk are the namespace's own ids.

    A `target` that is not there is made. Raises as `idmapped`.
    """
    fd = idmapped(source, namespace, readonly)
    try:
        if not target.exists():
            target.mkdir() if stat.S_ISDIR(os.fstat(fd).st_mode) else target.touch()
        syscalls.attach_mount(fd, str(target))
    finally:
        os.close(fd)


def idmapped(source: Path | str, namespace: UserNamespace, readonly: bool) -> int:
    """A detached mount of a directory or file, the ids on its disk those of the namespace.

    A symlink at `source` is not followed: another container may have put it there just now.
    InvalidSpec, HostUnfit.
    """
    fd = syscalls.clone_mount(str(source))
    try:
        # Mounted on a file, a link would be one to whoever walks there next.
        if stat.S_ISLNK(os.fstat(fd).st_mode):
            raise InvalidSpec(
                f"mount source {source} is a symlink; name the folder or file it points to"
            )
        attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
        if namespace.fd is not None:
            attributes |= MOUNT_ATTR_IDMAP
        if readonly:
            attributes |= syscalls.MOUNT_ATTR_RDONLY
        syscalls.set_mount_attributes(fd, attributes, namespace.fd or 0, str(source))
    except KernelRefused as error:
        os.close(fd)
        if error.errno != errno.EINVAL:
            raise
        raise HostUnfit(
            f"the file system of {source} takes no id-mapped mounts", FILE_SYSTEM_REMEDY
        ) from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def bind(source: Path, target: Path) -> None:
    """Mount a directory at `target` as it is, ids and all."""
    syscalls.mount(str(source), str(target), None, syscalls.MS_BIND)


def mount_private_tmpfs() -> None:
    """Mount a small tmpfs on MOUNT_POINT, with a null device that takes the host's place.

    The OCI runtime gives the container's user what its standard streams are: were that the host's
    /dev/null, each start would change the owner of the host's device. So the monitor, which opens it
    as it comes up, is started after this.
    """
    # On the host too there is a folder of that name: runc's exec starts out in it.
    ROOTFS.mkdir(parents=True, exist_ok=True)
    syscalls.mount("tmpfs", str(MOUNT_POINT), "tmpfs", syscalls.MS_NOSUID, "mode=711,size=1m")
    null = MOUNT_POINT / "null"
    os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    null.chmod(0o666)
    syscalls.mount(str(null), os.devnull, None, syscalls.MS_BIND)


def mount_overlay(
    target: Path,
    lower: Sequence[Path],
    upper: Path,
    work: Path,
    scratch: Path,
    namespace: UserNamespace,
    volatile: bool = False,
) -> None:
    """Mount an overlay at `target`, its layers (topmost first) and its upper seen through the ids.

    `upper` and `work` are two folders of one directory. `scratch` is an empty directory for the
    places of the layers. `volatile` spares the disk for content that no crash need preserve.
    """
    places = [scratch / str(number) for number in range(len(lower))]
    for place, layer in zip(places, lower, strict=True):
        place.mkdir()
        bind_idmapped(layer, place, namespace, readonly=True)
    writable = scratch / "w"
    writable.mkdir()
    bind_idmapped(upper.parent, writable, namespace, readonly=False)
    with ExitStack() as stack:
        fd = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, fd)
        # The options must fit in one page: short names allow for more than 100 layers. They are
        # resolved in this thread, whose /proc/thread-self is not the process's /proc/self.
        here = f"/proc/thread-self/fd/{fd}"
        layers = ":".join(f"{here}/{place.name}" for place in places)
        data = (
            f"lowerdir={layers},upperdir={here}/w/{upper.name},workdir={here}/w/{work.name},"
            f"{OVERLAY_OPTIONS}{',volatile' if volatile else ''}"
        )
        # An overlay works on its upper with the ids of who mounted it, and the host's root is
        # nobody in the id-mapped upper.
        with syscalls.as_file_owner(namespace.root, namespace.root):
            _mount_overlay(target, data, upper)
    for place in [*places, writable]:
        syscalls.umount(str(place))


def mount_view(target: Path, layers: Sequence[Path], scratch: Path) -> None:
    """Mount what layers (topmost first) show together, to be read, with the ids on their disks.

    `scratch` is an empty directory for the places of the layers. A topmost layer that a container
    is writing to shows that as well; what changes meanwhile is seen or not.
    """
    empty = scratch / "empty"
    empty.mkdir()
    attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_RDONLY
    places = []
    for number, layer in enumerate([*layers, empty]):
        place = scratch / str(number)
        place.mkdir()
        fd = syscalls.clone_mount(str(layer))
        try:
            syscalls.set_mount_attributes(fd, attributes, 0, str(layer))
            syscalls.attach_mount(fd, str(place))
        finally:
            os.close(fd)
        places.append(place)
    fd = os.open(scratch, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        here = f"/proc/thread-self/fd/{fd}"
        # The empty one is there since an overlay to be read only has two layers at least.
        lower = ":".join(f"{here}/{place.name}" for place in places)
        data = f"lowerdir={lower},{OVERLAY_OPTIONS}"
        syscalls.mount("overlay", str(target), "overlay", syscalls.MS_RDONLY, data)
    finally:
        os.close(fd)
