"""What images there are, and how each came to be, for people to look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from shipway.runtime.errors import DamagedBlob, InvalidImage, InvalidReference, NoSuchImage
from shipway.runtime.images import references
from shipway.runtime.images.store import CREATED, Image, ImageStore


@dataclass(frozen=True, slots=True)
class Listed:
    """An image by one of its names; `repository` and `tag` are empty if it has none.

    `registry_digest` is what the registry that it came from knows it by, `size` the bytes of its
    layers unpacked, `created` and `stored` (when it came here) epoch seconds. `containers` use it.
    A damaged image has no id.
    """

    id: str
    digest: str
    ref: str | None
    repository: str
    tag: str
    registry_digest: str
    created: float
    stored: float
    size: int
    labels: dict[str, str]
    containers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One line of an image's history; `size` is the bytes of the layer it made, if it made one."""

    created: float
    created_by: str
    size: int
    comment: str


def listed(images: ImageStore) -> list[Listed]:
    """All images, each once for every name; the newest to come here first."""
    entries = images.index.entries()
    users = images.used(entries)
    found = []
    for entry in entries:
        try:
            image: Image | None = images.load(entry.digest)
        except NoSuchImage:
            continue  # something else that others keep here
        except (DamagedBlob, InvalidImage):
            image = None
        repository, tag = _split(entry.ref)
        source = entry.source.partition("@")
        found.append(
            Listed(
                id=image.id if image else "",
                digest=entry.digest,
                ref=entry.ref,
                repository=repository,
                tag=tag,
                registry_digest=source[2] if source[0] == _full(entry.ref) else "",
                created=timestamp(image.config.created) if image else 0.0,
                stored=_stored(images, entry.digest),
                size=content_size(images, image) if image else 0,
                labels=dict(image.config.labels) if image else {},
                containers=tuple(users.get(entry.digest, ())),
            )
        )
    return sorted(found, key=lambda each: (-each.stored, each.repository, each.tag))


def content_size(images: ImageStore, image: Image) -> int:
    """The bytes of an image's layers, unpacked."""
    return sum(images.layers.content_size(layer) for layer in image.layers)


def history(images: ImageStore, image: Image) -> list[Step]:
    """How an image came to be, the last step first."""
    document = images.document(image)
    layers = list(image.layers)
    entries: Sequence[dict[str, Any]] = document.get("history") or [{} for _ in layers]
    found = []
    for entry in entries:
        layer = layers.pop(0) if layers and not entry.get("empty_layer") else None
        found.append(
            Step(
                timestamp(str(entry.get("created") or CREATED)),
                str(entry.get("created_by") or ""),
                images.layers.content_size(layer) if layer else 0,
                str(entry.get("comment") or ""),
            )
        )
    return found[::-1]


def timestamp(text: str) -> float:
    """The epoch seconds of a time as configs have it; 0.0 for what is none."""
    whole, _, rest = text.partition(".")
    zone = "" if not rest else rest.lstrip("0123456789")
    try:
        parsed = datetime.fromisoformat(whole + zone)
    except ValueError:
        return 0.0
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def _split(ref: str | None) -> tuple[str, str]:
    if ref is None:
        return "", ""
    try:
        found = references.parse(ref)
    except InvalidReference:
        return ref, ""
    return found.short_repository, found.tag


def _full(ref: str | None) -> str:
    try:
        return references.parse(ref or "").repository
    except InvalidReference:
        return ""


def _stored(images: ImageStore, digest: str) -> float:
    try:
        return images.blobs.path(digest).stat().st_ctime
    except FileNotFoundError:
        return 0.0
