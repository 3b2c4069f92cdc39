"""Root file systems: a tar made an image of one layer; and what a container sees, as one tar."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from shipway.runtime.images import changes, compression
from shipway.runtime.images.archives import Writable
from shipway.runtime.images.intake import intake
from shipway.runtime.images.manifests import host_architecture
from shipway.runtime.images.store import CREATED, Image, ImageStore
from shipway.runtime.images.tarreader import Readable
from shipway.runtime.images.treetar import tree_tar
from shipway.runtime.kernel import mounts
from shipway.runtime.spec import IdRange


def take_in(
    images: ImageStore,
    stream: Readable,
    ref: str | None = None,
    change: Sequence[str] = (),
    message: str = "",
) -> Image:
    """Make an image of the tar of a root file system, which may be packed.

    The layer is the tar, unpacked, so that the same content gives the same image. Raises
    InvalidArchive, InvalidImage, InvalidReference, StoreFull.
    """
    document: dict[str, Any] = {
        "created": CREATED,
        "architecture": host_architecture(),
        "os": "linux",
        "config": {},
    }
    changes.apply(document, change)  # refused before anything is read
    history = {"created": CREATED, "comment": message} if message else {"created": CREATED}
    content, _ = compression.opened(stream)
    with intake(images) as taking, images.blobs.incoming(_pieces(content)) as blob:
        layer = taking.layer(blob)
        document["rootfs"] = {"type": "layers", "diff_ids": [layer.diff_id]}
        document["history"] = [history]
        return taking.document(document, [layer], [ref] if ref else [])


def give_out(layers: Sequence[Path], output: Writable, ids: IdRange | None = None) -> None:
    """Write the tar of what those layers (topmost first) show together. Raises InvalidTree.

    `ids` are the machine's that the layers have on disk, if not the container's own.
    """

    def write() -> None:
        mounts.mount_private_tmpfs()
        scratch = Path(tempfile.mkdtemp(dir=mounts.MOUNT_POINT))
        mounts.ROOTFS.mkdir()
        mounts.mount_view(mounts.ROOTFS, layers, scratch)
        root = os.fspath(mounts.ROOTFS)
        for piece in tree_tar(root, settle=False, own_times=True, ids=ids):
            output.write(piece)

    mounts.in_own_mount_namespace(write)


def _pieces(stream: Readable) -> Iterator[bytes]:
    while data := stream.read(compression.CHUNK):
        yield data
