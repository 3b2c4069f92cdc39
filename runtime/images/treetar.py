"""A directory as a deterministic tar: one read pass that also brings the disk in line with the tar.

The same tree gives the same bytes whatever its times and the order on disk. The tree is taken
over: times become FIXED_TIME on disk as well, and overlayfs's private marks are cleaned, so
that a second pass over the same directory gives the same digest. Python's compiled files must
not depend on their source's time: compile them with `--invalidation-mode unchecked-hash`.
"""

import os
import shutil
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from shipway.runtime.errors import InvalidTree
from shipway.runtime.ids import shift
from shipway.runtime.images import tarwriter, whiteouts
from shipway.runtime.spec import IdRange

CHUNK = 1 << 20
_TIMES = (tarwriter.FIXED_TIME * 10**9, tarwriter.FIXED_TIME * 10**9)


def tree_tar(
    root: str,
    settle: bool = True,
    own_times: bool = False,
    without: Collection[bytes] = (),
    ids: IdRange | None = None,
) -> Iterator[bytes]:
    """The tar of what is below `root`, in pieces of about CHUNK bytes; `root` itself is not in it.

    With `settle` false nothing on disk is changed. With `own_times` the tar has the files' own
    times, in seconds. Paths in `without` are left out. With `ids` the tree has the machine's ids of
    that range, and the tar the container's own. Raises InvalidTree for what no layer can hold. Needs
    root's rights for whiteouts and xattrs.
    """
    if settle:
        os.chmod(root, 0o755)  # noqa: S103 - the root of a file system is for all to enter
        os.chown(root, 0, 0)
    move = shift.to_container(ids) if ids else None
    walk = _Walk(os.fsencode(root), settle, own_times, without, move)
    pieces: list[bytes] = []
    size = 0
    for piece in walk.pieces():
        pieces.append(piece)
        size += len(piece)
        if size >= CHUNK:
            yield b"".join(pieces)
            pieces, size = [], 0
    yield b"".join((*pieces, tarwriter.END))


@dataclass(slots=True)
class _Inode:
    """A file with several names: the first is its place in the tar, the others are links."""

    first: bytes
    links: int
    names: list[bytes] = field(default_factory=list)


class _Walk:
    def __init__(
        self,
        root: bytes,
        settle: bool,
        own_times: bool,
        without: Collection[bytes],
        move: shift.Move | None,
    ) -> None:
        self._root = root
        self._settle = settle
        self._own_times = own_times
        self._without = without
        self._move = move
        self._inodes: dict[int, _Inode] = {}

    def pieces(self) -> Iterator[bytes]:
        """Headers, contents and paddings, in order."""
        if whiteouts.is_opaque(whiteouts.overlay_flags(_xattrs(self._root))):
            yield _whiteout(whiteouts.OPAQUE_NAME)
        stack = [(b"", iter(self._entries(b"")))]  # not recursion: a tree may be deep
        while stack:
            directory, entries = stack[-1]
            for name, status in entries:
                yield from self._entry(name, status)
                if stat.S_ISDIR(status.st_mode):
                    stack.append((name + b"/", iter(self._entries(name + b"/"))))
                    break
            else:
                self._fix_times(self._root + b"/" + directory)
                stack.pop()
        if self._settle:
            self._unshare()

    def _entries(self, directory: bytes) -> list[tuple[bytes, os.stat_result]]:
        """Names (paths inside the tree) with their status, whiteouts first, then by bytes."""
        found = []
        try:
            with os.scandir(self._root + b"/" + directory) as scan:
                for entry in scan:
                    status = entry.stat(follow_symlinks=False)
                    found.append((not stat.S_ISCHR(status.st_mode), entry.name, status))
        except OSError as error:
            raise InvalidTree(f"cannot read {_show(directory)}: {error.strerror}") from error
        found.sort(key=lambda item: item[:2])
        entries = [(directory + name, status) for _, name, status in found]
        if self._without:
            return [entry for entry in entries if entry[0] not in self._without]
        return entries

    def _entry(self, name: bytes, status: os.stat_result) -> Iterator[bytes]:
        path = self._root + b"/" + name
        xattrs = _xattrs(path)
        flags = whiteouts.overlay_flags(xattrs)
        base = name.rpartition(b"/")[2]
        if base.startswith(whiteouts.PREFIX):
            raise InvalidTree(f"{_show(name)}: a layer cannot hold names that begin with .wh.")
        if whiteouts.is_elsewhere(flags):
            raise InvalidTree(f"{_show(name)}: the overlay left its content in a lower layer")
        if whiteouts.is_whiteout(status, flags):
            if self._settle:
                _settle_whiteout(path, status)
            yield _whiteout(name[: len(name) - len(base)] + whiteouts.PREFIX + base)
            return
        if flags and self._settle:
            _settle_flags(path, xattrs, flags)
        yield from self._portable(name, path, status, whiteouts.portable(xattrs))
        if whiteouts.is_opaque(flags):
            yield _whiteout(name + b"/" + whiteouts.OPAQUE_NAME)

    def _portable(
        self, name: bytes, path: bytes, status: os.stat_result, xattrs: Mapping[str, bytes]
    ) -> Iterator[bytes]:
        kind = stat.S_IFMT(status.st_mode)
        if kind == stat.S_IFREG:
            yield from self._file(name, path, status, xattrs)
        elif kind == stat.S_IFDIR:
            yield self._header(name + b"/", tarwriter.DIRECTORY, status, xattrs=xattrs)
        elif kind == stat.S_IFLNK:
            link = os.readlink(path)
            yield self._header(name, tarwriter.SYMLINK, status, link=link, xattrs=xattrs)
            self._fix_times(path)
        elif kind == stat.S_IFIFO:
            yield self._header(name, tarwriter.FIFO, status, xattrs=xattrs)
            self._fix_times(path)
        elif kind == stat.S_IFSOCK:
            if self._settle:
                os.unlink(path)  # its process is gone, and tar has no type for it
        else:
            raise InvalidTree(f"{_show(name)} is a device; a layer holds files, links and folders")

    def _file(
        self, name: bytes, path: bytes, status: os.stat_result, xattrs: Mapping[str, bytes]
    ) -> Iterator[bytes]:
        if status.st_nlink > 1:
            inode = self._inodes.setdefault(status.st_ino, _Inode(name, status.st_nlink))
            inode.names.append(name)
            if inode.first != name:
                yield self._header(name, tarwriter.HARD_LINK, status, link=inode.first)
                return
        size = status.st_size
        yield self._header(name, tarwriter.REGULAR, status, size=size, xattrs=xattrs)
        if size:
            yield from _content(path, size, name)
            yield tarwriter.padding(size)
        self._fix_times(path)

    def _header(
        self,
        name: bytes,
        kind: bytes,
        status: os.stat_result,
        *,
        size: int = 0,
        link: bytes = b"",
        xattrs: Mapping[str, bytes] | None = None,
    ) -> bytes:
        uid, gid = status.st_uid, status.st_gid
        if self._move is not None:
            uid, gid = self._move(uid), self._move(gid)
            xattrs = _moved(xattrs or {}, self._move)
        return tarwriter.header(
            name,
            kind,
            mode=0o777 if kind == tarwriter.SYMLINK else stat.S_IMODE(status.st_mode),
            uid=uid,
            gid=gid,
            size=size,
            link=link,
            xattrs=xattrs,
            mtime=int(status.st_mtime) if self._own_times else tarwriter.FIXED_TIME,
        )

    def _fix_times(self, path: bytes) -> None:
        if self._settle:
            os.utime(path, ns=_TIMES, follow_symlinks=False)

    def _unshare(self) -> None:
        """Copy files that also have a name outside the tree: a later write there must not show."""
        for inode in self._inodes.values():
            if len(inode.names) == inode.links:
                continue
            first, *others = (self._root + b"/" + name for name in inode.names)
            spare = first + b".unshared"
            status = os.stat(first)
            shutil.copyfile(first, spare)
            os.chown(spare, status.st_uid, status.st_gid)
            shutil.copystat(first, spare)
            os.rename(spare, first)
            for other in others:
                os.link(first, spare)
                os.rename(spare, other)
            for path in (first, *others):
                self._fix_times(path.rpartition(b"/")[0])


def _content(path: bytes, size: int, name: bytes) -> Iterator[bytes]:
    left = size
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while left:
            data = os.read(descriptor, min(left, CHUNK))
            if not data:
                raise InvalidTree(f"{_show(name)} changed while it was being read")
            left -= len(data)
            yield data
    finally:
        os.close(descriptor)


def _whiteout(name: bytes) -> bytes:
    return tarwriter.header(name, tarwriter.REGULAR, mode=0o644, uid=0, gid=0)


def _xattrs(path: bytes) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def _moved(xattrs: Mapping[str, bytes], move: shift.Move) -> dict[str, bytes]:
    return {name: shift.moved_mark(name, value, move) for name, value in xattrs.items()}


def _settle_whiteout(path: bytes, status: os.stat_result) -> None:
    """The plain kind of whiteout, which every overlay understands."""
    if stat.S_ISREG(status.st_mode):
        os.unlink(path)
        os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))
    os.utime(path, ns=_TIMES, follow_symlinks=False)


def _settle_flags(path: bytes, xattrs: Mapping[str, bytes], flags: Mapping[str, bytes]) -> None:
    """Drop overlayfs's bookkeeping of the mount that wrote this, but for opaqueness."""
    for name in xattrs:
        if ".overlay." in name and name != whiteouts.OPAQUE_XATTR:
            os.removexattr(path, name, follow_symlinks=False)
    if whiteouts.is_opaque(flags):
        os.setxattr(path, whiteouts.OPAQUE_XATTR, b"y", follow_symlinks=False)
    elif whiteouts.OPAQUE_XATTR in xattrs:
        os.removexattr(path, whiteouts.OPAQUE_XATTR, follow_symlinks=False)


def _show(name: bytes) -> str:
    return name.decode(errors="backslashreplace") or "the tree's top"
