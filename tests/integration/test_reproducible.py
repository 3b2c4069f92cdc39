"""The same commit, built on two hosts, is the same image."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildlab import Builder, open_builder
from shipway.runtime.spec import IdRange, Limits

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LOCK = Path(__file__).resolve().parents[1] / "data" / "nodejs" / "npm" / "package-lock.json"
PYTHON = {
    "requirements.txt": "flask==3.0.3\nmarkupsafe==3.0.2\n",
    "Procfile": "web: python app.py\n",
    "app.py": "import flask\n",
}
NODE = {
    "package.json": json.dumps(
        {
            "name": "x",
            "version": "1.0.0",
            "scripts": {"start": "node index.js"},
            "dependencies": {"is-odd": "3.0.1"},
            "devDependencies": {"is-ci": "3.0.1"},
        }
    ),
    "package-lock.json": LOCK.read_text(),
    "index.js": "",
}
STATIC = {"index.html": "<h1>home</h1>" * 200, "a/b.css": "x{}" * 1000, "_redirects": "/a /b 302\n"}


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Builder, Builder]]:
    """Two engines, each with its own folders, network and stores; only the stack is the same."""
    with open_builder(f"{__name__}-one") as one, open_builder(f"{__name__}-two") as other:
        yield one, other


@pytest.mark.parametrize("app", [PYTHON, NODE, STATIC], ids=["python", "nodejs", "static"])
def test_two_hosts_make_the_same_image(
    hosts: tuple[Builder, Builder], app: dict[str, str | bytes]
) -> None:
    """Whatever a host is called, its ids and limits, its umask, and when the files came: each layer is the same."""
    one, other = hosts
    first = one.build(app, build_id="1-1", cache=one.folder / "cache", ref="app-1/build:1")
    changes = {"ids": IdRange(3_000_000), "limits": Limits(memory=2 << 30, cpus=1.0, pids=512)}
    umask = os.umask(0o077)
    try:
        request = other.request(app)
        for path in request.source.rglob("*"):
            os.utime(path, (time.time() - 10**6,) * 2)
            path.chmod(0o755 if path.is_dir() else 0o644)  # which git says
        request.source.chmod(0o755)
    finally:
        os.umask(umask)
    second = other.build(request.source, **changes, build_id="7-2", ref="app-9/build:7")
    layers = [
        [layer.diff_id for layer in b.image(r).layers]
        for b, r in zip(hosts, (first, second), strict=True)
    ]
    assert layers[0] == layers[1]
    assert first.image == second.image
