"""What containers use, for many of them at once: each kernel file is read once, the network in one go."""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from shipway.runtime.kernel.cgroups import Cgroups
from shipway.runtime.network.counters import Traffic

Memory = Callable[[str], tuple[int, int]]
LARGEST = 65536  # bytes of a kernel file, and more
NOTHING = Traffic(0, 0)


@dataclass(frozen=True)
class Stats:
    """What a container uses: bytes of memory (without droppable file cache), CPU time in µs.

    `memory_limit` is what it may use at most: the machine's memory if it has no limit. `io_read`
    and `io_write` are bytes from and to disks, `net_rx` and `net_tx` bytes that it received and
    sent; `at` is when this was read, in seconds of the monotonic clock.
    """

    memory: int
    cpu_usec: int
    pids: int
    memory_limit: int = 0
    io_read: int = 0
    io_write: int = 0
    net_rx: int = 0
    net_tx: int = 0
    at: float = field(default=0.0, compare=False)


def read_stats(
    groups: Cgroups, container_ids: Iterable[str], traffic: Mapping[str, Traffic]
) -> dict[str, Stats]:
    """What the containers use now; those that are gone are left out. `traffic` is by container."""
    folders = {
        name: str(folder)
        for name in ("memory", "pids", "cpuacct", "cpu", "io", "blkio")
        if (folder := groups.folder(name)) is not None
    }
    unified = any(each.unified and "memory" in each.controllers for each in groups.hierarchies)
    memory = _memory_v2 if unified else _memory_v1
    found = {}
    for each in container_ids:
        stats = _of_one(folders, memory, each, traffic.get(each, NOTHING))
        if stats is not None:
            found[each] = stats
    return found


def _of_one(
    folders: Mapping[str, str], memory: Memory, container_id: str, traffic: Traffic
) -> Stats | None:
    place = {name: f"{folder}/{container_id}" for name, folder in folders.items()}
    running = _read(f"{place['pids']}/pids.current")
    if not running:
        return None
    used, most = memory(place["memory"])
    read, written = _io(place)
    total = machine_memory()
    return Stats(
        memory=max(0, used),
        cpu_usec=_cpu(place),
        pids=int(running),
        memory_limit=min(most or total, total),
        io_read=read,
        io_write=written,
        net_rx=traffic.received,
        net_tx=traffic.sent,
        at=time.monotonic(),
    )


def _memory_v2(place: str) -> tuple[int, int]:
    """Bytes in use, less the file cache that the kernel would drop first, and the limit or 0."""
    used = int(_read(f"{place}/memory.current") or b"0")
    limit = _read(f"{place}/memory.max").strip()
    cache = _field(_read(f"{place}/memory.stat"), b"inactive_file")
    return used - cache, int(limit) if limit.isdigit() else 0


def _memory_v1(place: str) -> tuple[int, int]:
    used = int(_read(f"{place}/memory.usage_in_bytes") or b"0")
    stat = _read(f"{place}/memory.stat")
    cache = _field(stat, b"total_inactive_file")
    return used - cache, _field(stat, b"hierarchical_memory_limit")


def _cpu(place: Mapping[str, str]) -> int:
    if "cpuacct" in place:
        return int(_read(f"{place['cpuacct']}/cpuacct.usage") or b"0") // 1000
    return _field(_read(f"{place['cpu']}/cpu.stat"), b"usage_usec") if "cpu" in place else 0


def _io(place: Mapping[str, str]) -> tuple[int, int]:
    """Bytes read from disks and written to them: all levels below the container's count."""
    read = written = 0
    if "io" in place:
        for word in _read(f"{place['io']}/io.stat").split():
            if word.startswith(b"rbytes="):
                read += int(word[7:])
            elif word.startswith(b"wbytes="):
                written += int(word[7:])
    elif "blkio" in place:
        text = _read(f"{place['blkio']}/blkio.throttle.io_service_bytes_recursive")
        for line in text.splitlines():
            words = line.split()
            if words[1:2] == [b"Read"]:
                read += int(words[2])
            elif words[1:2] == [b"Write"]:
                written += int(words[2])
    return read, written


def _field(text: bytes, name: bytes) -> int:
    """The number behind a name at the beginning of a line, 0 if there is none."""
    at = text.find(b"\n" + name + b" ") + 1
    if not at and not text.startswith(name + b" "):
        return 0
    return int(text[at + len(name) + 1 :].split(None, 1)[0])


def _read(path: str) -> bytes:
    """A kernel file; empty if it, or what it tells of, is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, LARGEST)
    except OSError:
        return b""
    finally:
        os.close(fd)


@lru_cache(maxsize=1)
def machine_memory() -> int:
    """Bytes of memory that this machine has."""
    words = Path("/proc/meminfo").read_text().split()
    return int(words[words.index("MemTotal:") + 1]) * 1024
