"""The lifecycle's result as the host reads it: nothing in it is trusted."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest

from shipway.buildpacks import result
from shipway.buildpacks.errors import BuildFailed

GOOD: dict[str, Any] = {
    "group": ["a/b"],
    "layers": [
        {
            "buildpack": "a/b",
            "name": "venv",
            "launch": True,
            "build": False,
            "cache": True,
            "data": {"x": 1},
            "has_folder": True,
        }
    ],
    "processes": [
        {
            "type": "web",
            "buildpack": "a/b",
            "command": ["x"],
            "args": [],
            "direct": True,
            "default": True,
            "working_dir": "/workspace",
            "exec_env": [],
        }
    ],
    "labels": {"mine": "x", "io.buildpacks.lifecycle.metadata": "forged"},
    "slices": [["a/*"]],
    "default": None,
    "stores": {},
    "seconds": {"detect": 0.1, "build": 1},
}


def changed(*path: Any, to: Any) -> bytes:
    document = copy.deepcopy(GOOD)
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = to
    return json.dumps(document).encode()


def put(upper: Path, data: bytes) -> None:
    (upper / "config").mkdir(parents=True)
    (upper / "config" / "result.json").write_bytes(data)


def test_good(tmp_path: Path) -> None:
    """A well-formed result is read; labels that are ours are not taken from a buildpack."""
    put(tmp_path, json.dumps(GOOD).encode())
    found = result.read(tmp_path, {"a/b"})
    assert found.group == ("a/b",)
    assert found.labels == {"mine": "x"}
    assert found.layers[0].data == {"x": 1}
    assert found.seconds == {"detect": 0.1, "build": 1.0}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 200_000,
        b"{}",
        b" " * (1 << 20) + b"{}",
        changed("group", to=["evil"]),
        changed("group", to=[[]]),
        changed("group", to="a/b"),
        changed("layers", 0, "name", to="../../etc"),
        changed("layers", 0, "name", to="/etc"),
        changed("layers", 0, "name", to=".."),
        changed("layers", 0, "name", to="a\nb"),
        changed("layers", 0, "name", to=""),
        changed("layers", 0, "launch", to=1),
        changed("layers", 0, "data", to=[]),
        changed("layers", to=GOOD["layers"] * 2),
        changed("layers", to=GOOD["layers"] * 200),
        changed("processes", 0, "type", to="web; rm"),
        changed("processes", 0, "command", to=[]),
        changed("processes", 0, "command", to=["a\0"]),
        changed("processes", 0, "command", to=["\ud800"]),
        changed("processes", 0, "command", to=["x" * 40_000]),
        changed("slices", to=["a"]),
        changed("slices", to=[["\0"]]),
        changed("default", to=1),
        changed("labels", to={"a\nb": "c"}),
        changed("stores", to={"other": {}}),
        changed("seconds", to={"build": "x"}),
    ],
    ids=range(29),
)
def test_hostile(tmp_path: Path, data: bytes) -> None:
    """Whatever else stands there is a failed build."""
    put(tmp_path, data)
    with pytest.raises(BuildFailed, match="without a usable result"):
        result.read(tmp_path, {"a/b", "other"})


def test_links(tmp_path: Path) -> None:
    """Links and pipes in its place are not followed and not waited on."""
    real = tmp_path / "real"
    put(real, json.dumps(GOOD).encode())
    (tmp_path / "one").mkdir()
    (tmp_path / "one/config").symlink_to(real / "config")
    (tmp_path / "two/config").mkdir(parents=True)
    (tmp_path / "two/config/result.json").symlink_to(real / "config/result.json")
    (tmp_path / "three/config").mkdir(parents=True)
    os.mkfifo(tmp_path / "three/config/result.json")
    (tmp_path / "four").mkdir()
    for name in ("one", "two", "three", "four"):
        with pytest.raises(BuildFailed):
            result.read(tmp_path / name, {"a/b"})
