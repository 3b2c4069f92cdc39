"""Which images containers of this machine use, as their own records tell."""

import json
import os
from pathlib import Path


def users(root: Path) -> dict[str, list[str]]:
    """The ids of all containers below the engine's root, by the digest of their image.

    Containers that do not run are among them: they may be started again, from the same layers.
    A record of before digests were put down gives the name in a digest's place.
    """
    found: dict[str, list[str]] = {}
    try:
        names = sorted(os.listdir(root / "containers"))
    except FileNotFoundError:
        return found
    for name in names:
        try:
            record = json.loads((root / "containers" / name / "container.json").read_bytes())
            image = record.get("digest") or record["image"]
        except (OSError, ValueError, KeyError, AttributeError):
            continue  # it is being made, or taken away
        found.setdefault(str(image), []).append(name)
    return found
