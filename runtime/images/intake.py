"""Taking in images whole: what belongs to one that fails half-way does not stay.

Layers are checked and unpacked as they come, before anything names them. If the image cannot be
completed, those that were new are removed again, unless somebody else has come to want them.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shipway.runtime import files
from shipway.runtime.errors import DamagedBlob
from shipway.runtime.images.blobs import Incoming
from shipway.runtime.images.layers import LAYER_LIMITS, Layer
from shipway.runtime.images.store import Image, ImageStore, encode
from shipway.runtime.images.unpack import UnpackLimits


class Intake:
    """Layers of images that are being taken in."""

    def __init__(self, images: ImageStore, limits: UnpackLimits = LAYER_LIMITS) -> None:
        self._images = images
        self._limits = limits
        self._fresh: dict[Layer, float] = {}

    def layer(self, blob: Incoming, diff_id: str | None = None) -> Layer:
        """Take in a layer. Raises as `LayerStore.adopt`."""
        was_there = self._images.blobs.path(blob.digest).exists()
        layer = self._images.layers.adopt(blob, diff_id, self._limits)
        if not was_there:
            placed = self._images.blobs.path(layer.digest).stat().st_ctime
            self._fresh[layer] = placed
        return layer

    def image(
        self,
        config: bytes,
        layers: Sequence[Layer],
        refs: Sequence[str],
        manifest: bytes | None = None,
        source: str = "",
    ) -> Image:
        """Complete an image: its layers stay. Raises as `ImageStore.adopt`."""
        image = self._images.adopt(config, layers, refs, manifest, source)
        for layer in image.layers:
            self._fresh.pop(layer, None)
        return image

    def document(
        self, document: Mapping[str, Any], layers: Sequence[Layer], refs: Sequence[str]
    ) -> Image:
        """Complete an image of our own with that whole config. Raises as `ImageStore.adopt`."""
        return self.image(encode(document), layers, refs)

    def undo(self) -> None:
        """Remove the layers of no image that came in."""
        latest = {layer.digest: placed for layer, placed in self._fresh.items()}
        with contextlib.suppress(DamagedBlob):  # another image's: then prune will say so
            free(self._images, list(self._fresh), latest)


@contextlib.contextmanager
def intake(images: ImageStore, limits: UnpackLimits = LAYER_LIMITS) -> Iterator[Intake]:
    """Take in images; at any error, layers of those not completed are removed again."""
    found = Intake(images, limits)
    try:
        yield found
    except BaseException:
        found.undo()
        raise


def free(images: ImageStore, layers: Sequence[Layer], latest: Mapping[str, float]) -> int:
    """Remove the blobs in `latest`, and trees of `layers`, that no image leads to any more.

    A blob that somebody made young after its time in `latest` (epoch seconds) stays: an image is
    being made of it. Gives the bytes freed. Raises DamagedBlob, with nothing removed, when an
    image cannot be read and so its layers cannot be known.
    """
    with files.locked(images.root / ".pins"), images.blobs.lock():
        entries = images.index.entries()
        wanted = {entry.digest for entry in entries} | images.used(entries).keys()
        kept, kept_layers = images.reachable(wanted)
        gone: set[str] = set()
        freed = 0
        for digest in latest.keys() - kept:
            path = images.blobs.path(digest)
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                if status.st_ctime <= latest[digest]:
                    path.unlink()
                    freed += status.st_size
                    gone.add(digest)
        for layer in layers:
            if layer.digest in gone and layer.diff_id not in kept_layers:
                images.layers.drop(layer.diff_id)
    images.layers.sweep()
    return freed
