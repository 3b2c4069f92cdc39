"""Safe extraction of a tar that nobody vouches for, into an empty directory.

Every parent is opened one name at a time without following links, so no entry can be written
outside the destination, whatever links the archive made before. Two kinds of archive:

- an app's source (the default): owners, times and modes are made plain, xattrs are dropped;
- an image layer (`layer=True`): all attributes are kept, `.wh.` names become whiteouts.

Refused in both: `..`, absolute names, parents that are links, hard links to anything but a file
of the archive, devices, and a second entry of one name (but for directories). A layer's devices
below /dev are passed over: every container gets a /dev of its own, and no other may be there.
"""

import errno
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from shipway.runtime.errors import ArchiveTooLarge, InvalidArchive, UnsafeArchive
from shipway.runtime.images import tarwriter, whiteouts
from shipway.runtime.images.tarreader import Member, Readable, TarReader

_FIXED = tarwriter.FIXED_TIME * 10**9
# what the kernel says of names, links and xattrs that cannot be; a full disk is not among them
_ODD = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENAMETOOLONG, errno.E2BIG, errno.ERANGE)
_MAX_ID = (1 << 32) - 2
_DEVICES = (tarwriter.CHARACTER, tarwriter.BLOCK_DEVICE)
_PARENT = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """What an archive may hold: bytes of content in all, entries, bytes of one name, folder depth."""

    size: int = 2 << 30
    entries: int = 200_000
    name: int = 4000
    depth: int = 100


def unpack_tar(
    stream: Readable,
    dest: Path,
    limits: UnpackLimits,
    uid: int | None = None,
    gid: int | None = None,
    layer: bool = False,
) -> int:
    """Extract into `dest`, which must be empty; gives the bytes of content.

    Raises InvalidArchive, UnsafeArchive or ArchiveTooLarge; what was extracted is then left there.
    """
    root = os.open(dest, _PARENT & ~os.O_NOFOLLOW)
    try:
        return _Unpacking(root, limits, uid, gid, layer).run(stream)
    finally:
        os.close(root)


class _Unpacking:
    def __init__(
        self, root: int, limits: UnpackLimits, uid: int | None, gid: int | None, layer: bool
    ) -> None:
        self._root = root
        self._limits = limits
        self._uid = uid
        self._gid = gid
        self._layer = layer
        self._open: list[tuple[bytes, int]] = []  # the chain of parents last used, outermost first
        self._times: dict[tuple[bytes, ...], int] = {}  # directories get theirs at the end
        self._hidden: set[tuple[bytes, ...]] = set()
        # A new file is ours, root's, unless a folder gives its own group on.
        above = os.fstat(root)
        ours = os.geteuid() == os.getegid() == 0
        self._must_own = not ours or bool(gid or above.st_gid or above.st_mode & stat.S_ISGID)

    def run(self, stream: Readable) -> int:
        reader = TarReader(stream)
        total = 0
        try:
            for count, member in enumerate(reader, 1):
                total += member.size
                self._check_limits(count, total)
                self._extract(member, reader)
            for parts, mtime in reversed(self._times.items()):
                os.utime(self._parent(parts), ns=(mtime, mtime))
        except (OverflowError, ValueError) as error:
            raise InvalidArchive(f"the archive has a header with an odd value: {error}") from error
        except OSError as error:
            if error.errno not in _ODD:
                raise
            raise InvalidArchive(f"the archive holds what no file can: {error.strerror}") from error
        finally:
            self._close(0)
        return total

    def _check_limits(self, count: int, total: int) -> None:
        if count > self._limits.entries:
            raise ArchiveTooLarge(f"the archive has more than {self._limits.entries} entries")
        if total > self._limits.size:
            raise ArchiveTooLarge(f"the archive has more than {self._limits.size} bytes of files")

    def _extract(self, member: Member, reader: TarReader) -> None:
        parts = self._parts(member.name)
        if not parts:
            if member.kind != tarwriter.DIRECTORY:
                raise UnsafeArchive("the archive has an entry without a name")
            return
        parent, name = self._parent(parts[:-1]), parts[-1]
        if name.startswith(whiteouts.PREFIX):
            self._whiteout(parent, parts, member)
            return
        if member.kind in _DEVICES and self._layer and parts[0] == b"dev":
            return
        hidden = parts in self._hidden
        if hidden:  # the layer's own entry wins
            self._hidden.discard(parts)
            os.unlink(name, dir_fd=parent)
        try:
            self._create(member, parts, parent, reader)
        except FileExistsError:
            raise UnsafeArchive(f"the archive has two entries named {_show(member.name)}") from None
        if hidden and member.kind == tarwriter.DIRECTORY:
            os.setxattr(self._parent(parts), whiteouts.OPAQUE_XATTR, b"y")

    def _create(
        self, member: Member, parts: tuple[bytes, ...], parent: int, reader: TarReader
    ) -> None:
        name = parts[-1]
        if member.kind == tarwriter.REGULAR:
            descriptor = os.open(name, _CREATE, 0o600, dir_fd=parent)
            try:
                for piece in reader.content():
                    _write(descriptor, piece)
                self._attributes(descriptor, member)
            finally:
                os.close(descriptor)
        elif member.kind == tarwriter.DIRECTORY:
            self._directory(member, parts, parent)
        elif member.kind == tarwriter.SYMLINK:
            if not member.link:
                raise InvalidArchive(f"{_show(member.name)} is a link to nothing")
            os.symlink(member.link, name, dir_fd=parent)
            self._own(member, name, parent)
        elif member.kind == tarwriter.HARD_LINK:
            self._hard_link(member, parts)
        elif member.kind == tarwriter.FIFO and self._layer:
            os.mkfifo(name, member.mode, dir_fd=parent)
            os.chmod(name, member.mode, dir_fd=parent)
            self._own(member, name, parent)
        else:
            raise UnsafeArchive(f"{_show(member.name)} is a device or of an unknown kind")

    def _directory(self, member: Member, parts: tuple[bytes, ...], parent: int) -> None:
        try:
            os.mkdir(parts[-1], 0o700, dir_fd=parent)
        except FileExistsError:
            status = os.stat(parts[-1], dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                raise
        self._must_own = self._must_own or bool(member.mode & stat.S_ISGID or member.gid)
        self._attributes(self._parent(parts), member)
        if self._layer:
            self._times[parts] = member.mtime

    def _hard_link(self, member: Member, parts: tuple[bytes, ...]) -> None:
        source = self._parts(member.link)
        if not source or source[-1].startswith(whiteouts.PREFIX):
            raise UnsafeArchive(f"{_show(member.name)} is a hard link to {_show(member.link)}")
        from_parent = os.dup(self._parent(source[:-1], create=False))
        try:
            status = os.stat(source[-1], dir_fd=from_parent, follow_symlinks=False)
            if not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
                raise UnsafeArchive(f"{_show(member.name)} is a hard link to something not a file")
            os.link(
                source[-1],
                parts[-1],
                src_dir_fd=from_parent,
                dst_dir_fd=self._parent(parts[:-1]),
                follow_symlinks=False,
            )
        except FileNotFoundError:
            raise UnsafeArchive(
                f"{_show(member.name)} is a hard link to {_show(member.link)}, which is not there"
            ) from None
        finally:
            os.close(from_parent)

    def _whiteout(self, parent: int, parts: tuple[bytes, ...], member: Member) -> None:
        name = parts[-1]
        if not self._layer:
            raise UnsafeArchive(
                f"{_show(member.name)}: names that begin with .wh. are not supported"
            )
        if name == whiteouts.OPAQUE_NAME:
            os.setxattr(parent, whiteouts.OPAQUE_XATTR, b"y")
            return
        target = name.removeprefix(whiteouts.PREFIX)
        if not target or target in (b".", b"..") or target.startswith(whiteouts.PREFIX):
            raise UnsafeArchive(f"{_show(member.name)} hides nothing")
        try:
            whiteouts.make_whiteout(target, parent)
            self._hidden.add((*parts[:-1], target))
            self._own(member, target, parent)
        except FileExistsError:
            if (*parts[:-1], target) in self._hidden:
                raise UnsafeArchive(f"the archive hides {_show(target)} twice") from None
            # The layer has an entry of that name too, and a whiteout never hides its own layer's.
            status = os.stat(target, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                descriptor = os.open(target, _PARENT, dir_fd=parent)
                try:
                    os.setxattr(descriptor, whiteouts.OPAQUE_XATTR, b"y")
                finally:
                    os.close(descriptor)

    def _attributes(self, descriptor: int, member: Member) -> None:
        """Owner first, since a change of owner drops set-id bits and capabilities."""
        owner = self._owner(member)
        if self._must_own or owner != (0, 0):
            os.fchown(descriptor, *owner)
        if self._layer:
            os.fchmod(descriptor, member.mode)
            if member.xattrs:
                for name, value in whiteouts.portable(member.xattrs).items():
                    os.setxattr(descriptor, name, value)
            os.utime(descriptor, ns=(member.mtime, member.mtime))
            return
        plain = member.kind == tarwriter.DIRECTORY or member.mode & 0o111
        os.fchmod(descriptor, 0o755 if plain else 0o644)
        os.utime(descriptor, ns=(_FIXED, _FIXED))

    def _own(self, member: Member, name: bytes, parent: int) -> None:
        owner = self._owner(member)
        if self._must_own or owner != (0, 0):
            os.chown(name, *owner, dir_fd=parent, follow_symlinks=False)
        mtime = member.mtime if self._layer else _FIXED
        os.utime(name, ns=(mtime, mtime), dir_fd=parent, follow_symlinks=False)

    def _owner(self, member: Member) -> tuple[int, int]:
        uid = member.uid if self._uid is None else self._uid
        gid = member.gid if self._gid is None else self._gid
        if uid > _MAX_ID or gid > _MAX_ID:
            raise InvalidArchive(f"{_show(member.name)} has an owner that cannot be")
        return uid, gid

    def _parts(self, name: bytes) -> tuple[bytes, ...]:
        if name.startswith(b"/"):
            raise UnsafeArchive(f"{_show(name)} is an absolute name")
        if b"\0" in name or len(name) > self._limits.name:
            raise UnsafeArchive(f"{_show(name[:80])}… is no name for a file")
        parts = tuple(part for part in name.split(b"/") if part not in (b"", b"."))
        if b".." in parts:
            raise UnsafeArchive(f"{_show(name)} leads out of the archive")
        if len(parts) > self._limits.depth:
            raise ArchiveTooLarge(f"{_show(name[:80])}… is too deep")
        if any(len(part) > 255 for part in parts):
            raise UnsafeArchive(f"{_show(name[:80])}… has a part of more than 255 bytes")
        return parts

    def _parent(self, parts: tuple[bytes, ...], create: bool = True) -> int:
        """A descriptor of that directory, which stays open until another branch is asked for."""
        shared = 0
        for (known, _), part in zip(self._open, parts, strict=False):
            if known != part:
                break
            shared += 1
        self._close(shared)
        for part in parts[shared:]:
            above = self._open[-1][1] if self._open else self._root
            if parts[: shared + 1] in self._hidden:
                self._uncover(parts[: shared + 1], above)
            self._open.append((part, self._step(part, above, create)))
            shared += 1
        return self._open[-1][1] if self._open else self._root

    def _uncover(self, parts: tuple[bytes, ...], above: int) -> None:
        """Make a folder in place of a whiteout: the layer's own folder, and only that, is seen."""
        self._hidden.discard(parts)
        os.unlink(parts[-1], dir_fd=above)
        descriptor = self._step(parts[-1], above, create=True)
        os.setxattr(descriptor, whiteouts.OPAQUE_XATTR, b"y")
        os.close(descriptor)

    def _step(self, part: bytes, above: int, create: bool) -> int:
        try:
            return os.open(part, _PARENT, dir_fd=above)
        except FileNotFoundError:
            if not create:
                raise UnsafeArchive(f"the archive links to {_show(part)}/…, not in it") from None
        except OSError as error:
            raise UnsafeArchive(
                f"the archive writes below {_show(part)}, which is no folder of it"
            ) from error
        if part.startswith(whiteouts.PREFIX):
            raise UnsafeArchive(f"{_show(part)}: names that begin with .wh. are not supported")
        os.mkdir(part, 0o755, dir_fd=above)
        descriptor = os.open(part, _PARENT, dir_fd=above)
        os.fchmod(descriptor, 0o755)
        os.fchown(descriptor, self._uid or 0, self._gid or 0)
        return descriptor

    def _close(self, keep: int) -> None:
        while len(self._open) > keep:
            os.close(self._open.pop()[1])


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _show(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
