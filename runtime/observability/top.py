"""The processes of a container as the machine sees them: `top`."""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
DAY = 86_400.0
PTS = range(136, 144)  # majors of pseudo terminals


@dataclass(frozen=True)
class Process:
    """One process. `uid`, `pid` and `ppid` are the machine's; times are in seconds.

    `terminal` is like "pts/0", "?" for none.
    """

    uid: int
    pid: int
    ppid: int
    started_at: float
    cpu: float
    terminal: str
    command: str

    @property
    def share(self) -> int:
        """Percent of a CPU that it has used of its life, as ps tells in column C."""
        age = time.time() - self.started_at
        return min(99, int(100 * self.cpu / age)) if age > 0 else 0


def processes(pids: Iterable[int]) -> list[Process]:
    """Those of the processes that still live, by pid."""
    return [found for pid in sorted(pids) if (found := _process(pid)) is not None]


def _process(pid: int) -> Process | None:
    folder = Path("/proc", str(pid))
    try:
        uid = folder.stat().st_uid
        text = (folder / "stat").read_text(errors="replace")
        line = (folder / "cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name stands in brackets and may hold anything, brackets too.
    name = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()
    command = line.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    return Process(
        uid=uid,
        pid=pid,
        ppid=int(fields[1]),
        started_at=_boot_time() + int(fields[19]) / TICKS,
        cpu=(int(fields[11]) + int(fields[12])) / TICKS,
        terminal=_terminal(int(fields[4])),
        command=command or f"[{name}]",
    )


def _terminal(number: int) -> str:
    major, minor = os.major(number), os.minor(number)
    if major in PTS:
        return f"pts/{(major - PTS.start) * 256 + minor}"
    return f"tty{minor}" if major == 4 else "?"


@lru_cache(maxsize=1)
def _boot_time() -> float:
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0
