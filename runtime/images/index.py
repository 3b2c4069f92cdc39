"""`index.json`: which images there are, by which names, and where they came from.

An entry with a name is a tag. An image that lost its last name, or never had one, keeps an entry
without, so that it is seen until it is removed.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from shipway.runtime import files
from shipway.runtime.errors import DamagedBlob
from shipway.runtime.images.blobs import BlobStore, disk_errors
from shipway.runtime.images.manifests import INDEX_TYPE, MANIFEST_TYPE

REF_NAME = "org.opencontainers.image.ref.name"
SOURCE = "io.shipway.source"


@dataclass(frozen=True, slots=True)
class Entry:
    """One name of an image, or, with `ref` None, an image without one.

    `source` is where a registry has it, in full and by digest, for images that were pulled.
    """

    digest: str
    size: int
    ref: str | None = None
    source: str = ""
    media_type: str = MANIFEST_TYPE


class Index:
    """The index of one store; each change is one atomic write under the store's lock."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self.path: Path = blobs.root / "index.json"

    def entries(self) -> list[Entry]:
        """All entries: named ones by name, and those without in front. Raises DamagedBlob."""
        return [_read(each) for each in self._documents()]

    def put(self, entry: Entry) -> None:
        """Add an image or a name; an image whose last name this was stays, without one."""

        def change(entries: list[Entry]) -> list[Entry]:
            moved = [old for old in entries if entry.ref is not None and old.ref == entry.ref]
            kept = [old for old in entries if old not in moved]
            return _with_nameless([*kept, entry], moved)

        self.change(change)

    def unname(self, ref: str) -> None:
        """Take a name away; the image stays, without one if this was its last."""
        self.change(
            lambda entries: _with_nameless(
                [old for old in entries if old.ref != ref],
                [old for old in entries if old.ref == ref],
            )
        )

    def drop(self, digests: Sequence[str]) -> None:
        """Take images out of the index, with all their names."""
        self.change(lambda entries: [old for old in entries if old.digest not in digests])

    def change(self, change: Callable[[list[Entry]], list[Entry]]) -> None:
        """Replace the entries by what `change` makes of them."""
        with disk_errors(self._blobs.root), self._blobs.lock():
            self.replace(change(self.entries()))

    def replace(self, entries: list[Entry]) -> None:
        """Write the entries, one of each kind. The caller holds the store's lock."""
        named = {entry.digest for entry in entries if entry.ref is not None}
        wanted = {
            (entry.ref or "", entry.digest): entry
            for entry in entries
            if entry.ref is not None or entry.digest not in named
        }
        manifests = [_document(wanted[key]) for key in sorted(wanted)]
        document = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests}
        data = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
        files.atomic_write(self.path, data, mode=0o644)

    def _documents(self) -> list[dict[str, Any]]:
        try:
            document = json.loads(self.path.read_bytes())
            return list(document["manifests"])
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError):
            raise DamagedBlob("index.json", self.path, "is no image index") from None


def _with_nameless(entries: list[Entry], gone: list[Entry]) -> list[Entry]:
    """The entries, and one without a name for each image that would have none otherwise."""
    still = {entry.digest for entry in entries}
    return [*entries, *(replace(old, ref=None) for old in gone if old.digest not in still)]


def _read(document: dict[str, Any]) -> Entry:
    notes = document.get("annotations") or {}
    return Entry(
        document["digest"],
        document["size"],
        notes.get(REF_NAME),
        notes.get(SOURCE, ""),
        document.get("mediaType", MANIFEST_TYPE),
    )


def _document(entry: Entry) -> dict[str, Any]:
    document: dict[str, Any] = {
        "mediaType": entry.media_type,
        "digest": entry.digest,
        "size": entry.size,
    }
    notes = {} if entry.ref is None else {REF_NAME: entry.ref}
    if entry.source:
        notes[SOURCE] = entry.source
    return document | {"annotations": notes} if notes else document
