"""What limits need of the kernel, on made-up hierarchies of v1, v2 and both."""

import os
import stat
from pathlib import Path

import pytest

from shipway.runtime.errors import InvalidSpec, LimitUnsupported
from shipway.runtime.kernel import limits
from shipway.runtime.kernel.cgroups import Cgroups, Hierarchy
from shipway.runtime.oci import bundle
from shipway.runtime.spec import IoRate, Limits

MIB = 1 << 20
PLACE = "shipway/containers"


def groups(tmp_path: Path, unified: bool, **files: str) -> Cgroups:
    """Control groups of one kind with these files, in the parent and in the container "web"."""
    made = Cgroups("shipway")
    names = ("blkio", "cpu", "cpuset", "memory")
    if unified:
        (tmp_path / "cgroup.controllers").write_text("")
        kinds = ("cpu", "cpuset", "io", "memory")
        made.hierarchies = (Hierarchy(tmp_path, frozenset(kinds), unified=True),)
    else:
        made.hierarchies = (
            *(Hierarchy(tmp_path / name, frozenset([name]), unified=False) for name in names),
            Hierarchy(tmp_path / "unified", frozenset(), unified=True),
        )
    for hierarchy in made.hierarchies:
        for folder in (hierarchy.mount / PLACE, hierarchy.mount / PLACE / "web"):
            folder.mkdir(parents=True)
            for name, text in files.items():
                (folder / name.replace("__", ".")).write_text(text)
    return made


@pytest.fixture
def disk(tmp_path: Path) -> str:
    """A device file of the disk 8:16."""
    path = tmp_path / "disk"
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(8, 16))
    return f"/dev/..{path}"


def test_rates_of_v1_have_a_file_each(tmp_path: Path, disk: str) -> None:
    """Bytes and operations, read and written, go where cgroup v1 wants them."""
    names = [
        f"blkio.throttle.{verb}_{unit}_device"
        for verb in ("read", "write")
        for unit in ("bps", "iops")
    ]
    made = groups(tmp_path, False, **{name.replace(".", "__"): "" for name in names})
    rates = (IoRate(disk, "read", "bps", 1000), IoRate(disk, "write", "iops", 7))
    limits.check(made, Limits(io_rates=rates))
    limits.apply_io(made, "web", Limits(io_rates=rates))
    folder = tmp_path / "blkio" / PLACE / "web"
    assert (folder / "blkio.throttle.read_bps_device").read_text() == "8:16 1000"
    assert (folder / "blkio.throttle.write_iops_device").read_text() == "8:16 7"


def test_rates_of_v2_go_to_io_max(tmp_path: Path, disk: str) -> None:
    """cgroup v2 has one file for all of them."""
    made = groups(tmp_path, True, io__max="")
    limits.apply_io(made, "web", Limits(io_rates=(IoRate(disk, "write", "bps", 1000),)))
    assert (tmp_path / PLACE / "web/io.max").read_text() == "8:16 wbps=1000"


@pytest.mark.parametrize(
    ("unified", "name", "text"),
    [
        (False, "blkio__weight", "500"),
        (False, "blkio__bfq__weight", "500"),
        (True, "io__bfq__weight", "500"),
        (True, "io__weight", "4950"),
    ],
)
def test_a_weight_goes_to_what_the_kernel_has(
    tmp_path: Path, unified: bool, name: str, text: str
) -> None:
    """Each scheduler has its own file and scale."""
    made = groups(tmp_path, unified, **{name: ""})
    limits.check(made, Limits(io_weight=500))
    limits.apply_io(made, "web", Limits(io_weight=500))
    [path] = [*tmp_path.rglob(f"web/{name.replace('__', '.')}")][:1]
    folder = tmp_path / ("" if unified else "blkio") / PLACE / "web"
    assert (folder / path.name).read_text() == text


@pytest.mark.parametrize("unified", [True, False])
def test_what_the_kernel_lacks_is_named(tmp_path: Path, unified: bool, disk: str) -> None:
    """A limit that cannot be held is an error that says why, before anything is made."""
    made = groups(tmp_path, unified)
    cases = {
        "bfq": Limits(io_weight=10),
        "throttle": Limits(io_rates=(IoRate(disk, "read", "bps", 1),)),
        "swapaccount": Limits(memory=8 * MIB, memory_swap=-1),
    }
    for words, wanted in cases.items():
        with pytest.raises(LimitUnsupported, match=words):
            limits.check(made, wanted)
    made.hierarchies = ()
    for wanted in (Limits(io_weight=10), Limits(cpuset_cpus="0")):
        with pytest.raises(LimitUnsupported, match="missing"):
            limits.check(made, wanted)


@pytest.mark.parametrize(
    ("unified", "name"), [(True, "cpuset__cpus__effective"), (False, "cpuset__effective_cpus")]
)
def test_cpus_must_be_there(tmp_path: Path, unified: bool, name: str) -> None:
    """CPUs that the machine does not have are refused, with those that it has."""
    made = groups(tmp_path, unified, **{name: "0-2,4\n"})
    limits.check(made, Limits(cpuset_cpus="1-2,4"))
    with pytest.raises(InvalidSpec, match="0-2,4"):
        limits.check(made, Limits(cpuset_cpus="3"))


def test_a_device_must_be_a_disk(tmp_path: Path) -> None:
    """A device that is none, or no disk, is refused by its name."""
    made = groups(tmp_path, True, io__max="")
    for device in ("/dev/null", "/dev/no-such-disk"):
        with pytest.raises(InvalidSpec, match=device):
            limits.check(made, Limits(io_rates=(IoRate(device, "read", "bps", 1),)))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda: Limits(memory_swap=-1), "memory limit beside"),
        (lambda: Limits(memory=8 * MIB, memory_swap=4 * MIB), "together"),
        (lambda: Limits(memory=8 * MIB, memory_swap=0), "together"),
        (lambda: Limits(memory_reservation=1), "4 MiB"),
        (lambda: Limits(memory=8 * MIB, memory_reservation=9 * MIB), "no more than memory"),
        (lambda: Limits(cpuset_cpus="a"), "list like"),
        (lambda: Limits(cpuset_cpus="0-"), "list like"),
        (lambda: Limits(cpuset_cpus="1-0"), "list like"),
        (lambda: Limits(io_weight=9), "10 and 1000"),
        (lambda: Limits(io_rates=(IoRate("sda", "read", "bps", 1),)), "/dev"),
        (lambda: Limits(io_rates=(IoRate("/dev/sda", "read", "bps", 0),)), "1 or more"),
    ],
)
def test_a_wrong_limit_is_refused(wrong: object, words: str) -> None:
    """Limits that make no sense are refused with what would."""
    assert callable(wrong)
    with pytest.raises(InvalidSpec, match=words):
        wrong()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Limits(memory=8 * MIB), {"limit": 8 * MIB, "swap": 8 * MIB}),
        (Limits(memory=8 * MIB, memory_swap=-1), {"limit": 8 * MIB, "swap": -1}),
        (Limits(memory=8 * MIB, memory_swap=9 * MIB), {"limit": 8 * MIB, "swap": 9 * MIB}),
        (Limits(memory_reservation=8 * MIB), {"reservation": 8 * MIB}),
    ],
)
def test_memory_and_swap_count_together(given: Limits, expected: dict[str, int]) -> None:
    """Without a word about swap there is none beyond the memory limit."""
    assert bundle.resources(given)["memory"] == expected
