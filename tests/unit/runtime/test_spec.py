"""Specifications that are refused before anything is touched."""

from pathlib import Path
from typing import Any

import pytest

from shipway.runtime.errors import InvalidSpec
from shipway.runtime.spec import ContainerSpec, IdRange, Limits, Mount, Overlay, check_id


def spec(**changes: Any) -> ContainerSpec:
    """A sound specification with some changes."""
    values = {"id": "web.1", "image": "i", "args": ("true",), "env": {}, "ids": IdRange(100000)}
    return ContainerSpec(**{**values, **changes})


@pytest.mark.parametrize("name", ["a", "web.1", "app-web.1.417", "0", "My_db", "a" * 63])
def test_sound_ids_are_taken(name: str) -> None:
    """Ids of letters, digits, dots, dashes and underscores are fine."""
    assert check_id(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        ".oci",
        "-x",
        "_a",
        "a/b",
        "../a",
        "a\n",
        "a b",
        "a;id",
        "$(id)",
        "ａ",
        "a" * 64,
    ],
)
def test_other_ids_are_refused(name: str) -> None:
    """Ids become file and group names, so nothing else gets through."""
    with pytest.raises(InvalidSpec, match="container id"):
        check_id(name)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"args": ()}, "args"),
        ({"args": ("",)}, "args"),
        ({"args": ("a\0b",)}, "NUL"),
        ({"env": {"A=B": "x"}}, "environment name"),
        ({"env": {"": "x"}}, "environment name"),
        ({"env": {"A": "x\0y"}}, "value of A"),
        ({"cwd": "tmp"}, "cwd"),
        ({"cwd": "/proc/self/fd/8"}, "/proc"),
        ({"user": "root"}, "numeric"),
        ({"user": "1000"}, "numeric"),
        ({"user": "70000:1"}, "outside"),
        ({"hostname": "a b"}, "host name"),
        ({"hostname": "-a"}, "host name"),
        ({"capabilities": frozenset({"CAP_SYS_ADMIN"})}, "CAP_SYS_ADMIN"),
        ({"capabilities": frozenset({"CAP_NET_RAW"})}, "CAP_NET_RAW"),
        ({"log_path": Path("log")}, "log_path"),
    ],
)
def test_unsound_specifications_are_refused(changes: dict[str, Any], what: str) -> None:
    """Each refusal names what was wrong."""
    with pytest.raises(InvalidSpec, match=what):
        spec(**changes)


@pytest.mark.parametrize("target", ["/", "tmp", "/a/../b", "", "/a\0"])
def test_mounts_need_an_absolute_target(target: str) -> None:
    """A mount cannot cover the root nor climb."""
    with pytest.raises(InvalidSpec, match="target"):
        Mount("/srv", target)


def test_overlays_keep_upper_and_work_together() -> None:
    """Upper and work must be two folders of one directory, above at least one layer."""
    with pytest.raises(InvalidSpec, match="one directory"):
        Overlay("/l", (Path("/a"),), Path("/x/upper"), Path("/y/work"))
    with pytest.raises(InvalidSpec, match="lower"):
        Overlay("/l", (), Path("/x/upper"), Path("/x/work"))


@pytest.mark.parametrize(
    "limits",
    [{"memory": 4096}, {"cpu_shares": 1}, {"cpus": 0}, {"pids": 0}, {"nofile": -1}],
)
def test_limits_that_nothing_could_run_in_are_refused(limits: dict[str, Any]) -> None:
    """A limit too small for any program is a mistake."""
    with pytest.raises(InvalidSpec):
        Limits(**limits)


@pytest.mark.parametrize("values", [(0, 1), (5, 0), (2**32 - 2, 10)])
def test_id_ranges_leave_out_root_and_the_last_id(values: tuple[int, int]) -> None:
    """The host's root is never mapped, nor an id that does not exist."""
    with pytest.raises(InvalidSpec):
        IdRange(*values)
