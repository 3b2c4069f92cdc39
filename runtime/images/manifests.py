"""Manifests, indexes and configs that come from elsewhere: read as they are, checked, never rewritten.

OCI's and Docker's (schema 2) media types differ in name only. What a document is follows from what
it holds; one that could be read as two kinds is refused (CVE-2021-41190).
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shipway.runtime.errors import InvalidImage, NoSuchPlatform
from shipway.runtime.images.blobs import is_digest

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
LAYER_TYPES = {"": LAYER_TYPE, "gzip": f"{LAYER_TYPE}+gzip", "zstd": f"{LAYER_TYPE}+zstd"}
DOCKER_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"

LARGEST = 4 << 20  # bytes of a manifest or a config, as registries have it
DEEPEST = 4  # indexes in indexes
MOST_LAYERS = 500  # overlayfs takes as many lower folders

_MACHINES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i686": "386",
}
_VARIANTS = {"armv7l": ("v7", "v6", "v5"), "armv6l": ("v6", "v5"), "aarch64": ("v8",)}


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Where content is, by digest, and how large it is."""

    media_type: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image's parts; `layers` go from the bottom up."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


def host_architecture() -> str:
    """Name this machine's architecture in OCI's (Go's) words."""
    machine = os.uname().machine
    return _MACHINES.get(machine, machine)


def document(data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in `data`. Raises InvalidImage."""
    if len(data) > LARGEST:
        raise InvalidImage(f"{what} has more than {LARGEST} bytes")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidImage(f"{what} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidImage(f"{what} is no JSON object")
    return found


def is_index(found: Mapping[str, Any], what: str) -> bool:
    """Whether the document lists manifests, and is not one itself. Raises InvalidImage."""
    kinds = {"manifests", "layers", "config", "fsLayers"} & found.keys()
    if "fsLayers" in kinds:
        raise InvalidImage(f"{what} is of Docker's schema 1, which is too old; push it anew")
    if "manifests" in kinds and len(kinds) > 1:
        raise InvalidImage(f"{what} could be read as an index and as a manifest")
    if "manifests" in kinds:
        return True
    if kinds != {"layers", "config"}:
        raise InvalidImage(f"{what} is neither an image's manifest nor an index of such")
    return False


def manifest(found: Mapping[str, Any], what: str) -> Manifest:
    """The image manifest in a document. Raises InvalidImage."""
    if is_index(found, what):
        raise InvalidImage(f"{what} is an index, where a manifest is meant")
    layers = found["layers"]
    if not isinstance(layers, list) or len(layers) > MOST_LAYERS:
        raise InvalidImage(f"{what} has no list of at most {MOST_LAYERS} layers")
    return Manifest(
        str(found.get("mediaType") or MANIFEST_TYPE),
        descriptor(found["config"], what),
        tuple(descriptor(each, what) for each in layers),
    )


def descriptor(found: Any, what: str) -> Descriptor:
    """A descriptor in a document. Raises InvalidImage."""
    if isinstance(found, dict):
        digest, size = found.get("digest"), found.get("size")
        if isinstance(digest, str) and not is_digest(digest):
            raise InvalidImage(f"{what} has the digest {digest[:80]!r}; only sha256 is supported")
        if isinstance(digest, str) and type(size) is int and size >= 0:
            return Descriptor(str(found.get("mediaType", "")), digest, size)
    raise InvalidImage(f"{what} has a descriptor without a digest and a size")


def choose(found: Mapping[str, Any], what: str) -> Descriptor:
    """The manifest (or index) of an index that is for this machine. Raises NoSuchPlatform."""
    entries = found["manifests"]
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise InvalidImage(f"{what} has no list of manifests")
    machine = os.uname().machine
    wanted: list[tuple[int, Any]] = []
    for entry in entries:
        rank = _rank(entry.get("platform"), machine)
        if rank is not None:
            wanted.append((rank, entry))
    if not wanted:
        there = sorted({_platform(each.get("platform")) for each in entries} - {""})
        raise NoSuchPlatform(
            f"{what} has nothing for linux/{host_architecture()}, but for"
            f" {', '.join(there) or 'no platform at all'}"
        )
    return descriptor(min(wanted, key=lambda item: item[0])[1], what)


def _rank(platform: Any, machine: str) -> int | None:
    """How well a platform fits, 0 best; None if not at all. Without one it may fit, but comes last."""
    if not isinstance(platform, dict) or not platform.get("architecture"):
        return 1000
    if platform.get("os", "linux") != "linux" or platform["architecture"] != host_architecture():
        return None
    variants: Sequence[str] = _VARIANTS.get(machine, ())
    variant = platform.get("variant") or ""
    if not variant:
        return len(variants)
    return variants.index(variant) if variant in variants else None


def _platform(platform: Any) -> str:
    if not isinstance(platform, dict) or platform.get("architecture") in (None, "unknown"):
        return ""
    parts = (platform.get("os", "linux"), platform["architecture"], platform.get("variant"))
    return "/".join(str(part) for part in parts if part)


def config(data: bytes, layers: int | None, what: str) -> dict[str, Any]:
    """The config of an image of so many layers, checked for what is read of it. InvalidImage."""
    found = document(data, what)
    rootfs = found.get("rootfs")
    diff_ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(diff_ids, list) or not all(
        isinstance(each, str) and is_digest(each) for each in diff_ids
    ):
        raise InvalidImage(f"{what} has no list of the layers' digests (rootfs.diff_ids)")
    if layers is not None and len(diff_ids) != layers:
        raise InvalidImage(f"{what} has {len(diff_ids)} layers, and its manifest has {layers}")
    if found.get("os", "linux") != "linux":
        raise InvalidImage(f"{what} is for {found['os']}, and only linux is supported")
    run = found.get("config")
    if run is not None and not isinstance(run, dict):
        raise InvalidImage(f"{what} has a config that is no JSON object")
    for name, check in _CHECKS.items():
        value = (run or {}).get(name)
        if value is not None and not check(value):
            raise InvalidImage(f"{what} has a malformed {name}")
    history = found.get("history")
    if history is not None and not (
        isinstance(history, list) and all(isinstance(each, dict) for each in history)
    ):
        raise InvalidImage(f"{what} has a malformed history")
    return found


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_set(value: Any) -> bool:
    return isinstance(value, dict)


def _is_labels(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


_CHECKS = {
    "Env": _is_words,
    "Entrypoint": _is_words,
    "Cmd": _is_words,
    "WorkingDir": _is_text,
    "User": _is_text,
    "StopSignal": _is_text,
    "Labels": _is_labels,
    "ExposedPorts": _is_set,
    "Volumes": _is_set,
    "OnBuild": _is_words,
}
