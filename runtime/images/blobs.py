"""The blobs of an OCI image layout: content by digest, complete or absent, never half written.

Files: `oci-layout`, `index.json`, `blobs/sha256/<hex>`, and of our own `.lock` and `.staging/`.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from shipway.runtime import files
from shipway.runtime.errors import DamagedBlob, InvalidReference, StoreFull
from shipway.runtime.files import random_name

CHUNK = 1 << 20
STALE = 60.0  # seconds after which an unlocked leftover belongs to nobody
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LAYOUT = json.dumps({"imageLayoutVersion": "1.0.0"}).encode()


def is_digest(text: str) -> bool:
    """Whether `text` is a whole sha256 digest."""
    return _DIGEST.fullmatch(text) is not None


def hex_of(digest: str) -> str:
    """The hex part, safe as a file name. Raises InvalidReference."""
    if not is_digest(digest):
        raise InvalidReference(f"{digest!r} is no digest; one looks like sha256: and 64 hex digits")
    return digest.removeprefix("sha256:")


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk below `path` into StoreFull."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreFull(f"no space is left on the disk of {path}; free some there") from error
        if error.errno == errno.EROFS:
            raise StoreFull(f"the disk of {path} is read-only; mount it writable") from error
        raise


@dataclass(frozen=True, slots=True)
class Incoming:
    """A blob that is written whole, durably, and is not in its place yet."""

    path: Path
    digest: str
    size: int


class BlobStore:
    """Blobs below one layout folder, which is made if it is not there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "blobs" / "sha256"
        self._staging = root / ".staging"
        with disk_errors(root):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._staging.mkdir(mode=0o700, exist_ok=True)
            if not (root / "oci-layout").exists():
                files.atomic_write(root / "oci-layout", _LAYOUT, mode=0o644)

    def lock(self) -> AbstractContextManager[None]:
        """Held while names appear or vanish: index entries, and blobs or layers as they are placed."""
        return files.locked(self.root / ".lock")

    def path(self, digest: str) -> Path:
        """Where the blob is, or would be."""
        return self.folder / hex_of(digest)

    def size(self, digest: str) -> int:
        """Bytes of the blob. Raises DamagedBlob when it is missing."""
        path = self.path(digest)
        try:
            return path.stat().st_size
        except FileNotFoundError:
            raise DamagedBlob(digest, path, "is missing") from None

    def read(self, digest: str) -> bytes:
        """A small blob, checked against its digest. Raises DamagedBlob."""
        path = self.path(digest)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise DamagedBlob(digest, path, "is missing") from None
        if digest_of(data) != digest:
            raise DamagedBlob(digest, path, "does not match its digest")
        return data

    def verify(self, digest: str) -> int:
        """Read the whole blob; gives its size. Raises DamagedBlob."""
        path = self.path(digest)
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
                size = file.tell()
        except FileNotFoundError:
            raise DamagedBlob(digest, path, "is missing") from None
        except OSError as error:
            raise DamagedBlob(digest, path, f"cannot be read ({error.strerror})") from error
        if f"sha256:{found}" != digest:
            raise DamagedBlob(digest, path, "does not match its digest")
        return size

    def put(self, data: bytes) -> str:
        """Store a small blob durably; gives its digest."""
        digest, _ = self.put_stream([data])
        return digest

    def put_stream(
        self, pieces: Iterable[bytes], placed: Callable[[str], None] | None = None
    ) -> tuple[str, int]:
        """Store pieces as one blob, hashing while writing; gives its digest and size.

        `placed(digest)` runs once the blob is in its place, under the same lock, so that what
        belongs to the blob appears before prune can look.
        """
        with self.incoming(pieces) as blob:
            with self.lock():
                self.place(blob)
                if placed is not None:
                    placed(blob.digest)
            files.sync_directory(self.folder)
        return blob.digest, blob.size

    @contextmanager
    def incoming(self, pieces: Iterable[bytes]) -> Iterator[Incoming]:
        """Write pieces to a temporary file, hashing; it is gone at the end unless placed."""
        with disk_errors(self.root), self.staged() as temporary:
            size, digest = _write_hashed(temporary, pieces)
            yield Incoming(temporary, digest, size)

    @contextmanager
    def incoming_file(self, path: Path, digest: str) -> Iterator[Incoming]:
        """A file on the store's file system as a blob to be placed, checked. Raises DamagedBlob."""
        with disk_errors(self.root):
            try:
                with path.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                    size = file.tell()
                    os.fsync(file.fileno())
            except FileNotFoundError:
                raise DamagedBlob(digest, path, "is missing") from None
            if f"sha256:{found}" != digest:
                raise DamagedBlob(digest, path, "does not match its digest")
            yield Incoming(path, digest, size)

    def place(self, blob: Incoming) -> None:
        """Give the blob its name, in place of one that may be damaged. The caller holds the lock."""
        blob.path.rename(self.path(blob.digest))

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """The path of a temporary file, locked while in use, and removed at the end if still there."""
        path = self._staging / random_name(8)
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield path
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def discard(self, keep: Collection[str], older_than: float) -> int:
        """Remove blobs not in `keep` and untouched since `older_than` (epoch seconds).

        The caller holds the lock. Gives the bytes freed.
        """
        freed = 0
        for path in list(self.folder.iterdir()):
            status = path.stat()
            if f"sha256:{path.name}" not in keep and status.st_ctime <= older_than:
                path.unlink()
                freed += status.st_size
        return freed

    def sweep(self) -> int:
        """Remove temporary files that a killed process left; gives the bytes freed."""
        freed = 0
        for path in abandoned(self._staging):
            with contextlib.suppress(FileNotFoundError):
                freed += path.stat().st_size
                path.unlink()
        return freed


def digest_of(data: bytes) -> str:
    """`sha256:` and the hex digest of `data`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def abandoned(folder: Path) -> Iterator[Path]:
    """Entries (files or folders) of a staging folder that are old and that nobody has locked."""
    oldest = time.time() - STALE
    for path in sorted(folder.iterdir()):
        try:
            if path.lstat().st_ctime > oldest:
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield path
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)


def _write_hashed(path: Path, pieces: Iterable[bytes]) -> tuple[int, str]:
    hasher = hashlib.sha256()
    size = 0
    with path.open("r+b", buffering=0) as file:
        for piece in pieces:
            hasher.update(piece)
            view = memoryview(piece)
            while view:
                view = view[file.write(view) :]
            size += len(piece)
        os.fsync(file.fileno())
    return size, f"sha256:{hasher.hexdigest()}"
