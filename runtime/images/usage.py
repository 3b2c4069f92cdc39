"""Which images containers of this machine use, and in which form, as their own records tell."""

import json
import os
from pathlib import Path


def users(root: Path) -> dict[str, list[str]]:
    """The ids of all containers below the engine's root, by the digest of their image.

    Containers that do not run are among them: they may be started again, from the same layers.
    A record of before digests were put down gives the name in a digest's place.
    """
    found: dict[str, list[str]] = {}
    for name in _containers(root):
        try:
            record = json.loads((root / "containers" / name / "container.json").read_bytes())
            image = record.get("digest") or record["image"]
        except (OSError, ValueError, KeyError, AttributeError):
            continue  # it is being made, or taken away
        found.setdefault(str(image), []).append(name)
    return found


def ranges(root: Path) -> set[str]:
    """The ranges of ids for which containers below the engine's root may use shifted layers."""
    found = set()
    for name in _containers(root):
        try:
            held = json.loads((root / "containers" / name / "shifted.json").read_bytes())
        except FileNotFoundError:
            continue  # its ids are mapped by the kernel, or it is gone
        base, size = held["ids"]
        found.add(f"{base}-{size}")
    return found


def _containers(root: Path) -> list[str]:
    try:
        return sorted(os.listdir(root / "containers"))
    except FileNotFoundError:
        return []
