"""Who a worker process is, in the rows it claims: `host/boot.namespace/pid.start`.

The machine's part (all but the last) lets another process of the same machine see at once that an owner has died,
instead of waiting for its lease to run out.
"""

import os
from functools import cache
from pathlib import Path


def machine(host_name: str) -> str:
    """The machine's part: its name, its boot, and the namespace that process ids are counted in."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    namespace = os.readlink("/proc/self/ns/pid").strip("pid:[]")
    return f"{host_name}/{boot[:13]}.{namespace}"


@cache
def process(host_name: str) -> str:
    """The name of the process that runs."""
    pid = os.getpid()
    return f"{machine(host_name)}/{pid}.{_start_time(pid)}"


def has_died(owner: str, host_name: str) -> bool:
    """Whether `owner` surely is no more: it was of this machine, and no such process is here now."""
    where, _, who = owner.rpartition("/")
    pid, _, start = who.partition(".")
    if where != machine(host_name) or not pid.isdigit():
        return False
    return _start_time(int(pid)) != start


def _start_time(pid: int) -> str | None:
    """When the process began, in clock ticks since the boot; None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    state, start = fields[0], fields[19]
    return None if state in "ZX" else start
