"""An archive of an app's files becomes a commit in its repository, so that all that holds for pushes holds for it.

Nothing is unpacked on disk: files go from the archive into git's object store, under names that were checked.
"""

import bz2
import contextlib
import gzip
import io
import lzma
import os
import posixpath
import secrets
import stat
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from shipway.platform.errors import InvalidInput
from shipway.platform.repos import BUILD_REFS, MOST_FILES, GitFailed, Repos, environment

LARGEST_HEADER = 1 << 20  # bytes of one member's long names and attributes
LONGEST_PATH = 4096
CHUNK = 1 << 20
SLACK = 4  # times as much may be unpacked as the files may have: there are headers, and hard links
MAGIC: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
DAMAGE = (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, zlib.error, lzma.LZMAError)
_EXPECTED = "expected a tar (plain, or packed by gzip, bzip2 or xz) or a zip"


class BadArchive(InvalidInput):
    """An archive that cannot be taken; nothing of it is kept."""


@dataclass(frozen=True)
class Entry:
    """A file or link of an archive: `path` is normal and relative, `mode` is git's."""

    path: bytes
    mode: str
    size: int
    open: Callable[[], IO[bytes]]


def is_image(path: Path, most: int) -> bool:
    """Whether the archive is one of container images, as `docker save` and OCI layouts are.

    At most about `most` bytes of it are unpacked. Raises BadArchive.
    """
    if _is_zip(path):
        return False
    names: set[str] = set()
    with _tar(path, most) as tar:
        for number, member in enumerate(_members(tar)):
            names.add(posixpath.normpath(member.name))
            if {"oci-layout", "index.json"} <= names:
                return True
            if "manifest.json" in names and any(
                name.startswith("blobs/sha256/") or name.endswith("/layer.tar") for name in names
            ):
                return True
            if number > MOST_FILES:
                break
    return False


def commit(repos: Repos, app: str, path: Path, author: str, now: float, most: int) -> str:
    """Make a commit of the archive's files, at most `most` bytes of them; its id.

    One folder that holds all the rest is taken for the root, as in archives of repositories.
    Raises BadArchive, GitFailed.
    """
    ref = f"{BUILD_REFS}import-{secrets.token_hex(8)}"
    folder = repos.path(app)
    argv = ["git", f"--git-dir={folder}", "fast-import", "--quiet", "--done", "--force"]
    git = subprocess.Popen(
        argv,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        with git:
            assert git.stdin
            assert git.stderr
            try:
                _feed(git.stdin, path, ref, author, now, most)
            except BrokenPipeError:
                pass
            except BaseException:
                git.kill()
                with contextlib.suppress(BrokenPipeError):
                    git.stdin.close()
                raise
            with contextlib.suppress(BrokenPipeError):
                git.stdin.close()
            complaint = git.stderr.read().decode(errors="replace").strip().splitlines()
        if git.returncode:
            raise GitFailed(f"git cannot take the archive: {complaint[:1]}")
        return repos.only_folder_as_root(app, ref, author, now)
    finally:
        repos.drop(app, ref)


def _feed(target: IO[bytes], path: Path, ref: str, author: str, now: float, most: int) -> None:
    name = "".join(each for each in author if each.isalnum() or each in "-_.@") or "somebody"
    text = b"Archive\n"
    target.write(
        f"commit {ref}\ncommitter {name} <{name}> {int(now)} +0000\ndata {len(text)}\n".encode()
        + text
        + b"\n"
    )
    total = count = 0
    for entry in _entries(path, most):
        count += 1
        total += entry.size
        if count > MOST_FILES:
            raise BadArchive(f"The archive has more than {MOST_FILES} files.")
        if total > most:
            raise BadArchive(f"The archive's files have more than {most >> 20} MB together.")
        target.write(f"M {entry.mode} inline ".encode() + _quoted(entry.path) + b"\n")
        target.write(f"data {entry.size}\n".encode())
        _copy(entry, target)
        target.write(b"\n")
    if not count:
        raise BadArchive("The archive holds no files.")
    target.write(b"done\n")


def _copy(entry: Entry, target: IO[bytes]) -> None:
    left = entry.size
    with entry.open() as source:
        while left:
            data = source.read(min(CHUNK, left))
            if not data:
                _refuse(entry.path, "is cut short")
            target.write(data)
            left -= len(data)


def _quoted(path: bytes) -> bytes:
    """A path as fast-import reads it, whatever bytes are in it."""
    plain = b"".join(
        bytes([each]) if 32 <= each < 127 and each not in b'"\\' else b"\\%03o" % each
        for each in path
    )
    return b'"' + plain + b'"'


# -- what is in it --------------------------------------------------------------------------------


def _entries(path: Path, most: int) -> Iterator[Entry]:
    yield from _zip_entries(path) if _is_zip(path) else _tar_entries(path, most)


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")


class _Bounded(tarfile.TarInfo):
    """A member whose own headers are not read into memory whatever size they claim."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        headers = (
            *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
            *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
        )
        if self.type in headers and not 0 <= self.size <= LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size} bytes")
        found: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        return found


class _Limited:
    """A packed stream of which only so many bytes are unpacked: to skip a file, or go back, costs as well."""

    def __init__(self, stream: Any, most: int) -> None:
        self._stream = stream
        self._left = most
        self.tell = stream.tell

    def read(self, size: int) -> bytes:
        data: bytes = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise EOFError("it holds far more than it may")
        return data

    def seek(self, target: int) -> int:
        """As a file's, but whatever lies on the way is read."""
        if target < self.tell():
            self._stream.seek(0)
        while (ahead := target - self.tell()) > 0 and self.read(min(CHUNK, ahead)):
            pass
        return int(self.tell())


@contextlib.contextmanager
def _tar(path: Path, most: int) -> Iterator[tarfile.TarFile]:
    with path.open("rb") as file:
        head = file.read(6)
    opener = next((each for magic, each in MAGIC.items() if head.startswith(magic)), None)
    try:
        with opener(path) if opener else path.open("rb") as stream:
            source: Any = _Limited(stream, SLACK * most) if opener else stream
            with tarfile.TarFile(
                fileobj=source, tarinfo=_Bounded, errors="surrogateescape", errorlevel=2
            ) as tar:
                yield tar
    except DAMAGE as error:
        raise BadArchive(f"The archive cannot be read ({error}): {_EXPECTED}.") from None


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Each member, forgotten once it was used: an archive may have a great many."""
    while (member := tar.next()) is not None:
        yield member
        tar.members.clear()  # type: ignore[attr-defined]


def _tar_entries(path: Path, most: int) -> Iterator[Entry]:
    links: list[tuple[bytes, bytes]] = []
    regular: dict[bytes, tuple[int, int, str]] = {}
    with _tar(path, most) as tar:
        for member in _members(tar):
            name = os.fsencode(member.name)
            if member.isdir() or member.type == tarfile.XGLTYPE:
                continue
            checked = _path(name)
            if member.islnk():
                links.append((checked, _path(os.fsencode(member.linkname))))
            elif member.issym():
                yield _link(checked, os.fsencode(member.linkname))
            elif member.isreg():
                mode = "100755" if member.mode & 0o100 else "100644"
                regular[checked] = (member.offset_data, member.size, mode)
                yield Entry(checked, mode, member.size, _opener(tar, member))
            else:
                _refuse(name, "is a device, a pipe or a socket, which no app has")
        for new, old in links:
            if old not in regular:
                _refuse(new, "is a hard link to a file that the archive lacks")
            offset, size, mode = regular[old]
            again = tarfile.TarInfo()
            again.size, again.offset_data = size, offset
            yield Entry(new, mode, size, _opener(tar, again))


def _opener(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Callable[[], IO[bytes]]:
    def open_() -> IO[bytes]:
        found = tar.extractfile(member)
        assert found is not None
        return found

    return open_


def _zip_entries(path: Path) -> Iterator[Entry]:
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.is_dir():
                    continue
                # Names without the flag for UTF-8 are read as code page 437; its bytes were meant.
                raw = member.filename.encode("utf-8" if member.flag_bits & 0x800 else "cp437")
                name = _path(raw)
                mode = member.external_attr >> 16 if member.create_system == 3 else 0
                if member.flag_bits & 1:
                    _refuse(raw, "is encrypted")
                if stat.S_ISLNK(mode):
                    if member.file_size > LONGEST_PATH:
                        _refuse(raw, "is a link of too many characters")
                    yield _link(name, archive.read(member))
                elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                    _refuse(raw, "is a device, a pipe or a socket, which no app has")
                else:
                    executable = "100755" if mode & 0o100 else "100644"
                    yield Entry(name, executable, member.file_size, _zip_opener(archive, member))
    except (*DAMAGE, NotImplementedError, RuntimeError) as error:
        raise BadArchive(f"The archive cannot be read ({error}): {_EXPECTED}.") from None


def _zip_opener(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: archive.open(member)


def _link(path: bytes, target: bytes) -> Entry:
    if not target or len(target) > LONGEST_PATH or b"\0" in target:
        _refuse(path, "is a link that leads nowhere")
    return Entry(path, "120000", len(target), lambda: io.BytesIO(target))


def _path(name: bytes) -> bytes:
    """A member's path without `./`. Raises BadArchive for one that leaves, or is git's own."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if name.startswith(b"/") or b".." in parts:
        _refuse(name, "leads out of the archive")
    if not parts or b"\0" in name or len(name) > LONGEST_PATH:
        _refuse(name, "is no path of a file")
    if any(part.lower() == b".git" for part in parts):
        _refuse(name, "is git's own; send the app's files without it")
    return b"/".join(parts)


def _refuse(name: bytes, why: str) -> NoReturn:
    shown = ascii(os.fsdecode(name[:120]))
    raise BadArchive(f"The archive's {shown} {why}.")
