"""Control groups read from made-up hierarchies of v1, v2 and both."""

from pathlib import Path

import pytest

from shipway.runtime.errors import HostUnfit
from shipway.runtime.kernel import cgroups
from shipway.runtime.kernel.cgroups import Cgroups, Hierarchy
from shipway.runtime.network.counters import Traffic
from shipway.runtime.observability.stats import Stats, machine_memory, read_stats

MIB = 1024 * 1024


def write(folder: Path, **files: str) -> None:
    """Make kernel-like files; a double underscore in a name stands for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def groups(*hierarchies: Hierarchy) -> Cgroups:
    """Control groups on made-up hierarchies."""
    made = Cgroups("shipway")
    made.hierarchies = hierarchies
    return made


def v2(tmp_path: Path, controllers: str = "cpu memory pids") -> Hierarchy:
    """A unified hierarchy."""
    write(tmp_path, cgroup__controllers=controllers, cgroup__subtree_control="")
    return Hierarchy(tmp_path, frozenset(controllers.split()), unified=True)


def hybrid(tmp_path: Path, *controllers: str) -> Cgroups:
    """The older kind for these controllers, beside a unified hierarchy that has none."""
    return groups(*(v1(tmp_path, name) for name in controllers), v2(tmp_path / "unified", ""))


def v1(tmp_path: Path, controller: str) -> Hierarchy:
    """A hierarchy of one controller."""
    (tmp_path / controller).mkdir(parents=True)
    return Hierarchy(tmp_path / controller, frozenset([controller]), unified=False)


def test_mounts_tell_the_hierarchies(tmp_path: Path) -> None:
    """Both kinds are read from the list of mounts, with the controllers that v2 still has."""
    write(tmp_path / "unified", cgroup__controllers="hugetlb\n")
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"cgroup {tmp_path}/cpu cgroup rw,relatime,cpu,cpuacct 0 0\n"
        f"cgroup2 {tmp_path}/unified cgroup2 rw,relatime 0 0\n"
        "tmpfs /tmp tmpfs rw 0 0\n"
    )
    first, second = cgroups.read_hierarchies(mounts)
    assert not first.unified
    assert {"cpu", "cpuacct"} <= first.controllers
    assert (second.unified, second.controllers) == (True, frozenset({"hugetlb"}))
    assert groups(first, second).version == "hybrid"
    assert groups(first).version == "v1"
    assert groups(second).version == "v2"


def test_v2_hands_controllers_down(tmp_path: Path) -> None:
    """setup() makes the parents and enables the controllers on the way to the containers."""
    made = groups(v2(tmp_path))
    made.setup()
    for folder in ("", "shipway", "shipway/containers"):
        text = (tmp_path / folder / "cgroup.subtree_control").read_text()
        assert text == "+cpu +memory +pids"
    assert (tmp_path / "shipway/monitors").is_dir()


def test_a_missing_controller_is_named(tmp_path: Path) -> None:
    """Without the memory controller the host is unfit."""
    with pytest.raises(HostUnfit, match="memory"):
        groups(v2(tmp_path, "cpu pids")).setup()


def stats(made: Cgroups) -> Stats | None:
    """What the container "web" uses."""
    return read_stats(made, ["web"], {"web": Traffic(5, 6)}).get("web")


def test_stats_and_oom_of_v2(tmp_path: Path) -> None:
    """Memory without inactive file cache, CPU time in microseconds, OOM kills (not OOM events)."""
    write(
        tmp_path / "shipway/containers/web",
        memory__current=str(10 * MIB),
        memory__stat=f"anon 1\ninactive_file {MIB}\n",
        memory__max=f"{20 * MIB}\n",
        memory__events="low 0\noom 5\noom_kill 2\noom_group_kill 0\n",
        io__stat="8:0 rbytes=10 wbytes=20 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=1 wbytes=2\n",
        cpu__stat="usage_usec 1234\nuser_usec 1\n",
        pids__current="3\n",
        cgroup__procs="11\n12\n",
    )
    made = groups(v2(tmp_path, "cpu io memory pids"))
    assert stats(made) == Stats(9 * MIB, 1234, 3, 20 * MIB, 11, 22, 5, 6)
    (tmp_path / "shipway/containers/web/memory.max").write_text("max\n")
    assert stats(made) == Stats(9 * MIB, 1234, 3, machine_memory(), 11, 22, 5, 6)
    assert made.oom_kills("web") == 2
    assert made.members("web") == {11, 12}


def test_stats_and_oom_of_v1(tmp_path: Path) -> None:
    """The same from the files of the older kind, on a hybrid host."""
    names = ("blkio", "cpuacct", "memory", "pids")
    made = hybrid(tmp_path, *names)
    place = "shipway/containers/web"
    write(
        tmp_path / "memory" / place,
        memory__usage_in_bytes=str(10 * MIB),
        memory__stat=(
            f"inactive_file 7\nhierarchical_memory_limit {20 * MIB}\ntotal_inactive_file {MIB}\n"
        ),
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
    )
    write(tmp_path / "cpuacct" / place, cpuacct__usage="1234000\n")
    write(tmp_path / "pids" / place, pids__current="3\n")
    write(
        tmp_path / "blkio" / place,
        blkio__throttle__io_service_bytes_recursive="8:0 Read 10\n8:0 Write 20\n8:0 Total 30\n"
        "8:16 Read 1\n8:16 Write 2\n8:16 Total 3\nTotal 33\n",
    )
    assert stats(made) == Stats(9 * MIB, 1234, 3, 20 * MIB, 11, 22, 5, 6)
    assert made.oom_kills("web") == 1


def test_a_container_that_is_gone_has_nothing(tmp_path: Path) -> None:
    """Everything about an unknown container is empty, and removing it is no error."""
    made = groups(v2(tmp_path))
    assert stats(made) is None
    assert made.oom_kills("web") == 0
    assert made.members("web") == set()
    made.kill_all("web")
    made.remove("web")


def test_a_hybrid_host_with_nothing_left_in_v2_suits_crun(tmp_path: Path) -> None:
    """No mount is needed where v2 has no controller, or where there is v2 only."""
    assert cgroups.mount_leftovers((v2(tmp_path / "a"),))
    assert cgroups.mount_leftovers((v1(tmp_path / "b", "cpu"), v2(tmp_path / "c", "")))
