"""The engine's walls beside Docker's newest: as tight in each place, or tighter."""

import json
import platform
from pathlib import Path
from typing import Any

import pytest

from shipway.runtime.oci import bundle, seccomp
from shipway.runtime.spec import GRANTABLE_CAPABILITIES, ContainerSpec, IdRange

DATA = Path(__file__).resolve().parents[3] / "data"
DOCKER = json.loads((DATA / "docker_seccomp.json").read_text())
CONTAINER = json.loads((DATA / "docker_container.json").read_text())

NONE: frozenset[str] = frozenset()
BITS = [1 << bit for bit in range(64)]
# What is tried of an argument: each bit alone, neighbours of every value that a rule names.
TRIED = {
    "clone": [0, 17, 0x3D0F00, *BITS, *(bit | 17 for bit in BITS)],
    "personality": [0, 8, 0x20000, 0x20008, 0xFFFFFFFF, 1, 0x40000, 0x20009, 0xFFFFFFFE, *BITS],
    "socket": [*range(64), *BITS],
}

# Where ours is narrower, and why.
NARROWER = {
    "no program of an app looks into others": {"process_vm_readv", "process_vm_writev", "ptrace"},
    "file handles serve to leave a container, and need a capability to be opened": {
        "name_to_handle_at"
    },
    "of 32-bit programs, which the filter kills": {
        "get_thread_area",
        "modify_ldt",
        "set_thread_area",
    },
    "never made, or long replaced": {"epoll_ctl_old", "epoll_wait_old", "remap_file_pages"},
}


def docker_allows(name: str, argument: int, capabilities: frozenset[str]) -> bool:
    """Docker's answer, by the table of ours."""
    answer = DOCKER["calls"][name][1]
    if answer != "arguments":
        return answer == "allowed" or bool(capabilities & set(answer.split(" or ")))
    rule = DOCKER["arguments"][name]
    assert rule["argument"] == 0
    if "none_of_bits" in rule:
        return not argument & rule["none_of_bits"]
    if "one_of" in rule:
        return argument in rule["one_of"]
    return argument not in rule["none_of"]


def ours_allows(name: str, argument: int, capabilities: frozenset[str]) -> bool:
    """The profile's answer: the one rule that fits, else the default."""
    profile = seccomp.profile(capabilities)
    rules = [rule for rule in profile["syscalls"] if name in rule["names"]]
    fitting = {
        rule["action"] for rule in rules if all(fits(a, argument) for a in rule.get("args", []))
    }
    assert len(fitting) <= 1, f"{name}({argument}) has two answers"
    return fitting == {"SCMP_ACT_ALLOW"}


def fits(condition: dict[str, Any], argument: int) -> bool:
    """Whether an argument meets one condition of a rule."""
    assert condition["index"] == 0
    return {
        "SCMP_CMP_EQ": argument == condition["value"],
        "SCMP_CMP_GT": argument > condition["value"],
        "SCMP_CMP_MASKED_EQ": argument & condition["value"] == condition.get("valueTwo", 0),
    }[condition["op"]]


@pytest.mark.parametrize(
    "capabilities", [NONE, frozenset({"CAP_SYS_CHROOT"}), GRANTABLE_CAPABILITIES]
)
def test_no_system_call_is_allowed_that_docker_refuses(capabilities: frozenset[str]) -> None:
    """Every call of the architecture, with every telling argument, at the same capabilities."""
    wider = [
        (name, argument)
        for name in DOCKER["calls"]
        for argument in TRIED.get(name, [0])
        if ours_allows(name, argument, capabilities)
        and not docker_allows(name, argument, capabilities)
    ]
    assert wider == []


def test_where_the_filter_is_narrower_there_is_a_reason() -> None:
    """The calls that Docker allows and ours does not are just those listed; and the families."""
    narrower = {
        name
        for name in DOCKER["calls"]
        if any(
            docker_allows(name, each, NONE) and not ours_allows(name, each, NONE)
            for each in TRIED.get(name, [0])
        )
    }
    assert narrower == set().union(*NARROWER.values(), {"socket"})
    families = {each for each in TRIED["socket"] if ours_allows("socket", each, NONE)}
    assert families == {1, 2, 10, 16}  # unix, inet, inet6 and netlink


def test_the_table_knows_every_call_of_ours() -> None:
    """No name of ours escapes the comparison, and no number is named twice."""
    names = {name for rule in seccomp.profile()["syscalls"] for name in rule["names"]}
    assert names <= set(DOCKER["calls"])
    numbers = [number for number, _ in DOCKER["calls"].values()]
    assert len(numbers) == len(set(numbers)) > 370


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the table is of x86_64")
def test_the_table_is_the_kernels() -> None:
    """Where the kernel's headers are installed, the table has all their calls and numbers."""
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if not header.exists():
        pytest.skip("the kernel's headers (linux-libc-dev) are not installed")
    lines = [line.split() for line in header.read_text().splitlines()]
    named = {w[1][5:]: int(w[2]) for w in lines if len(w) == 3 and w[1].startswith("__NR_")}
    assert {name: DOCKER["calls"].get(name, [None])[0] for name in named} == named


def document(**changes: Any) -> dict[str, Any]:
    """A container's OCI configuration."""
    values = {"id": "web", "image": "i", "args": ("run",), "env": {}, "ids": IdRange(100000)}
    heat = CONTAINER["masked_for_each_cpu"].format(number=0)
    host = bundle.Host(Path("/r"), "/shipway/containers/web", 20000, masked=(heat,))
    return bundle.config(ContainerSpec(**{**values, **changes}), host, [], {})


def test_capabilities_paths_devices_and_namespaces_are_as_tight_as_dockers() -> None:
    """Fewer capabilities can be had at most than Docker gives at least; all it hides is hidden."""
    assert set(CONTAINER["capabilities"]) >= GRANTABLE_CAPABILITIES
    linux = document()["linux"]
    assert set(linux["maskedPaths"]) >= {
        *CONTAINER["masked"],
        CONTAINER["masked_for_each_cpu"].format(number=0),
    }
    assert set(linux["readonlyPaths"]) >= set(CONTAINER["read_only"])
    rules = linux["resources"]["devices"]
    ours = {(r["major"], r.get("minor")) for r in rules if r["allow"]}
    # Beyond Docker's list: full, and terminals, which the runtime allows to any container.
    assert ours - {tuple(each) for each in CONTAINER["devices"]} <= {(1, 7), (5, 2), (136, None)}
    kinds = {each["type"] for each in linux["namespaces"]}
    # A namespace of the clock with no offset hides nothing; Debian's runtimes cannot make one.
    assert kinds >= set(CONTAINER["namespaces"]) - {"time"}
    assert kinds >= {"user", "cgroup"}  # which Docker shares with the host unless told
    assert document()["process"]["noNewPrivileges"]  # which Docker does not set


@pytest.mark.parametrize("granted", [NONE, GRANTABLE_CAPABILITIES])
def test_file_systems_in_memory_have_bounds(granted: frozenset[str]) -> None:
    """Every tmpfs has a size and a number of files; terminals too are counted."""
    from shipway.runtime.spec import Mount

    own = (Mount("", "/one", kind="tmpfs"), Mount("", "/two", kind="tmpfs", options=("size=4096",)))
    for mount in document(readonly_root=True, mounts=own, capabilities=granted)["mounts"]:
        names = [option.partition("=")[0] for option in mount["options"]]
        if mount["type"] == "tmpfs":
            assert (names.count("size"), names.count("nr_inodes")) == (1, 1), mount
        if mount["type"] == "devpts":
            assert "max" in names
