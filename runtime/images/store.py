"""Images: manifests and configs in an OCI image layout on disk, and the names that lead to them.

`index.json` lists the tagged manifests only; an image without a tag is found by its digest for as
long as whoever uses it says so to `prune`. Identical layers and config give the identical digest.
"""

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from shipway.runtime import files
from shipway.runtime.errors import DamagedBlob, InvalidReference, NoSuchImage
from shipway.runtime.images.blobs import BlobStore, disk_errors, is_digest
from shipway.runtime.images.layers import Layer, LayerStore

CREATED = "1980-01-01T00:00:01Z"
GRACE = 3600.0  # seconds that prune leaves to what is being put together
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
REF_NAME = "org.opencontainers.image.ref.name"

_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}
_REF_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._:@/+")


def host_architecture() -> str:
    """Name this machine's architecture in OCI's (Go's) words."""
    machine = os.uname().machine
    return _MACHINES.get(machine, machine)


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """How a container of the image runs by default."""

    env: Mapping[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = "/"
    user: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    created: str = CREATED
    architecture: str = field(default_factory=host_architecture)


@dataclass(frozen=True, slots=True)
class Image:
    """An image: `digest` is its manifest's, `layers` go from the bottom up, `size` is all blobs'."""

    digest: str
    ref: str | None
    layers: tuple[Layer, ...]
    config: ImageConfig
    size: int


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
        self._layers = layers
        self._blobs: BlobStore = layers.blobs
        self._index = self.root / "index.json"

    def refs(self) -> dict[str, str]:
        """All tags, with the digests of their images."""
        return {
            entry["annotations"][REF_NAME]: entry["digest"]
            for entry in self._entries()
            if REF_NAME in entry.get("annotations", {})
        }

    def get(self, ref_or_digest: str) -> Image:
        """The image of that tag or manifest digest. Raises NoSuchImage, DamagedBlob."""
        if is_digest(ref_or_digest):
            if not self._blobs.path(ref_or_digest).exists():
                raise NoSuchImage(ref_or_digest)
            return self._load(ref_or_digest, None)
        digest = self.refs().get(ref_or_digest)
        if digest is None:
            raise NoSuchImage(ref_or_digest)
        return self._load(digest, ref_or_digest)

    def write(self, layers: Sequence[Layer], config: ImageConfig, ref: str | None) -> Image:
        """Store an image of `layers` (bottom first) and tag it. Raises NoSuchLayer."""
        with self._blobs.lock():
            for layer in layers:
                self._layers.renew(layer.diff_id)
        config_blob = _encode(_config_document(layers, config))
        config_digest = self._blobs.put(config_blob)
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": _descriptor(CONFIG_TYPE, config_digest, len(config_blob)),
            "layers": [_descriptor(LAYER_TYPE, layer.digest, layer.size) for layer in layers],
        }
        digest = self._blobs.put(_encode(manifest))
        if ref is not None:
            self.tag(ref, digest)
        return self._load(digest, ref)

    def tag(self, ref: str, digest: str) -> None:
        """Make `ref` lead to the image of `digest`. Raises InvalidReference, NoSuchImage."""
        if not ref or not _REF_CHARACTERS.issuperset(ref) or is_digest(ref):
            raise InvalidReference(
                f"{ref!r} is no name for an image; use letters, digits and -._:@/+"
            )
        self.get(digest)
        entry = _descriptor(MANIFEST_TYPE, digest, self._blobs.size(digest))
        self._change(ref, entry | {"annotations": {REF_NAME: ref}})

    def untag(self, ref: str) -> None:
        """Remove a tag; the image stays until prune. Raises NoSuchImage."""
        if ref not in self.refs():
            raise NoSuchImage(ref)
        self._change(ref, None)

    def verify(self, ref_or_digest: str) -> None:
        """Read every byte of the image, blobs and trees. Raises DamagedBlob, NoSuchImage."""
        for layer in self.get(ref_or_digest).layers:
            if not self._layers.has(layer.diff_id):
                raise DamagedBlob(layer.diff_id, self._blobs.path(layer.digest), "is missing")
            self._layers.verify(layer.diff_id)

    def prune(self, in_use: Iterable[str], grace: float = GRACE) -> int:
        """Remove blobs and trees that no tag and no digest of `in_use` leads to; gives bytes freed.

        What is younger than `grace` seconds stays: someone may be about to name it. An `in_use`
        digest that is not in this store is passed over. Raises DamagedBlob, with nothing removed,
        when an image in use cannot be read and so its layers cannot be known.
        """
        older_than = time.time() - grace
        with self._blobs.lock():
            blobs, layers = self._reachable(in_use)
            freed = self._layers.discard(layers, older_than)
            freed += self._blobs.discard(blobs, older_than)
        freed += self._blobs.sweep()
        self._layers.sweep()
        return freed

    def _reachable(self, in_use: Iterable[str]) -> tuple[set[str], set[str]]:
        """Digests of the blobs, and diff ids of the layers, of all images that are wanted."""
        wanted = {digest for digest in in_use if self._blobs.path(digest).exists()}
        blobs = {entry["digest"] for entry in self._entries()}
        layers: set[str] = set()
        for digest in wanted | set(self.refs().values()):
            manifest = self._manifest(digest)
            blobs |= {digest, manifest["config"]["digest"]}
            for layer in self._load(digest, None).layers:
                blobs.add(layer.digest)
                layers.add(layer.diff_id)
        return blobs, layers

    def _load(self, digest: str, ref: str | None) -> Image:
        manifest = self._manifest(digest)
        document = json.loads(self._blobs.read(manifest["config"]["digest"]))
        layers = tuple(
            Layer(diff_id, descriptor["digest"], descriptor["size"])
            for diff_id, descriptor in zip(
                document["rootfs"]["diff_ids"], manifest["layers"], strict=True
            )
        )
        size = self._blobs.size(digest) + manifest["config"]["size"]
        size += sum(layer.size for layer in layers)
        return Image(digest, ref, layers, _config(document), size)

    def _manifest(self, digest: str) -> dict[str, Any]:
        try:
            manifest = json.loads(self._blobs.read(digest))
        except ValueError:
            raise NoSuchImage(digest) from None
        if not isinstance(manifest, dict) or not {"config", "layers"} <= manifest.keys():
            raise NoSuchImage(digest)
        return manifest

    def _entries(self) -> list[dict[str, Any]]:
        try:
            document = json.loads(self._index.read_bytes())
        except FileNotFoundError:
            return []
        except ValueError:
            raise DamagedBlob("index.json", self._index, "is no JSON") from None
        return list(document["manifests"])

    def _change(self, ref: str, entry: dict[str, Any] | None) -> None:
        """Replace the index entry of `ref`, keeping what others wrote."""
        with disk_errors(self.root), self._blobs.lock():
            kept = [old for old in self._entries() if _name(old) != ref]
            entries = sorted([*kept, entry] if entry else kept, key=_name)
            document = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries}
            files.atomic_write(self._index, _encode(document), mode=0o644)


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
        user=run.get("User", ""),
        labels=run.get("Labels") or {},
        created=document.get("created", CREATED),
        architecture=document["architecture"],
    )


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _name(entry: Mapping[str, Any]) -> str:
    return str(entry.get("annotations", {}).get(REF_NAME, ""))
