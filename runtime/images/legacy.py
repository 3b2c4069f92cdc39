"""Images as Docker saved them before 1.10: a chain of layers, each with a JSON of its own.

`repositories` leads from names and tags to the topmost layer; `<id>/json` has its settings and its
parent's id, `<id>/layer.tar` what it adds.
"""

import json
from collections.abc import Iterator
from typing import Any, Protocol

from shipway.runtime.errors import InvalidArchive, InvalidReference
from shipway.runtime.images import manifests, references
from shipway.runtime.images.layers import Layer

_KEPT = ("architecture", "author", "config", "created", "os")


class Archive(Protocol):
    """What is needed of the archive that is being read."""

    def small(self, name: str) -> bytes:
        """A small file's content. Raises InvalidArchive."""
        ...

    def layer(self, name: str, diff_id: str | None) -> Layer:
        """Take in the layer in a file. Raises InvalidArchive."""
        ...


def images(archive: Archive) -> Iterator[tuple[bytes, list[Layer], list[str]]]:
    """Each image's config, made of its layers' settings, its layers and its names."""
    names: dict[str, list[str]] = {}
    for repository, tags in _document(archive, "repositories").items():
        if not isinstance(tags, dict) or not all(isinstance(each, str) for each in tags.values()):
            raise InvalidArchive("the archive's repositories file is not as Docker writes it")
        for tag, top in tags.items():
            names.setdefault(top, []).append(_short(f"{repository}:{tag}"))
    for top, refs in names.items():
        chain = _chain(archive, top)
        layers = [archive.layer(f"{identity}/layer.tar", None) for identity, _ in chain]
        config = {key: chain[-1][1][key] for key in _KEPT if key in chain[-1][1]}
        config.setdefault("os", "linux")
        config.setdefault("architecture", manifests.host_architecture())
        config["rootfs"] = {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]}
        config["history"] = [_history(document) for _, document in chain]
        yield json.dumps(config, separators=(",", ":"), sort_keys=True).encode(), layers, refs


def _chain(archive: Archive, top: str) -> list[tuple[str, dict[str, Any]]]:
    """A layer and its parents, the lowest first."""
    found: list[tuple[str, dict[str, Any]]] = []
    identity = top
    while identity:
        document = _document(archive, f"{identity}/json")
        found.append((identity, document))
        if len(found) > manifests.MOST_LAYERS:
            raise InvalidArchive(f"the archive's image {top} has no lowest layer")
        identity = str(document.get("parent") or "")
    return found[::-1]


def _history(document: dict[str, Any]) -> dict[str, Any]:
    made = document.get("container_config")
    words = made.get("Cmd") if isinstance(made, dict) else None
    history = {"created": document.get("created", "")}
    if isinstance(words, list):
        history["created_by"] = " ".join(str(word) for word in words)
    for key in ("author", "comment"):
        if document.get(key):
            history[key] = str(document[key])
    return history


def _document(archive: Archive, name: str) -> dict[str, Any]:
    try:
        found = json.loads(archive.small(name))
    except (ValueError, RecursionError) as error:
        raise InvalidArchive(f"the archive's {name} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise InvalidArchive(f"the archive's {name} is no JSON object")
    return found


def _short(name: str) -> str:
    try:
        return references.parse_tag(name).short
    except InvalidReference as error:
        raise InvalidArchive(f"the archive names an image so: {error}") from error
