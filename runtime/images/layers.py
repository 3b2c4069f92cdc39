"""Layers: each a blob (an uncompressed tar) and the same tree unpacked once, ready as an overlay lower.

Below the engine's root: `images/blobs/sha256/<hex>` is the truth and is durable before it has its
name. `layers/<hex>/` is made from it and may be lost: `path` makes it again. Ids on disk are the
container's own; `layers/` is closed to others, since it holds set-uid programs.

Files of a tree are not synced one by one. `layers/.unsettled/<hex>` says that the tree was written
since the boot it names and may not be on disk yet; after a crash of the machine such a tree is
made again from its blob. `settle` syncs and removes the marks, off the hot path.
"""

import contextlib
import fcntl
import hashlib
import os
import secrets
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from shipway.runtime import files
from shipway.runtime.errors import DamagedBlob, InvalidArchive, InvalidTree, NoSuchLayer
from shipway.runtime.images.blobs import BlobStore, abandoned, disk_errors, hex_of
from shipway.runtime.images.tarreader import Readable
from shipway.runtime.images.treetar import tree_tar
from shipway.runtime.images.unpack import UnpackLimits, unpack_tar

_BOOT = Path("/proc/sys/kernel/random/boot_id")
DEFAULT_LIMITS = UnpackLimits()
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
        with disk_errors(root):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._staging.mkdir(mode=0o700, exist_ok=True)
            self._unsettled.mkdir(mode=0o700, exist_ok=True)

    def has(self, diff_id: str) -> bool:
        """Whether the layer can be used: its blob is there."""
        return self.blobs.path(diff_id).exists()

    def get(self, diff_id: str) -> Layer:
        """The layer of this diff id. Raises NoSuchLayer."""
        try:
            return Layer(diff_id, diff_id, self.blobs.size(diff_id))
        except DamagedBlob:
            raise NoSuchLayer(diff_id) from None

    def path(self, diff_id: str) -> Path:
        """The unpacked directory, made from the blob if need be. Raises NoSuchLayer, DamagedBlob."""
        path = self.folder / hex_of(diff_id)
        if not path.is_dir() or self._is_suspect(path.name):
            self._restore(diff_id)
        return path

    def renew(self, diff_id: str) -> None:
        """Make the layer young, so that prune leaves it to the image it is about to be in.

        The caller holds the blobs' lock. Raises NoSuchLayer.
        """
        if not self.has(diff_id):
            raise NoSuchLayer(diff_id)
        os.utime(self.blobs.path(diff_id))
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

        def take_over(digest: str) -> None:
            target = self.folder / hex_of(digest)
            if target.is_dir() and not self._is_suspect(target.name):
                self.renew(digest)
                return
            self._mark(target.name)
            self._discard_tree(target.name)
            tree.rename(target)

        digest, size = self.blobs.put_stream(tree_tar(os.fspath(tree)), take_over)
        if tree.exists():
            _remove(tree)
        return Layer(digest, digest, size)

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
        if not self.has(diff_id):
            raise NoSuchLayer(diff_id)
        self.blobs.verify(diff_id)
        path = self.path(diff_id)
        hasher = hashlib.sha256()
        try:
            for piece in tree_tar(os.fspath(path), settle=False):
                hasher.update(piece)
        except InvalidTree as error:
            raise DamagedBlob(diff_id, path, f"holds what no layer can: {error}") from error
        if hasher.hexdigest() != path.name:
            raise DamagedBlob(diff_id, path, "does not match its digest")

    def repair(self, diff_id: str) -> None:
        """Make the tree again from its blob; nothing may have it mounted. Raises DamagedBlob."""
        self._discard_tree(hex_of(diff_id))
        self.path(diff_id)

    @contextmanager
    def staged_tree(self) -> Iterator[Path]:
        """A new empty folder on the store's file system, removed at the end unless committed.

        Its parent is ours too (for an overlay's work folder, say). If this process is killed,
        prune removes both.
        """
        folder = self._staging / secrets.token_hex(8)
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
            diff_id = f"sha256:{path.name}"
            if path.name.startswith(".") or diff_id in keep or path.stat().st_ctime > older_than:
                continue
            with contextlib.suppress(DamagedBlob):
                freed += self.blobs.size(diff_id)
            self._discard_tree(path.name)
        return freed

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
        path = self.blobs.path(diff_id)
        try:
            file = path.open("rb", buffering=1 << 20)
        except FileNotFoundError:
            raise NoSuchLayer(diff_id) from None
        with file:
            stream = _Hashing(file)
            try:
                unpack_tar(stream, tree, _UNLIMITED, layer=True)
            except InvalidArchive as error:
                raise DamagedBlob(diff_id, path, f"is no layer: {error}") from error
        if stream.hexdigest() != hex_of(diff_id):
            raise DamagedBlob(diff_id, path, "does not match its digest")

    def _discard_tree(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.folder / name).rename(self._staging / f"gone-{secrets.token_hex(8)}")
            (self._unsettled / name).unlink(missing_ok=True)

    def _mark(self, name: str) -> None:
        files.atomic_write(self._unsettled / name, _boot_id().encode(), durable=False)

    def _is_suspect(self, name: str) -> bool:
        """Whether the tree was written before a reboot and never synced since."""
        try:
            return (self._unsettled / name).read_text() != _boot_id()
        except FileNotFoundError:
            return False


class _Hashing:
    """A stream that hashes what is read from it."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._hasher = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._hasher.update(data)
        return data

    def hexdigest(self) -> str:
        return self._hasher.hexdigest()


def _boot_id() -> str:
    return _BOOT.read_text().strip()


def _times(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_atime_ns, status.st_mtime_ns


def _remove(path: Path) -> None:
    """Remove a folder of any depth (Python 3.11's rmtree recurses), not crossing into mounts."""
    subprocess.run(["rm", "-rf", "--one-file-system", "--", os.fspath(path)], check=True)
