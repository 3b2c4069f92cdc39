"""Files copied between a container and the machine, or as a tar, with the path rules of `docker cp`.

A container may change its files while they are copied. So each path of it is resolved by the kernel
within the container's root (openat2), and from there on everything goes by descriptors of folders
and names that are no links: whatever the container plants or swaps, no file outside is met.

Copied are files, folders, links and named pipes, with modes and times; devices and sockets are left
out, and so are extended attributes.
"""

import errno
import os
import posixpath
import stat
import tarfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from io import FileIO

from shipway.runtime.errors import CopyFailed
from shipway.runtime.images import tarwriter
from shipway.runtime.images.tarreader import Member, Readable, TarReader
from shipway.runtime.kernel import syscalls
from shipway.runtime.spec import IdRange

CHUNK = 1 << 20
DEEPEST = 1000  # folders within each other; each is held open
MOST_LINKS = 40
NOBODY = 65534
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_KINDS = {
    stat.S_IFREG: tarwriter.REGULAR,
    stat.S_IFDIR: tarwriter.DIRECTORY,
    stat.S_IFLNK: tarwriter.SYMLINK,
    stat.S_IFIFO: tarwriter.FIFO,
}


@dataclass(frozen=True)
class Side:
    """One side of a copy: the root within which its paths lie, and how it is called.

    `ids` are a container's: its ids 0 and up are the machine's from `ids.base` on.
    """

    root: int
    name: str
    ids: IdRange | None = None

    def show(self, path: str) -> str:
        """A path for messages."""
        return f"{self.name}:{path}" if self.name else path

    def from_host(self, number: int) -> int:
        """An id of this side, of what the machine says."""
        if self.ids is None:
            return number
        return number - self.ids.base if 0 <= number - self.ids.base < self.ids.size else NOBODY

    def to_host(self, number: int) -> int:
        """The machine's id for one of this side."""
        if self.ids is None:
            return number
        return self.ids.base + (number if 0 <= number < self.ids.size else NOBODY)

    def open(self, path: str) -> int:
        """A descriptor of what is at a path, for fstat and as a folder; links are followed."""
        relative = path.strip("/") or "."
        return syscalls.open_in_root(self.root, relative, os.O_PATH | os.O_CLOEXEC)


@contextmanager
def machine() -> Iterator[Side]:
    """The machine's own side."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Side(root, "")
    finally:
        os.close(root)


@dataclass(frozen=True)
class Entry:
    """One thing to copy. `parts` are its names below the target; ids are those of its side."""

    parts: tuple[bytes, ...]
    kind: bytes
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int = 0
    link: bytes = b""
    content: Iterable[bytes] = ()
    file: FileIO | None = None


@dataclass(frozen=True)
class Source:
    """What is copied: a name in an open folder; of a folder perhaps only its content."""

    parent: int
    name: bytes
    status: os.stat_result
    content_only: bool

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.status.st_mode)


def copy(
    source: Side, source_path: str, target: Side, target_path: str, follow: bool, keep_owner: bool
) -> None:
    """Copy a file or a folder with all below. Raises CopyFailed.

    With `follow` a link that `source_path` names is followed. With `keep_owner` ids are kept as the
    source has them, else all belongs to the target's root.
    """
    with ExitStack() as stack:
        found = _find_source(stack, source, source_path, follow)
        folder, top = _find_target(stack, target, target_path, found)
        # Closed by its end, also after an error: nothing of a container must stay open.
        with closing(_walk(source, found, top)) as entries:
            _write_all(target, target_path, folder, entries, keep_owner)


def pack(source: Side, path: str, follow: bool, output: Callable[[bytes], object]) -> None:
    """Write a tar of a file or a folder. Raises CopyFailed."""
    with ExitStack() as stack:
        found = _find_source(stack, source, path, follow)
        top = () if found.content_only else (found.name,)
        with _failing(source, path), closing(_walk(source, found, top)) as entries:
            for entry in entries:
                for piece in _tar(entry):
                    output(piece)
        output(tarwriter.END)


def unpack(stream: Readable, target: Side, path: str, keep_owner: bool) -> None:
    """Extract a tar into a folder that is there. Raises CopyFailed, InvalidArchive."""
    with ExitStack() as stack:
        with _failing(target, path):
            folder = _open(stack, target, path)
        if not stat.S_ISDIR(os.fstat(folder).st_mode):
            raise CopyFailed(f"{target.show(path)} is no folder; a tar needs one to go to")
        reader = TarReader(stream)
        entries = (entry for member in reader if (entry := _of_member(member, reader)))
        _write_all(target, path, folder, entries, keep_owner)


# -- where from and where to -----------------------------------------------------------------------


def _normal(path: str) -> str:
    """A container's path from its root on, as Docker takes it: without dots, by its words alone."""
    return posixpath.normpath("/" + path.lstrip("/"))


def _find_source(stack: ExitStack, side: Side, path: str, follow: bool) -> Source:
    clean = _normal(path)
    content_only = clean == "/" or path.endswith("/.")
    as_folder = content_only or path.endswith("/")
    with _failing(side, path):
        if follow or as_folder:
            clean = _behind_links(side, clean)
        parent = _open(stack, side, posixpath.dirname(clean))
        name = os.fsencode(posixpath.basename(clean) or ".")
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
    if as_folder and not stat.S_ISDIR(status.st_mode):
        raise CopyFailed(f"{side.show(path)} is no folder; leave out the slash at its end")
    if stat.S_IFMT(status.st_mode) not in _KINDS:
        raise CopyFailed(f"{side.show(path)} is a device or a socket, which cannot be copied")
    return Source(parent, name, status, content_only)


def _find_target(
    stack: ExitStack, side: Side, path: str, source: Source
) -> tuple[int, tuple[bytes, ...]]:
    """The folder to write into, and the name there (none: the content goes into the folder)."""
    with _failing(side, path):
        clean = _behind_links(side, _normal(path))
        try:
            found: int | None = _open(stack, side, clean)
        except FileNotFoundError:
            found = None
        parent = _open(stack, side, posixpath.dirname(clean))
        if not stat.S_ISDIR(os.fstat(parent).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    name = os.fsencode(posixpath.basename(clean))
    own = () if source.content_only else (source.name,)
    if found is not None and stat.S_ISDIR(os.fstat(found).st_mode):
        return found, own
    if source.is_folder:
        if found is not None:
            raise CopyFailed(f"{side.show(path)} is no folder, so no folder can be copied to it")
        return parent, (name,)
    if path.endswith(("/", "/.")):
        raise CopyFailed(f"{side.show(path)} is no folder that is there; leave out its last slash")
    return parent, (name,)


def _behind_links(side: Side, path: str) -> str:
    """The path that a link at the end of `path` stands for, through however many links."""
    for _ in range(MOST_LINKS):
        with ExitStack() as stack:
            parent = _open(stack, side, posixpath.dirname(path))
            try:
                link = os.readlink(posixpath.basename(path) or ".", dir_fd=parent)
            except OSError:
                return path
        path = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))


def _open(stack: ExitStack, side: Side, path: str) -> int:
    fd = side.open(path)
    stack.callback(os.close, fd)
    return fd


class _failing:  # noqa: N801 - reads as a word
    """OSErrors become CopyFailed, with the path that was meant."""

    def __init__(self, side: Side, path: str) -> None:
        self._what = side.show(path)

    def __enter__(self) -> None:
        return

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, BrokenPipeError):
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise CopyFailed(f"{self._what}: {reason}") from error


# -- reading ---------------------------------------------------------------------------------------


def _walk(side: Side, source: Source, top: tuple[bytes, ...]) -> Generator[Entry, None, None]:
    """The entries of a file or folder, each folder before what is in it. Each is open until the next."""
    with closing(_entries(side, source, top)) as entries:
        for entry in entries:
            try:
                yield entry
            finally:
                if entry.file is not None:
                    entry.file.close()


def _entries(side: Side, source: Source, top: tuple[bytes, ...]) -> Generator[Entry, None, None]:
    if not source.is_folder:
        entry = _entry(side, source.parent, source.name, top)
        if entry is not None:
            yield entry
        return
    stack: list[tuple[int, Iterator[bytes], tuple[bytes, ...]]] = []
    try:
        fd = os.open(source.name, _FOLDER, dir_fd=source.parent)
        stack.append((fd, _names(fd), top))
        if top:
            yield _described(side, os.fstat(fd), top)
        while stack:
            fd, names, parts = stack[-1]
            name = next(names, None)
            if name is None:
                os.close(stack.pop()[0])
                continue
            entry = _entry(side, fd, name, (*parts, name))
            if entry is None:
                continue
            yield entry
            if entry.kind == tarwriter.DIRECTORY:
                if len(stack) >= DEEPEST:
                    raise CopyFailed(f"folders lie within each other more than {DEEPEST} deep")
                try:
                    below = os.open(name, _FOLDER, dir_fd=fd)
                except OSError:
                    continue  # removed, or made something else, meanwhile
                stack.append((below, _names(below), entry.parts))
    finally:
        for fd, *_ in stack:
            os.close(fd)


def _names(fd: int) -> Iterator[bytes]:
    return iter(sorted(os.fsencode(name) for name in os.listdir(fd)))


def _entry(side: Side, parent: int, name: bytes, parts: tuple[bytes, ...]) -> Entry | None:
    """What is there now; None for what cannot be copied, and for what is gone."""
    try:
        status = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            file = open(os.open(name, _READ, dir_fd=parent), "rb", buffering=0)  # noqa: SIM115
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return None
            described = _described(side, status, parts)
            content = _content(file, status.st_size)
            return replace(described, size=status.st_size, content=content, file=file)
        if stat.S_ISLNK(status.st_mode):
            link = os.readlink(name, dir_fd=parent)
            return replace(_described(side, status, parts), link=link)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EINVAL):
            return None  # it was made something else meanwhile
        raise
    return _described(side, status, parts) if stat.S_IFMT(status.st_mode) in _KINDS else None


def _described(side: Side, status: os.stat_result, parts: tuple[bytes, ...]) -> Entry:
    return Entry(
        parts,
        _KINDS[stat.S_IFMT(status.st_mode)],
        stat.S_IMODE(status.st_mode),
        side.from_host(status.st_uid),
        side.from_host(status.st_gid),
        status.st_mtime_ns,
    )


def _content(file: FileIO, size: int) -> Iterator[bytes]:
    """Exactly so many bytes."""
    left = size
    while left:
        data = file.read(min(left, CHUNK))
        if not data:
            raise CopyFailed("a file was cut short while it was copied")
        left -= len(data)
        yield data


# -- tar -------------------------------------------------------------------------------------------


def _tar(entry: Entry) -> Iterator[bytes]:
    info = tarfile.TarInfo(os.fsdecode(b"/".join(entry.parts) or b"."))
    info.type = entry.kind
    info.mode = entry.mode
    info.uid, info.gid = entry.uid, entry.gid
    info.mtime = entry.mtime // 10**9
    info.size = entry.size
    info.linkname = os.fsdecode(entry.link)
    yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    yield from entry.content
    yield tarwriter.padding(entry.size)


def _of_member(member: Member, reader: TarReader) -> Entry | None:
    """A tar's member as an entry; None for devices. Raises CopyFailed for names that lead out."""
    parts = tuple(part for part in member.name.split(b"/") if part not in (b"", b"."))
    if b".." in parts:
        raise CopyFailed(f"the archive's name {os.fsdecode(member.name)!r} leads out of its folder")
    if member.kind not in (*_KINDS.values(), tarwriter.HARD_LINK) or not parts:
        return None
    return Entry(
        parts,
        member.kind,
        member.mode,
        member.uid,
        member.gid,
        member.mtime,
        member.size,
        member.link,
        reader.content(),
    )


# -- writing ---------------------------------------------------------------------------------------


def _write_all(
    side: Side, path: str, folder: int, entries: Iterator[Entry], keep_owner: bool
) -> None:
    root = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
    # What is made in a container's file system must belong to ids that it has.
    owner = (
        nullcontext()
        if side.ids is None
        else syscalls.as_file_owner(side.to_host(0), side.to_host(0))
    )
    with _failing(side, path), owner, closing(_Writer(side, root, keep_owner)) as writer:
        for entry in entries:
            writer.put(entry)


class _Writer:
    """Puts entries below a folder."""

    def __init__(self, side: Side, root: int, keep_owner: bool) -> None:
        self._side = side
        self._keep_owner = keep_owner
        self._open: list[tuple[bytes, int]] = [(b"", root)]  # the folders last written in
        self._times: dict[tuple[bytes, ...], Entry] = {}

    def close(self) -> None:
        """Give the folders their modes and times, and let go of all."""
        try:
            for parts, entry in reversed(self._times.items()):
                try:
                    self._finish(self._parent(parts), b".", entry)
                except OSError:
                    continue  # the container has taken it away again
        finally:
            for _, fd in self._open:
                os.close(fd)

    def put(self, entry: Entry) -> None:
        """Make what the entry says, in place of a file that may be there."""
        *folders, name = entry.parts
        parent = self._parent(tuple(folders))
        if entry.kind == tarwriter.DIRECTORY:
            self._make_folder(parent, name, entry)
            self._times[entry.parts] = entry
            return
        self._clear(parent, name, entry)
        if entry.kind == tarwriter.REGULAR:
            self._write(parent, name, entry)
            return
        if entry.kind == tarwriter.SYMLINK:
            os.symlink(entry.link, name, dir_fd=parent)
        elif entry.kind == tarwriter.FIFO:
            os.mkfifo(name, entry.mode, dir_fd=parent)
        else:
            self._link(parent, name, entry)
            return
        self._finish(parent, name, entry)

    def _parent(self, folders: tuple[bytes, ...]) -> int:
        """The folder, opened name by name without following links; made if the archive lacks it."""
        depth = 1
        while depth < len(self._open) and depth <= len(folders):
            if self._open[depth][0] != folders[depth - 1]:
                break
            depth += 1
        while len(self._open) > depth:
            os.close(self._open.pop()[1])
        for name in folders[depth - 1 :]:
            if len(self._open) > DEEPEST:
                raise CopyFailed(f"folders lie within each other more than {DEEPEST} deep")
            parent = self._open[-1][1]
            try:
                fd = os.open(name, _FOLDER, dir_fd=parent)
            except FileNotFoundError:
                os.mkdir(name, 0o755, dir_fd=parent)
                fd = os.open(name, _FOLDER, dir_fd=parent)
            self._open.append((name, fd))
        return self._open[-1][1]

    def _make_folder(self, parent: int, name: bytes, entry: Entry) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent)
        except FileExistsError:
            status = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                raise CopyFailed(f"{_shown(entry)} is there already and no folder") from None

    def _clear(self, parent: int, name: bytes, entry: Entry) -> None:
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except IsADirectoryError:
            raise CopyFailed(f"{_shown(entry)} is there already, as a folder") from None

    def _write(self, parent: int, name: bytes, entry: Entry) -> None:
        fd = os.open(name, _WRITE, 0o600, dir_fd=parent)
        try:
            with os.fdopen(fd, "wb", buffering=0, closefd=False) as file:
                for piece in entry.content:
                    view = memoryview(piece)
                    while view:
                        view = view[file.write(view) :]
            os.fchown(fd, *self._owner(entry))
            os.fchmod(fd, entry.mode)
            os.utime(fd, ns=(entry.mtime, entry.mtime))
        except BaseException:
            os.unlink(name, dir_fd=parent)
            raise
        finally:
            os.close(fd)

    def _link(self, parent: int, name: bytes, entry: Entry) -> None:
        """A second name for a file that the archive made before."""
        parts = [part for part in entry.link.split(b"/") if part not in (b"", b".")]
        if not parts or b".." in parts:
            raise CopyFailed(f"{_shown(entry)} is a hard link that leads out of its folder")
        held = os.dup(parent)
        try:
            source = self._parent(tuple(parts[:-1]))
            os.link(parts[-1], name, src_dir_fd=source, dst_dir_fd=held, follow_symlinks=False)
        finally:
            os.close(held)

    def _finish(self, parent: int, name: bytes, entry: Entry) -> None:
        """Owner, mode and times of what is no file."""
        uid, gid = self._owner(entry)
        os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
        if entry.kind == tarwriter.DIRECTORY:
            os.fchmod(parent, entry.mode)
        os.utime(name, ns=(entry.mtime, entry.mtime), dir_fd=parent, follow_symlinks=False)

    def _owner(self, entry: Entry) -> tuple[int, int]:
        if not self._keep_owner:
            return self._side.to_host(0), self._side.to_host(0)
        return self._side.to_host(entry.uid), self._side.to_host(entry.gid)


def _shown(entry: Entry) -> str:
    return os.fsdecode(b"/".join(entry.parts))
