"""Images: manifests and configs in an OCI image layout on disk, and the names that lead to them.

An image is known by its names, by the digest of its manifest, and by its id, the digest of its
config. Identical layers and config give the identical digest. What came from elsewhere is kept byte
by byte. What no name and no container leads to is removed by `prune`.
"""

import contextlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from shipway.runtime import files
from shipway.runtime.errors import (
    AmbiguousImage,
    DamagedBlob,
    InvalidImage,
    InvalidReference,
    NoSuchImage,
)
from shipway.runtime.images import manifests, references, usage
from shipway.runtime.images.blobs import BlobStore, is_digest
from shipway.runtime.images.index import REF_NAME, Entry, Index
from shipway.runtime.images.layers import Layer, LayerStore
from shipway.runtime.images.manifests import (
    CONFIG_TYPE,
    INDEX_TYPE,
    LAYER_TYPES,
    MANIFEST_TYPE,
    host_architecture,
)

__all__ = ["INDEX_TYPE", "REF_NAME", "Image", "ImageConfig", "ImageStore", "Stores"]

CREATED = "1980-01-01T00:00:01Z"
GRACE = 3600.0  # seconds that prune leaves to what is being put together

_REF_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:@/+")
_ID_PREFIX = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """How a container of the image runs by default.

    `exposed_ports` are like "80/tcp"; `stop_signal` is a name or a number, "" for SIGTERM.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = "/"
    user: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    created: str = CREATED
    architecture: str = field(default_factory=host_architecture)
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """An image: `digest` is its manifest's, `layers` go from the bottom up, `size` is all blobs'.

    `id` is the digest of its config.
    """

    digest: str
    ref: str | None
    layers: tuple[Layer, ...]
    config: ImageConfig
    size: int
    id: str = ""


class Stores(NamedTuple):
    """The two stores below an engine's root; `Engine` has the same two."""

    images: "ImageStore"
    layers: LayerStore

    @classmethod
    def open(cls, root: Path) -> "Stores":
        """The stores below `root`, made if they are not there. Raises StoreFull."""
        layers = LayerStore(root)
        return cls(ImageStore(root, layers), layers)


class ImageStore:
    """The images below an engine's root. Any number of processes may use one at once."""

    def __init__(self, root: Path, layers: LayerStore) -> None:
        self.root = root / "images"
        self.engine_root = root
        self.layers = layers
        self.blobs: BlobStore = layers.blobs
        self.index = Index(self.blobs)

    # -- looking --------------------------------------------------------------------------------

    def refs(self) -> dict[str, str]:
        """All tags, with the digests of their images."""
        return {entry.ref: entry.digest for entry in self.index.entries() if entry.ref is not None}

    def get(self, name: str) -> Image:
        """The image of that name, manifest digest, id, or beginning of an id.

        Raises NoSuchImage, InvalidReference, AmbiguousImage, DamagedBlob.
        """
        digest, ref = self.find(name)
        with self.told(digest):
            return self.load(digest, ref)

    @contextlib.contextmanager
    def told(self, digest: str) -> Iterator[None]:
        """Whoever meets damage in the image of that digest is told how to have it whole again."""
        try:
            yield
        except DamagedBlob as error:
            if error.remedy:
                raise
            raise DamagedBlob(error.digest, error.path, error.why, self._remedy(digest)) from error

    def _remedy(self, digest: str) -> str:
        entries = [entry for entry in self.index.entries() if entry.digest == digest]
        source = next((entry.source for entry in entries if entry.source), "")
        name = next((entry.ref for entry in entries if entry.ref), digest)
        if not source:
            return f"load, import or build {name} once more, or remove it with rmi"
        own = references.parse(name).repository if name != digest else ""
        again = name if source.startswith(f"{own}@") else source
        return f"`shipway runtime pull {again}` fetches it anew"

    def load(self, digest: str, ref: str | None = None) -> Image:
        """The image of that manifest digest. Raises NoSuchImage, DamagedBlob."""
        digest, manifest = self.manifest(digest)
        document = self.config(digest, manifest)
        layers = tuple(
            Layer(diff_id, descriptor.digest, descriptor.size)
            for diff_id, descriptor in zip(
                document["rootfs"]["diff_ids"], manifest.layers, strict=True
            )
        )
        for layer in layers:
            if layer.digest != layer.diff_id:
                self.layers.note(layer)
        size = self.blobs.size(digest) + manifest.config.size
        size += sum(layer.size for layer in layers)
        return Image(digest, ref, layers, _config(document), size, manifest.config.digest)

    def manifest(self, digest: str) -> tuple[str, manifests.Manifest]:
        """An image's manifest, and its own digest: of an index, the one for this machine."""
        for _ in range(manifests.DEEPEST):
            try:
                found = manifests.document(self.blobs.read(digest), digest)
                if not manifests.is_index(found, digest):
                    return digest, manifests.manifest(found, digest)
            except InvalidImage:
                raise NoSuchImage(digest) from None
            digest = manifests.choose(found, digest).digest
        raise InvalidImage(f"{digest} is an index in more than {manifests.DEEPEST} others")

    def parts(self, digest: str) -> set[str]:
        """The digests of all blobs of an image: manifest, config and layers."""
        digest, manifest = self.manifest(digest)
        return {digest, manifest.config.digest, *(layer.digest for layer in manifest.layers)}

    def config(self, digest: str, manifest: manifests.Manifest) -> dict[str, Any]:
        """The whole config of the image with that manifest, as it was written."""
        return manifests.config(
            self.blobs.read(manifest.config.digest), len(manifest.layers), f"the config of {digest}"
        )

    def document(self, image: Image) -> dict[str, Any]:
        """The whole config of an image, as it was written."""
        return self.config(*self.manifest(image.digest))

    def find(self, name: str) -> tuple[str, str | None]:
        """The manifest digest that a name leads to, and the tag if it is one. Raises as `get`."""
        if is_digest(name) and self._is_manifest(name):
            return name, None
        entries = self.index.entries()
        for entry in entries:
            if entry.ref == name:
                return entry.digest, name
        if match := _ID_PREFIX.fullmatch(name):
            if not name.startswith("sha256:") and (found := _by_name(entries, name)):
                return found
            return self._by_id(entries, match[1], name), None
        if found := _by_name(entries, name):
            return found
        raise NoSuchImage(name)

    def _is_manifest(self, digest: str) -> bool:
        path = self.blobs.path(digest)
        try:
            if path.stat().st_size > manifests.LARGEST:
                return False
        except FileNotFoundError:
            return False
        try:
            self.manifest(digest)
        except NoSuchImage:
            return False
        return True

    def _by_id(self, entries: Iterable[Entry], prefix: str, name: str) -> str:
        found: dict[str, str] = {}  # by id: an image may be there as two manifests
        for digest in dict.fromkeys(entry.digest for entry in entries):
            with contextlib.suppress(DamagedBlob, NoSuchImage, InvalidImage):
                identity = self.manifest(digest)[1].config.digest
                if any(each[7:].startswith(prefix) for each in (identity, digest)):
                    found.setdefault(identity, digest)
        if not found:
            raise NoSuchImage(name)
        if len(found) > 1:
            raise AmbiguousImage(name)
        return next(iter(found.values()))

    # -- writing --------------------------------------------------------------------------------

    def write(self, layers: Sequence[Layer], config: ImageConfig, ref: str | None) -> Image:
        """Store an image of `layers` (bottom first) and tag it. Raises NoSuchLayer."""
        refs = [] if ref is None else [ref]
        return self.adopt(encode(_config_document(layers, config)), layers, refs)

    def adopt(
        self,
        config: bytes,
        layers: Sequence[Layer],
        refs: Sequence[str],
        manifest: bytes | None = None,
        source: str = "",
    ) -> Image:
        """Store an image with that config, byte by byte, and with that manifest or one of our own.

        The layers must be in the store. Without a name it is stored without one. Raises NoSuchLayer,
        InvalidImage, InvalidReference.
        """
        for ref in refs:
            _check_ref(ref)
        found = manifests.config(config, len(layers), "the image's config")
        if found["rootfs"]["diff_ids"] != [layer.diff_id for layer in layers]:
            raise InvalidImage("the image's config names other layers than it has")
        with self.blobs.lock():
            for layer in layers:
                self.layers.renew(layer.diff_id)
        config_digest = self.blobs.put(config)
        if manifest is None:
            manifest = self._own_manifest(config_digest, len(config), layers)
        kind = manifests.manifest(manifests.document(manifest, "the manifest"), "the manifest")
        if kind.config.digest != config_digest:
            raise InvalidImage("the image's manifest names another config than it has")
        digest = self.blobs.put(manifest)
        entry = Entry(digest, len(manifest), None, source, kind.media_type)
        for named in [replace(entry, ref=ref) for ref in refs] or [entry]:
            self.index.put(named)
        return self.load(digest, refs[0] if refs else None)

    def _own_manifest(self, config: str, size: int, layers: Sequence[Layer]) -> bytes:
        return encode(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST_TYPE,
                "config": _descriptor(CONFIG_TYPE, config, size),
                "layers": [
                    _descriptor(LAYER_TYPES[self.layers.kind(layer)], layer.digest, layer.size)
                    for layer in layers
                ],
            }
        )

    def tag(self, ref: str, name: str) -> None:
        """Make `ref` lead to the image of that name. Raises InvalidReference, NoSuchImage."""
        _check_ref(ref)
        image = self.get(name)
        old = [entry for entry in self.index.entries() if entry.digest == image.digest]
        source = next((entry.source for entry in old if entry.source), "")
        kind = old[0].media_type if old else MANIFEST_TYPE
        self.index.put(Entry(image.digest, self.blobs.size(image.digest), ref, source, kind))

    def note_source(self, ref: str, digest: str, source: str) -> None:
        """Remember where a registry has the image that `ref` leads to, if it still is that one."""
        self.index.change(
            lambda entries: [
                replace(entry, source=source)
                if (entry.ref, entry.digest) == (ref, digest)
                else entry
                for entry in entries
            ]
        )

    def untag(self, ref: str) -> None:
        """Remove a tag; the image stays until prune. Raises NoSuchImage."""
        if ref not in self.refs():
            raise NoSuchImage(ref)
        self.index.unname(ref)

    def verify(self, name: str) -> None:
        """Read every byte of the image, blobs and trees. Raises DamagedBlob, NoSuchImage."""
        image = self.get(name)
        with self.told(image.digest):
            for layer in image.layers:
                if not self.blobs.path(layer.digest).exists():
                    raise DamagedBlob(layer.digest, self.blobs.path(layer.digest), "is missing")
                self.layers.verify(layer.diff_id)

    def trees(self, image: Image) -> list[Path]:
        """The unpacked layers of an image, topmost first. Raises DamagedBlob, NoSuchLayer."""
        with self.told(image.digest):
            return [self.layers.path(layer.diff_id) for layer in reversed(image.layers)]

    # -- removing -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def pinned(self) -> Iterator[None]:
        """Nothing is removed from the stores meanwhile: for who is about to use an image's layers."""
        with files.locked(self.root / ".pins", shared=True):
            yield

    def prune(self, in_use: Iterable[str], grace: float = GRACE) -> int:
        """Remove blobs and trees that no tag and no digest of `in_use` leads to; gives bytes freed.

        Images of containers, running or not, are in use as well. What is younger than `grace`
        seconds stays: someone may be about to name it. An `in_use` digest that is not in this store
        is passed over. Raises DamagedBlob, with nothing removed, when an image in use cannot be
        read and so its layers cannot be known.
        """
        older_than = time.time() - grace
        with files.locked(self.root / ".pins"), self.blobs.lock():
            entries = self.index.entries()
            wanted = {entry.digest for entry in entries if entry.ref is not None}
            wanted |= {digest for digest in in_use if self.blobs.path(digest).exists()}
            wanted |= self.used(entries).keys()
            kept = [entry for entry in entries if self._stays(entry, wanted, older_than)]
            blobs, layers = self.reachable(wanted)
            for entry in kept:
                with contextlib.suppress(DamagedBlob):  # nobody uses it
                    more = self.reachable([entry.digest])
                    blobs, layers = blobs | more[0], layers | more[1]
            if kept != entries:
                self.index.replace(kept)
            freed = self.layers.discard(layers, older_than)
            freed += self.blobs.discard(blobs, older_than)
            self.layers.discard_hints()
        return freed + self.sweep()

    def sweep(self) -> int:
        """Remove what killed processes left and what was discarded; gives bytes freed.

        So go copies of layers for ranges of ids that no container has.
        """
        if self.layers.has_shifted():
            with files.locked(self.root / ".pins"):
                self.layers.discard_shifted(usage.ranges(self.engine_root))
        freed = self.blobs.sweep()
        self.layers.sweep()
        return freed

    def used(self, entries: Iterable[Entry]) -> dict[str, list[str]]:
        """The digests of images that containers use, with these containers."""
        names = {entry.ref: entry.digest for entry in entries}
        found: dict[str, list[str]] = {}
        for name, containers in usage.users(self.engine_root).items():
            digest = name if is_digest(name) else names.get(name)
            if digest is not None and self.blobs.path(digest).exists():
                found.setdefault(digest, []).extend(containers)
        return found

    def _stays(self, entry: Entry, wanted: set[str], older_than: float) -> bool:
        """Whether an entry is kept: one without a name goes when it is old and nobody uses it."""
        if entry.ref is not None or entry.digest in wanted:
            return True
        try:
            return self.blobs.path(entry.digest).stat().st_ctime > older_than
        except FileNotFoundError:
            return False

    def reachable(self, digests: Iterable[str]) -> tuple[set[str], set[str]]:
        """Digests of the blobs, and diff ids of the layers, of these images."""
        blobs: set[str] = set()
        layers: set[str] = set()
        for digest in set(digests):
            blobs.add(digest)
            try:
                image = self.load(digest)
            except NoSuchImage:
                continue  # something else that others keep here
            blobs |= {image.digest, image.id}
            for layer in image.layers:
                blobs.add(layer.digest)
                layers.add(layer.diff_id)
        return blobs, layers


def _by_name(entries: Iterable[Entry], name: str) -> tuple[str, str | None] | None:
    """The entry that a person means by a name, which may lack its tag or have a digest."""
    wanted = references.parse(name)
    for entry in entries:
        if not wanted.digest and entry.ref == wanted.short:
            return entry.digest, entry.ref
        if wanted.digest and _is_of(entry, wanted):
            return entry.digest, entry.ref
    return None


def _is_of(entry: Entry, wanted: references.Reference) -> bool:
    """Whether an entry is of that repository, and has that digest here or in its registry."""
    if entry.source == f"{wanted.repository}@{wanted.digest}":
        return True
    try:
        own = references.parse(entry.ref or "")
    except InvalidReference:
        return False
    return entry.digest == wanted.digest and own.repository == wanted.repository


def _check_ref(ref: str | None) -> None:
    if ref is not None and (not ref or not _REF_CHARACTERS.issuperset(ref) or is_digest(ref)):
        raise InvalidReference(f"{ref!r} is no name for an image; use letters, digits and -._:@/+")


def _config_document(layers: Sequence[Layer], config: ImageConfig) -> dict[str, Any]:
    run: dict[str, Any] = {
        "Env": [f"{name}={config.env[name]}" for name in sorted(config.env)],
        "WorkingDir": config.working_dir,
        "Labels": {name: config.labels[name] for name in sorted(config.labels)},
    }
    if config.user:
        run["User"] = config.user
    if config.entrypoint:
        run["Entrypoint"] = list(config.entrypoint)
    if config.cmd:
        run["Cmd"] = list(config.cmd)
    if config.exposed_ports:
        run["ExposedPorts"] = {port: {} for port in sorted(config.exposed_ports)}
    if config.volumes:
        run["Volumes"] = {path: {} for path in sorted(config.volumes)}
    if config.stop_signal:
        run["StopSignal"] = config.stop_signal
    return {
        "created": config.created,
        "architecture": config.architecture,
        "os": "linux",
        "config": run,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
        "history": [{"created": config.created, "created_by": "shipway"} for _ in layers],
    }


def _config(document: Mapping[str, Any]) -> ImageConfig:
    run = document.get("config") or {}
    return ImageConfig(
        env=dict(item.split("=", 1) for item in run.get("Env") or () if "=" in item),
        entrypoint=tuple(run.get("Entrypoint") or ()),
        cmd=tuple(run.get("Cmd") or ()),
        working_dir=run.get("WorkingDir") or "/",
        user=run.get("User") or "",
        labels=run.get("Labels") or {},
        created=document.get("created") or CREATED,
        architecture=document.get("architecture") or host_architecture(),
        exposed_ports=tuple(sorted(run.get("ExposedPorts") or ())),
        volumes=tuple(sorted(run.get("Volumes") or ())),
        stop_signal=run.get("StopSignal") or "",
    )


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def encode(document: Mapping[str, Any]) -> bytes:
    """A document of our own, always in the same bytes."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
