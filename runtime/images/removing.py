"""Taking images away by Docker's rules, and never what a container needs.

Names go first. The content goes with the last name, unless a container uses it, running or not:
then it stays, without a name, until a prune finds it unused.
"""

import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from shipway.runtime.errors import (
    DamagedBlob,
    ImageInUse,
    InvalidImage,
    NoSuchImage,
)
from shipway.runtime.images import references
from shipway.runtime.images.blobs import is_digest
from shipway.runtime.images.intake import free
from shipway.runtime.images.layers import Layer
from shipway.runtime.images.listing import Listed, listed
from shipway.runtime.images.store import GRACE, ImageStore

SHORT_ID = 12


@dataclass(frozen=True, slots=True)
class Removed:
    """What was taken away: names, ids of images, and the bytes that the disk got back."""

    untagged: tuple[str, ...]
    deleted: tuple[str, ...]
    freed: int = 0


def remove(images: ImageStore, name: str, force: bool = False) -> Removed:
    """Take away a name, and the image with its last one; or, by its id, the image with its names.

    Refused with ImageInUse: the last name of an image that a container uses, and an id of an image
    in use or with names in several repositories. With `force` the names go all the same, but what
    a container uses stays. Raises NoSuchImage, AmbiguousImage.
    """
    digest, ref = images.find(name)
    entries = [entry for entry in images.index.entries() if entry.digest == digest]
    names = sorted(entry.ref for entry in entries if entry.ref is not None)
    users = images.used(entries).get(digest, [])
    if ref is not None and len(names) > 1:
        images.index.unname(ref)
        return Removed((ref,), ())
    if not force:
        _check(name, names, users)
    if users:
        for each in names:
            images.index.unname(each)
        return Removed(tuple(names), ())
    return _delete(images, digest, tuple(names))


def _check(name: str, names: list[str], users: list[str]) -> None:
    if users:
        raise ImageInUse(
            f"image {name} is used by container {', '.join(sorted(users))}; remove that first, or"
            " force it: the names go, and the content stays for the container"
        )
    if len({references.parse(each).repository for each in names}) > 1:
        raise ImageInUse(
            f"image {name} has names in several repositories ({', '.join(names)}); remove these, or"
            " force it"
        )


def _delete(images: ImageStore, digest: str, names: tuple[str, ...]) -> Removed:
    """Take an image out of the index, and what only it had off the disk."""
    layers: list[Layer] = []
    identity = digest
    latest: dict[str, float] = {}
    with contextlib.suppress(FileNotFoundError):
        # Whoever wanted a part of it after it was complete, to make another image, made that young.
        complete = max(images.blobs.path(digest).stat().st_ctime, time.time() - GRACE)
        latest[digest] = complete
        with contextlib.suppress(DamagedBlob, InvalidImage, NoSuchImage):
            image = images.load(digest)
            layers, identity = list(image.layers), image.id
            parts = [image.digest, image.id, *(layer.digest for layer in layers)]
            latest.update((part, complete) for part in parts)
    images.index.drop([digest])
    freed = free(images, layers, latest)
    return Removed(names, (identity,), freed)


def prune(
    images: ImageStore, everything: bool = False, fits: Callable[[Listed], bool] = lambda _: True
) -> Removed:
    """Remove images without a name that no container uses; with `everything`, those with names too.

    `fits` chooses among them. Raises DamagedBlob when it cannot be known what is in use.
    """
    found = listed(images)
    names: dict[str, list[str]] = {}
    for each in found:
        names.setdefault(each.digest, []).extend([each.ref] if each.ref else [])
    untagged: list[str] = []
    deleted: list[str] = []
    freed = 0
    for digest in _unused(found, everything, fits):
        done = _delete(images, digest, tuple(names[digest]))
        untagged += done.untagged
        deleted += done.deleted
        freed += done.freed
    freed += images.prune([])  # and what no image leads to, when it is old enough
    return Removed(tuple(untagged), tuple(deleted), freed)


def _unused(found: Iterable[Listed], everything: bool, fits: Callable[[Listed], bool]) -> list[str]:
    digests: dict[str, bool] = {}
    for each in found:
        goes = not each.containers and (everything or each.ref is None) and fits(each)
        digests[each.digest] = digests.get(each.digest, True) and goes
    return [digest for digest, goes in digests.items() if goes]


def short_id(digest: str) -> str:
    """The twelve digits by which people know an image."""
    return digest.removeprefix("sha256:")[:SHORT_ID] if is_digest(digest) else digest
