"""What a build may take over from the previous image: layers, their metadata, the stores."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shipway.buildpacks.labels import (
    CACHE_METADATA_LABEL,
    LIFECYCLE_LABEL,
    REUSE_LABEL,
    cache_of,
)
from shipway.buildpacks.lifecycle.request import Restored
from shipway.buildpacks.result import LAYER_NAME
from shipway.runtime.errors import DamagedBlob, NoSuchImage
from shipway.runtime.images.layers import Layer, LayerStore
from shipway.runtime.images.store import Image, ImageStore


@dataclass(frozen=True, slots=True)
class PreviousLayer:
    """A layer of the previous build and what it was for."""

    buildpack: str
    name: str
    layer: Layer
    launch: bool
    build: bool
    cache: bool
    data: Mapping[str, Any]

    @property
    def restores_metadata(self) -> bool:
        """By the specification's table of layer types."""
        return self.cache or (self.launch and not self.build)


@dataclass(frozen=True, slots=True)
class Previous:
    """The previous build, empty for a first one. `sboms` are layers with bills of materials.

    `made` are small layers of ours by the digest of what went into them.
    """

    layers: Mapping[tuple[str, str], PreviousLayer] = field(default_factory=dict)
    stores: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sboms: tuple[Layer, ...] = ()
    made: Mapping[str, Layer] = field(default_factory=dict)

    def restored(self) -> dict[str, tuple[Restored, ...]]:
        """The layers whose metadata comes back, by buildpack."""
        found: dict[str, tuple[Restored, ...]] = {}
        for (buildpack, name), item in self.layers.items():
            if item.restores_metadata:
                one = Restored(name, item.data, item.cache)
                found[buildpack] = (*found.get(buildpack, ()), one)
        return found

    def lower(self, layers: LayerStore) -> list[Path]:
        """The folders to mount below /layers, so that cached content is back in place."""
        return [
            layers.path(item.layer.diff_id) / "layers"
            for item in self.layers.values()
            if item.cache
        ]


def analyze(images: ImageStore, layers: LayerStore, digest: str | None) -> Previous:
    """Read the previous image's labels. What is gone or not ours is simply not taken over."""
    if digest is None:
        return Previous()
    try:
        image = images.get(digest)
        found, stores = _read(image, LIFECYCLE_LABEL, layers)
        sboms = _sboms(image, LIFECYCLE_LABEL, layers)
        made = _made(image, layers)
    except (NoSuchImage, DamagedBlob):
        return Previous()
    try:
        cache = images.get(cache_of(image))
        found |= _read(cache, CACHE_METADATA_LABEL, layers)[0]
        sboms += _sboms(cache, CACHE_METADATA_LABEL, layers)
        made |= _made(cache, layers)
    except (NoSuchImage, DamagedBlob):
        pass  # caches are pruned; the buildpacks then make their layers anew
    return Previous(found, stores, sboms, made)


def _read(
    image: Image, label: str, layers: LayerStore
) -> tuple[dict[tuple[str, str], PreviousLayer], dict[str, Mapping[str, Any]]]:
    by_id = {layer.diff_id: layer for layer in image.layers}
    found: dict[tuple[str, str], PreviousLayer] = {}
    stores: dict[str, Mapping[str, Any]] = {}
    try:
        for buildpack in json.loads(image.config.labels.get(label, "{}")).get("buildpacks", ()):
            id_ = buildpack["key"]
            stores[id_] = buildpack.get("store", {}).get("metadata", {})
            for name, item in buildpack["layers"].items():
                layer = by_id.get(item["sha"])
                if layer is None or not LAYER_NAME.fullmatch(name):
                    continue
                if item["cache"] and not _is_usable(layers, layer):
                    continue
                flags = (item["launch"] is True, item["build"] is True, item["cache"] is True)
                found[id_, name] = PreviousLayer(id_, name, layer, *flags, item["data"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}, {}  # an image that was not built here
    return found, stores


def _sboms(image: Image, label: str, layers: LayerStore) -> tuple[Layer, ...]:
    try:
        sha = json.loads(image.config.labels.get(label, "{}"))["sbom"]["sha"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    return tuple(
        layer for layer in image.layers if layer.diff_id == sha and _is_usable(layers, layer)
    )


def _made(image: Image, layers: LayerStore) -> dict[str, Layer]:
    by_id = {layer.diff_id: layer for layer in image.layers}
    try:
        named = dict(json.loads(image.config.labels.get(REUSE_LABEL, "{}")))
    except (ValueError, TypeError, RecursionError):
        return {}
    return {
        key: by_id[diff_id]
        for key, diff_id in named.items()
        if diff_id in by_id and layers.has(diff_id)
    }


def _is_usable(layers: LayerStore, layer: Layer) -> bool:
    if not layers.has(layer.diff_id):
        return False
    folder = layers.path(layer.diff_id) / "layers"
    return folder.is_dir() and not folder.is_symlink()
