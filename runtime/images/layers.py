"""Layers: each a blob and the tree that it holds, unpacked once, ready as an overlay lower.

Below the engine's root: `images/blobs/sha256/<hex>` is the truth and is durable before it has its
name. `layers/<hex>/`, named by diff id, is made from it and may be lost: `path` makes it again. Ids
on disk are the container's own; `layers/` is closed to others, since it holds set-uid programs.
`layers/<hex>.<base>-<size>/` is a copy with the machine's ids of that range: see `shifted`.

Our own layers are plain tars, so that blob and diff id have one digest. Layers from elsewhere are
kept as they came, gzip or zstd: `layers/.packed/<hex of the diff id>/<hex of the blob>` leads to
the blob, and says how many bytes it unpacks to. It is a hint; what is unpacked is checked.

Files of a tree are not synced one by one. `layers/.unsettled/<hex>` says that the tree was written
since the boot it names and may not be on disk yet; after a crash of the machine such a tree is
made again from its blob. `settle` syncs and removes the marks, off the hot path.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shipway.runtime import files
from shipway.runtime.errors import (
    DamagedBlob,
    InvalidArchive,
    InvalidImage,
    InvalidTree,
    NoSuchLayer,
    RuntimeFailure,
)
from shipway.runtime.files import random_name
from shipway.runtime.ids import shift
from shipway.runtime.images import compression
from shipway.runtime.images.blobs import (
    BlobStore,
    Incoming,
    abandoned,
    disk_errors,
    hex_of,
    is_digest,
)
from shipway.runtime.images.tarreader import Readable
from shipway.runtime.images.treetar import tree_tar
from shipway.runtime.images.unpack import UnpackLimits, unpack_tar
from shipway.runtime.spec import IdRange

_BOOT = Path("/proc/sys/kernel/random/boot_id")
DEFAULT_LIMITS = UnpackLimits()
# What a layer from elsewhere may hold; a tree of our own is as large as it is.
LAYER_LIMITS = UnpackLimits(size=64 << 30, entries=2_000_000, depth=1000)
_UNLIMITED = UnpackLimits(size=1 << 62, entries=1 << 62, depth=1000)


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of an image: `diff_id` names the uncompressed tar, `digest` and `size` its blob."""

    diff_id: str
    digest: str
    size: int


class LayerStore:
    """The layers below an engine's root."""

    def __init__(self, root: Path) -> None:
        self.blobs = BlobStore(root / "images")
        self.folder = root / "layers"
        self._staging = self.folder / ".staging"
        self._unsettled = self.folder / ".unsettled"
        self._packed = self.folder / ".packed"
        with disk_errors(root):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._staging.mkdir(mode=0o700, exist_ok=True)
            self._unsettled.mkdir(mode=0o700, exist_ok=True)
            self._packed.mkdir(mode=0o700, exist_ok=True)

    def has(self, diff_id: str) -> bool:
        """Whether the layer can be used: its blob is there."""
        return next(self._digests(diff_id), None) is not None

    def get(self, diff_id: str) -> Layer:
        """The layer of this diff id. Raises NoSuchLayer."""
        for digest in self._digests(diff_id):
            return Layer(diff_id, digest, self.blobs.size(digest))
        raise NoSuchLayer(diff_id)

    def content_size(self, layer: Layer) -> int:
        """Bytes of the layer's plain tar; of a packed one whose hint was lost, of its blob."""
        try:
            return int(self._hint(layer.diff_id, layer.digest).read_text())
        except (FileNotFoundError, ValueError):
            return layer.size

    def kind(self, layer: Layer) -> str:
        """What the layer's blob is packed by, "" for a plain one. Raises DamagedBlob."""
        if layer.digest == layer.diff_id:
            return ""
        path = self.blobs.path(layer.digest)
        try:
            with path.open("rb") as file:
                return compression.kind_of(file.read(8))
        except FileNotFoundError:
            raise DamagedBlob(layer.digest, path, "is missing") from None

    def note(self, layer: Layer) -> None:
        """Make sure that a packed layer of a manifest is found by its diff id."""
        hint = self._hint(layer.diff_id, layer.digest)
        if layer.digest != layer.diff_id and not hint.exists():
            self._write_hint(layer.diff_id, layer.digest, None)

    def path(self, diff_id: str) -> Path:
        """The unpacked directory, made from the blob if need be. Raises NoSuchLayer, DamagedBlob."""
        path = self.folder / hex_of(diff_id)
        if not path.is_dir() or self._is_suspect(path.name):
            self._restore(diff_id)
        return path

    def shifted(self, name: str, ids: IdRange) -> Path:
        """A copy of the tree of that hex name, with the machine's ids of a range in place of its own.

        It is made once, and shared by all containers with that range, for where the kernel cannot
        map ids. Raises as `path`, and StoreFull.
        """
        path = self.folder / f"{name}.{range_name(ids)}"
        if path.is_dir() and not self._is_suspect(path.name):
            return path
        tree = self.path(f"sha256:{name}")
        with files.locked(self._staging / f"{path.name}.lock", discard=True):
            if not path.is_dir() or self._is_suspect(path.name):
                with self.staged_tree() as copy, disk_errors(copy):
                    _copy(tree, copy)
                    shift.move_tree(copy, shift.to_host(ids))
                    self._discard_tree(path.name)
                    self._mark(path.name)
                    copy.rename(path)
        return path

    def discard_shifted(self, ranges: Collection[str]) -> None:
        """Remove the copies for ranges other than these (`range_name`); nobody starts one meanwhile.

        `sweep` frees them.
        """
        for path in list(self.folder.glob("*.*")):
            if not path.name.startswith(".") and path.name.partition(".")[2] not in ranges:
                self._discard_tree(path.name)

    def has_shifted(self) -> bool:
        """Whether there are copies for any range."""
        return any("." in name[1:] for name in os.listdir(self.folder))

    def renew(self, diff_id: str) -> None:
        """Make the layer young, so that prune leaves it to the image it is about to be in.

        The caller holds the blobs' lock. Raises NoSuchLayer.
        """
        digests = list(self._digests(diff_id))
        if not digests:
            raise NoSuchLayer(diff_id)
        for digest in digests:
            os.utime(self.blobs.path(digest))
        tree = self.folder / hex_of(diff_id)
        if tree.is_dir():
            os.utime(tree, ns=_times(tree))

    def commit(self, tree: Path) -> Layer:
        """Make a layer of `tree`, which is taken over (on success it is gone from its place).

        It must be on the store's file system, with nothing mounted below it and nobody writing.
        One read pass; if the same layer is there already, that one is kept. Raises InvalidTree.
        """
        if not tree.is_dir() or tree.stat().st_dev != self.folder.stat().st_dev:
            raise InvalidTree(f"{tree} is no folder on the file system of {self.folder}")

        digest, size = self.blobs.put_stream(
            tree_tar(os.fspath(tree)), lambda digest: self._take_over(digest, tree)
        )
        if tree.exists():
            _remove(tree)
        return Layer(digest, digest, size)

    def adopt(
        self, blob: Incoming, diff_id: str | None = None, limits: UnpackLimits = LAYER_LIMITS
    ) -> Layer:
        """Take in a layer from elsewhere as it came, and unpack it, unless that was done before.

        With `diff_id` it must hold just that. Raises InvalidImage, InvalidArchive.
        """
        if diff_id is None or not self.is_known(diff_id, blob.digest):
            return self._adopt(blob, diff_id, limits)
        with self.blobs.lock():
            self.blobs.place(blob)
            self.renew(diff_id)
        files.sync_directory(self.blobs.folder)
        return Layer(diff_id, blob.digest, blob.size)

    def _adopt(self, blob: Incoming, diff_id: str | None, limits: UnpackLimits) -> Layer:
        with self.staged_tree() as tree, disk_errors(tree):
            found, size = _unpack(blob.path, blob.digest, tree, limits)
            if diff_id not in (None, found):
                raise InvalidImage(f"layer {blob.digest} holds {found}, where {diff_id} is said")
            with self.blobs.lock():
                self.blobs.place(blob)
                if found != blob.digest:
                    self._write_hint(found, blob.digest, size)
                self._take_over(found, tree)
            files.sync_directory(self.blobs.folder)
        return Layer(found, blob.digest, blob.size)

    def unpack(
        self,
        stream: Readable,
        dest: Path,
        limits: UnpackLimits = DEFAULT_LIMITS,
        uid: int | None = None,
        gid: int | None = None,
        layer: bool = False,
    ) -> int:
        """Extract an untrusted tar into the empty folder `dest`: see `unpack.unpack_tar`."""
        with disk_errors(dest):
            return unpack_tar(stream, dest, limits, uid, gid, layer)

    def verify(self, diff_id: str) -> None:
        """Read blob and tree, and compare both with the digest. Raises DamagedBlob, NoSuchLayer."""
        layer = self.get(diff_id)
        self.blobs.verify(layer.digest)
        path = self.path(diff_id)
        found = _fingerprint(diff_id, path)
        if found == path.name:
            return
        # Of a layer from elsewhere the tar is in an order of its own: unpack it once more.
        with self.staged_tree() as tree, disk_errors(tree):
            self._unpack_blob(diff_id, tree)
            if _fingerprint(diff_id, tree) != found:
                raise DamagedBlob(diff_id, path, "does not match its digest")

    def repair(self, diff_id: str) -> None:
        """Make the tree again from its blob; nothing may have it mounted. Raises DamagedBlob."""
        self._discard_all(hex_of(diff_id))
        self.path(diff_id)

    @contextmanager
    def staged_tree(self) -> Iterator[Path]:
        """A new empty folder on the store's file system, removed at the end unless committed.

        Its parent is ours too (for an overlay's work folder, say). If this process is killed,
        prune removes both.
        """
        files.spread_below(self._staging)
        folder = self._staging / random_name(8)
        folder.mkdir(mode=0o700)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            tree = folder / "tree"
            tree.mkdir(mode=0o755)
            yield tree
        finally:
            _remove(folder)
            os.close(descriptor)

    def settle(self) -> None:
        """Sync the trees to disk, so that a crash of the machine costs no unpacking."""
        marks = list(self._unsettled.iterdir())
        if not marks:
            return
        subprocess.run(["sync", "--file-system", os.fspath(self.folder)], check=True)
        for mark in marks:
            if mark.read_text() == _boot_id():
                mark.unlink(missing_ok=True)

    def discard(self, keep: Collection[str], older_than: float) -> int:
        """Remove trees not in `keep` (diff ids) and untouched since `older_than` (epoch seconds).

        The caller holds the blobs' lock. Gives about the bytes that `sweep` will free.
        """
        freed = 0
        for path in list(self.folder.iterdir()):
            diff_id = f"sha256:{path.name.partition('.')[0]}"
            if path.name.startswith(".") or diff_id in keep or path.stat().st_ctime > older_than:
                continue
            with contextlib.suppress(DamagedBlob):
                freed += self.blobs.size(diff_id)
            self._discard_tree(path.name)
        return freed

    def discard_hints(self) -> None:
        """Forget packed blobs that are gone. The caller holds the blobs' lock."""
        for folder in list(self._packed.iterdir()):
            for hint in list(folder.iterdir()):
                if not (self.blobs.folder / hint.name).exists():
                    hint.unlink()
            with contextlib.suppress(OSError):  # it holds others
                folder.rmdir()

    def drop(self, diff_id: str) -> None:
        """Remove a layer's tree. The caller holds the blobs' lock, and knows that nobody uses it."""
        self._discard_all(hex_of(diff_id))
        self.discard_hints()

    def sweep(self) -> None:
        """Remove the folders of killed processes, and trees that were discarded."""
        for path in abandoned(self._staging):
            _remove(path)
        for path in self._staging.glob("gone-*"):
            _remove(path)

    def _restore(self, diff_id: str) -> None:
        name = hex_of(diff_id)
        with files.locked(self._staging / f"{name}.lock", discard=True):
            if (self.folder / name).is_dir() and not self._is_suspect(name):
                return
            with self.staged_tree() as tree, disk_errors(tree):
                self._unpack_blob(diff_id, tree)
                self._discard_tree(name)
                self._mark(name)
                tree.rename(self.folder / name)

    def _unpack_blob(self, diff_id: str, tree: Path) -> None:
        layer = self.get(diff_id)
        path = self.blobs.path(layer.digest)
        try:
            found, _ = _unpack(path, None, tree, _UNLIMITED)
        except InvalidArchive as error:
            raise DamagedBlob(layer.digest, path, f"is no layer: {error}") from error
        if found != diff_id:
            raise DamagedBlob(layer.digest, path, "does not match its digest")

    def _digests(self, diff_id: str) -> Iterator[str]:
        """The blobs that are there of a layer, the plain one first."""
        name = hex_of(diff_id)
        if self.blobs.path(diff_id).exists():
            yield diff_id
        with contextlib.suppress(FileNotFoundError):
            for found in sorted(os.listdir(self._packed / name)):
                digest = f"sha256:{found}"
                if is_digest(digest) and self.blobs.path(digest).exists():
                    yield digest

    def is_known(self, diff_id: str, digest: str) -> bool:
        """Whether that blob was unpacked and checked before, and the tree is still there."""
        path = self.folder / hex_of(diff_id)
        if not path.is_dir() or self._is_suspect(path.name) or not self.has(diff_id):
            return False
        try:  # a hint without a size was only ever claimed by a manifest
            return digest == diff_id or bool(self._hint(diff_id, digest).read_bytes())
        except FileNotFoundError:
            return False

    def _hint(self, diff_id: str, digest: str) -> Path:
        return self._packed / hex_of(diff_id) / hex_of(digest)

    def _write_hint(self, diff_id: str, digest: str, size: int | None) -> None:
        hint = self._hint(diff_id, digest)
        hint.parent.mkdir(mode=0o700, exist_ok=True)
        files.atomic_write(hint, b"" if size is None else b"%d" % size, durable=False)

    def _take_over(self, diff_id: str, tree: Path) -> None:
        """Make `tree` the layer's, unless it has one. The caller holds the blobs' lock."""
        target = self.folder / hex_of(diff_id)
        if target.is_dir() and not self._is_suspect(target.name):
            self.renew(diff_id)
            return
        self._mark(target.name)
        self._discard_tree(target.name)
        tree.rename(target)

    def _discard_tree(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.folder / name).rename(self._staging / f"gone-{random_name(8)}")
            (self._unsettled / name).unlink(missing_ok=True)

    def _discard_all(self, name: str) -> None:
        """Discard a layer's tree and all its copies."""
        for path in (self.folder / name, *self.folder.glob(f"{name}.*")):
            self._discard_tree(path.name)

    def _mark(self, name: str) -> None:
        files.atomic_write(self._unsettled / name, _boot_id().encode(), durable=False)

    def _is_suspect(self, name: str) -> bool:
        """Whether the tree was written before a reboot and never synced since."""
        try:
            return (self._unsettled / name).read_text() != _boot_id()
        except FileNotFoundError:
            return False


def _unpack(path: Path, digest: str | None, tree: Path, limits: UnpackLimits) -> tuple[str, int]:
    """Unpack a blob, packed or plain; gives the diff id, and the bytes of the plain tar.

    `digest` is the blob's, if it is known to be right: a plain one's need not be made twice.
    """
    with path.open("rb", buffering=0) as file:
        plain = not compression.kind_of(os.pread(file.fileno(), 8, 0))
        hasher = None if plain and digest else hashlib.sha256()
        stream, content = compression.opened(file, hasher, compression.LAYER_KINDS)
        unpack_tar(stream, tree, limits, layer=True)
    diff_id = digest if hasher is None else f"sha256:{hasher.hexdigest()}"
    assert diff_id is not None
    return diff_id, content.total


def _fingerprint(diff_id: str, tree: Path) -> str:
    """The hex digest of a tree as our own tar of it; of our own layers it is the diff id's."""
    hasher = hashlib.sha256()
    try:
        for piece in tree_tar(os.fspath(tree), settle=False):
            hasher.update(piece)
    except InvalidTree as error:
        raise DamagedBlob(diff_id, tree, f"holds what no layer can: {error}") from error
    return hasher.hexdigest()


def range_name(ids: IdRange) -> str:
    """How a range of ids is called in the names of shifted copies."""
    return f"{ids.base}-{ids.size}"


def _copy(tree: Path, copy: Path) -> None:
    """Copy a tree into an empty folder, whose own owner, mode and marks become the tree's."""
    argv = ["cp", "--archive", "--reflink=auto", "--", f"{tree}/.", os.fspath(copy)]
    done = subprocess.run(argv, capture_output=True, text=True, env={"LC_ALL": "C"})
    if "No space left on device" in done.stderr:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(copy))
    if done.returncode:
        raise RuntimeFailure(f"the layer {tree} could not be copied: {done.stderr.strip()}")


def _boot_id() -> str:
    return _BOOT.read_text().strip()


def _times(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_atime_ns, status.st_mtime_ns


def _remove(path: Path) -> None:
    """Remove a folder of any depth (Python 3.11's rmtree recurses), not crossing into mounts."""
    subprocess.run(["rm", "-rf", "--one-file-system", "--", os.fspath(path)], check=True)
