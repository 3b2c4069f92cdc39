"""Ranges of host user ids for containers that bring none, leased on disk: `ids/<base> -> container`.

Ids on disk are the container's own (its mounts are id-mapped), so a freed range can be given anew. Where
they are not, only folders that were bound can have ids of a container that is gone.
"""

import os
from pathlib import Path

from shipway.runtime.errors import NoFreeIds
from shipway.runtime.files import locked
from shipway.runtime.spec import IdRange

SIZE = 65536
# Below 2**31, above which some file systems and programs take ids for negative numbers.
MOST_RANGES = 4096


class IdRanges:
    """The ranges that one engine allots, from the host id `first` on."""

    def __init__(self, folder: Path, first: int) -> None:
        self.folder = folder
        self.first = first

    def lease(self, owner: str) -> IdRange:
        """A range that no other container has; the owner's own if it has one. Raises NoFreeIds."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with locked(self.folder / "lock"):
            held = self._leases()
            for base, holder in held.items():
                if holder == owner:
                    return IdRange(base, SIZE)
            for number in range(MOST_RANGES):
                base = self.first + number * SIZE
                if base not in held:
                    os.symlink(owner, self.folder / str(base))
                    return IdRange(base, SIZE)
        raise NoFreeIds(f"all {MOST_RANGES} ranges of user ids are in use; remove old containers")

    def release(self, owner: str) -> None:
        """Free what the owner holds."""
        for base, holder in self._leases().items():
            if holder == owner:
                (self.folder / str(base)).unlink(missing_ok=True)

    def _leases(self) -> dict[int, str]:
        found = {}
        for entry in os.scandir(self.folder) if self.folder.is_dir() else ():
            if entry.name.isdigit():
                try:
                    found[int(entry.name)] = os.readlink(entry.path)
                except FileNotFoundError:
                    continue
        return found
