"""The few Linux system calls that Python 3.11's `os` does not have. All numbers are from uapi headers.

The mount calls since 5.2 have the same number on every architecture.
"""

import ctypes
import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from shipway.runtime.errors import KernelRefused

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
MNT_DETACH = 2
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH = 4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_IN_ROOT = 0x10
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_IDMAP = 0x00100000

_PR_SET_SECUREBITS = 28
_SECBIT_NO_SETUID_FIXUP = 4
_OPEN_TREE = 428
_OPENAT2 = 437
_MOVE_MOUNT = 429
_FSOPEN = 430
_FSCONFIG = 431
_FSMOUNT = 432
_MOUNT_SETATTR = 442
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6

Result = TypeVar("Result")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class _MountAttr(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns_fd")]


class _OpenHow(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ("flags", "mode", "resolve")]


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise KernelRefused(number, f"{what}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """Give the calling *thread* namespaces of its own."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, kind: int) -> None:
    """Move the calling *thread* into the namespace that `fd` stands for."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(kind)), "setns")


def in_own_thread(work: Callable[[], Result]) -> Result:
    """Run `work` in a thread that ends with it: the namespaces it goes to are that thread's alone."""
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # handed to the caller's thread
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def mount(source: str, target: str, kind: str | None, flags: int, data: str = "") -> None:
    """Mount a file system on `target`, or change the mount there."""
    _check(
        _libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            kind.encode() if kind else None,
            ctypes.c_ulong(flags),
            os.fsencode(data) if data else None,
        ),
        f"mount {kind or 'change'} on {target}",
    )


def umount(target: str, lazily: bool = True) -> None:
    """Detach whatever is mounted on `target`; if not `lazily`, it must be in use by nobody (EBUSY)."""
    flags = ctypes.c_int(MNT_DETACH if lazily else 0)
    _check(_libc.umount2(os.fsencode(target), flags), f"umount {target}")


@contextmanager
def as_file_owner(uid: int, gid: int) -> Iterator[None]:
    """Let files that this *thread* makes belong to these host ids, keeping root's capabilities."""
    _check(
        _libc.prctl(_PR_SET_SECUREBITS, ctypes.c_ulong(_SECBIT_NO_SETUID_FIXUP), 0, 0, 0), "prctl"
    )
    try:
        _libc.setfsgid(ctypes.c_uint(gid))
        _libc.setfsuid(ctypes.c_uint(uid))
        yield
    finally:
        _libc.setfsuid(ctypes.c_uint(0))
        _libc.setfsgid(ctypes.c_uint(0))
        _check(_libc.prctl(_PR_SET_SECUREBITS, ctypes.c_ulong(0), 0, 0, 0), "prctl")


def open_in_root(root: int, path: str, flags: int) -> int:
    """Open a path as if the folder `root` were /: no link and no `..` leads out of it. OSError.

    The kernel asks to try again where something was renamed on the way.
    """
    how = _OpenHow(flags, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
    for _ in range(1000):
        fd: int = _libc.syscall(
            ctypes.c_long(_OPENAT2),
            ctypes.c_int(root),
            os.fsencode(path),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number != errno.EAGAIN:
            break
    raise OSError(number, os.strerror(number), path)


def clone_mount(source: str) -> int:
    """A new detached mount of the directory or file `source`, as a file descriptor.

    Of a symlink it is one of the symlink itself, which nothing can be mounted by.
    """
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW
    return _check(
        _libc.syscall(
            ctypes.c_long(_OPEN_TREE),
            ctypes.c_int(AT_FDCWD),
            os.fsencode(source),
            ctypes.c_uint(flags),
        ),
        f"open_tree {source}",
    )


def set_mount_attributes(fd: int, attributes: int, user_namespace: int, what: str) -> None:
    """Set attributes (MOUNT_ATTR_*) of a detached mount; with MOUNT_ATTR_IDMAP by that namespace."""
    attr = _MountAttr(attributes, 0, 0, user_namespace)
    _check(
        _libc.syscall(
            ctypes.c_long(_MOUNT_SETATTR),
            ctypes.c_int(fd),
            b"",
            ctypes.c_uint(AT_EMPTY_PATH),
            ctypes.byref(attr),
            ctypes.c_size_t(ctypes.sizeof(attr)),
        ),
        f"mount_setattr {what}",
    )


def attach_mount_at(fd: int, target: int) -> None:
    """Attach a detached mount at the directory or file that is open as `target`."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    _check(
        _libc.syscall(
            ctypes.c_long(_MOVE_MOUNT),
            ctypes.c_int(fd),
            b"",
            ctypes.c_int(target),
            b"",
            ctypes.c_uint(flags),
        ),
        "move_mount",
    )


def attach_mount(fd: int, target: str) -> None:
    """Attach a detached mount at `target`."""
    _check(
        _libc.syscall(
            ctypes.c_long(_MOVE_MOUNT),
            ctypes.c_int(fd),
            b"",
            ctypes.c_int(AT_FDCWD),
            os.fsencode(target),
            ctypes.c_uint(MOVE_MOUNT_F_EMPTY_PATH),
        ),
        f"move_mount {target}",
    )


def new_mount(kind: str, source: str, options: tuple[str, ...]) -> int:
    """A detached mount of a new instance of a file system, nosuid and nodev, as a descriptor."""
    fs = _check(_libc.syscall(ctypes.c_long(_FSOPEN), kind.encode(), ctypes.c_uint(1)), "fsopen")
    try:
        _configure(fs, _FSCONFIG_SET_STRING, "source", source)
        for option in options:
            name, equals, value = option.partition("=")
            if equals:
                _configure(fs, _FSCONFIG_SET_STRING, name, value)
            else:
                _configure(fs, _FSCONFIG_SET_FLAG, name, None)
        _configure(fs, _FSCONFIG_CMD_CREATE, None, None)
        flags = ctypes.c_uint(MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV)
        return _check(
            _libc.syscall(ctypes.c_long(_FSMOUNT), ctypes.c_int(fs), ctypes.c_uint(1), flags),
            f"fsmount {kind} {source}",
        )
    finally:
        os.close(fs)


def _configure(fs: int, command: int, key: str | None, value: str | None) -> None:
    _check(
        _libc.syscall(
            ctypes.c_long(_FSCONFIG),
            ctypes.c_int(fs),
            ctypes.c_uint(command),
            key.encode() if key is not None else None,
            os.fsencode(value) if value is not None else None,
            ctypes.c_int(0),
        ),
        f"fsconfig {key or 'create'} {value or ''}".rstrip(),
    )
