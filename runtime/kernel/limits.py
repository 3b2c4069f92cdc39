"""What a limit needs of the kernel, asked before a container is made; and the limits of disks.

The OCI runtimes write the limits of memory, CPU and processes. Those of disks are written here:
crun and runc know other files for them than kernels have, and say little when one is missing.
"""

import os
import stat
from pathlib import Path

from shipway.runtime.errors import InvalidSpec, LimitUnsupported
from shipway.runtime.kernel.cgroups import Cgroups
from shipway.runtime.spec import IoRate, Limits, parse_cpus

# Where a weight of 10 to 1000 goes, by preference; v2's own goes from 1 to 10000.
V1_WEIGHTS = ("blkio.weight", "blkio.bfq.weight")
V2_WEIGHTS = ("io.bfq.weight", "io.weight")
WEIGHT_REMEDY = "the kernel needs the bfq scheduler (modprobe bfq), or io.cost on cgroup v2"


def check(groups: Cgroups, limits: Limits) -> None:
    """Raise InvalidSpec or LimitUnsupported for what this machine cannot hold."""
    if limits.memory_swap is not None:
        _check_swap(groups)
    if limits.cpuset_cpus is not None:
        _check_cpus(groups, limits.cpuset_cpus)
    if limits.io_weight is not None:
        _weight_file(_io_folder(groups, None))
    for rate in limits.io_rates:
        _rate_file(_io_folder(groups, None), rate)
        _device(rate)


def apply_io(groups: Cgroups, container_id: str, limits: Limits) -> None:
    """Write a new container's limits of disks. Raises LimitUnsupported."""
    if limits.io_weight is None and not limits.io_rates:
        return
    folder = _io_folder(groups, container_id)
    if limits.io_weight is not None:
        path = _weight_file(folder)
        weight = limits.io_weight
        if path.name == "io.weight":
            weight = 1 + (weight - 10) * 9999 // 990
        _write(path, str(weight), "io_weight")
    for rate in limits.io_rates:
        path = _rate_file(folder, rate)
        key = f"{rate.verb[0]}{rate.unit}=" if path.name == "io.max" else ""
        _write(path, f"{_device(rate)} {key}{rate.rate}", rate.device)


def _check_swap(groups: Cgroups) -> None:
    folder = groups.folder("memory")
    names = ("memory.swap.max", "memory.memsw.limit_in_bytes")
    if folder is None or not any((folder / name).exists() for name in names):
        raise LimitUnsupported(
            "memory_swap: this kernel does not count swap; boot it with swapaccount=1"
        )


def _check_cpus(groups: Cgroups, wanted: str) -> None:
    folder = groups.folder("cpuset")
    if folder is None:
        raise LimitUnsupported("cpuset_cpus: the control group controller cpuset is missing")
    for name in ("cpuset.cpus.effective", "cpuset.effective_cpus"):
        if (folder / name).exists():
            there = (folder / name).read_text().strip()
            if there and not parse_cpus(wanted) <= parse_cpus(there):
                raise InvalidSpec(f"cpuset_cpus {wanted!r}: this machine has the CPUs {there}")


def _io_folder(groups: Cgroups, container_id: str | None) -> Path:
    folder = groups.folder("io", container_id) or groups.folder("blkio", container_id)
    if folder is None:
        raise LimitUnsupported(
            "io limits: the control group controller io (blkio on cgroup v1) is missing"
        )
    return folder


def _weight_file(folder: Path) -> Path:
    for name in (*V2_WEIGHTS, *V1_WEIGHTS):
        if (folder / name).exists():
            return folder / name
    raise LimitUnsupported(f"io_weight: {WEIGHT_REMEDY}")


def _rate_file(folder: Path, rate: IoRate) -> Path:
    for name in ("io.max", f"blkio.throttle.{rate.verb}_{rate.unit}_device"):
        if (folder / name).exists():
            return folder / name
    raise LimitUnsupported(
        f"{rate.verb} {rate.unit} of {rate.device}: this kernel cannot throttle disks"
        " (CONFIG_BLK_DEV_THROTTLING)"
    )


def _device(rate: IoRate) -> str:
    """The disk's numbers, like 8:0."""
    try:
        found = os.stat(rate.device)
    except OSError as error:
        raise InvalidSpec(
            f"{rate.device}: {error.strerror}; name a disk of this machine"
        ) from error
    if not stat.S_ISBLK(found.st_mode):
        raise InvalidSpec(f"{rate.device} is no disk; name one like /dev/sda")
    return f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"


def _write(path: Path, text: str, what: str) -> None:
    try:
        path.write_text(text)
    except OSError as error:
        raise LimitUnsupported(
            f"the kernel does not take {text!r} for {what} ({error.strerror});"
            " name a whole disk, no partition"
        ) from error
