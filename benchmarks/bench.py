"""What all rows share: the row itself, both sides under test, and running something a few times."""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.docker import Docker
from benchmarks.measure import RUNS
from tests.support import Platform


@dataclass(frozen=True)
class Row:
    """One line of the table; `ours` and `peer` are medians in `unit`, ratio and goal are ours / peer.

    The goal is what the ratio may be at most or, where more is better, has to be at least.
    """

    name: str
    unit: str
    ours: float
    peer: float
    peer_name: str
    ratio: float
    goal: float
    runs: int
    more_is_better: bool = False

    @property
    def reached(self) -> bool:
        """Whether the goal is."""
        return self.ratio >= self.goal if self.more_is_better else self.ratio <= self.goal

    def as_dict(self) -> dict[str, object]:
        """For results.json."""
        return {**asdict(self), "reached": self.reached}


@dataclass(eq=False)
class Bench:
    """What the rows share: a running platform, a running Docker engine, a folder to work in."""

    platform: Platform
    docker: Docker
    folder: Path

    def row(
        self,
        name: str,
        unit: str,
        mine: list[float],
        peers: list[float],
        peer: str,
        goal: float,
        *,
        more_is_better: bool = False,
    ) -> Row:
        """A row of the medians of both sides."""
        a, b = statistics.median(mine), statistics.median(peers)
        ratio = round(a / b, 3)
        return Row(
            name, unit, round(a, 4), round(b, 4), peer, ratio, goal, len(mine), more_is_better
        )


def runs(body: Callable[[], float], progress: str, count: int = RUNS) -> list[float]:
    """What `body` returns in `count` runs, with a dot for each."""
    found = []
    print(f"       {progress} ", end="", flush=True)
    for _ in range(count):
        found.append(body())
        print(".", end="", flush=True)
    print(f" {statistics.median(found):.3f}", flush=True)
    return found
