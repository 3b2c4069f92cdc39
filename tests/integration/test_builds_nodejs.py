"""Node.js apps on real parts: Node.js and packages from the registry, built, started and asked."""

import json
from pathlib import Path
from typing import Any

import pytest

from buildlab import Builder, answer

LOCKS = Path(__file__).resolve().parents[1] / "data" / "nodejs"
PACKAGE = {
    "name": "x",
    "version": "1.0.0",
    "scripts": {
        "start": "node index.js",
        # What only development needs is there, as is a folder for what tools keep to themselves.
        "build": "is-ci && echo $NODE_ENV > made && echo x > node_modules/is-odd/written"
        " && mkdir -p node_modules/.cache && echo x > node_modules/.cache/y",
    },
    "dependencies": {"is-odd": "3.0.1"},
    "devDependencies": {"is-ci": "3.0.1"},
}
SERVER = """
const fs = require('fs');
require('http').createServer((_, response) => response.end([
  require('is-odd')(3), process.env.NODE_ENV, fs.readFileSync('made', 'utf8').trim(),
  fs.existsSync('node_modules/is-ci'), fs.existsSync('node_modules/is-odd/written'),
].join(' ') + '\\n')).listen(process.env.PORT);
"""
ANSWER = "true production production false true\n"


def app(manager: str = "", **document: Any) -> dict[str, str | bytes]:
    files: dict[str, str | bytes] = {
        "package.json": json.dumps({**PACKAGE, **document}),
        "index.js": SERVER,
    }
    for lock in (LOCKS / manager).iterdir() if manager else ():
        files[lock.name] = lock.read_bytes()
    return files


def test_npm(builder: Builder) -> None:
    """An app is built with the Node.js of its range; one change of code installs nothing again."""
    files = app("npm", engines={"node": ">=20 <23"})
    cache = builder.folder / "npm"
    first = builder.build(files, cache=cache)
    assert any(line.startswith("       Fetching Node.js 22.") for line in builder.lines)
    assert first.processes["web"] == "node index.js"
    assert answer(builder, first) == ANSWER
    look = "node --version; npm --version; ls -a node_modules; test -e made && echo made"
    found = builder.run(first, look).split()
    assert found[0].startswith("v22.")
    assert "is-ci" not in found
    assert ".cache" not in found

    files["index.js"] = SERVER.replace("'\\n'", "' changed\\n'")
    second = builder.build(files, cache=cache, previous=first.image)
    assert not any("Installing" in line or "Fetching" in line for line in builder.lines)
    assert "-----> Running the script 'build'" in builder.lines
    assert answer(builder, second) == ANSWER.replace("\n", " changed\n")
    for layer in ("node", "modules"):
        assert builder.layer(second, layer) == builder.layer(first, layer)

    other = app("npm", dependencies={"is-odd": "2.0.0"}, engines={"node": ">=20 <23"})
    builder.failure(other, previous=first.image, cache=cache)
    assert " !     package-lock.json does not fit package.json." in builder.lines


@pytest.mark.parametrize("manager", ["pnpm", "yarn", "bun"])
def test_other_managers(builder: Builder, manager: str) -> None:
    """Each package manager's lock file is honoured, and production's packages are in the image."""
    result = builder.build(app(manager), cache=builder.folder / manager)
    assert answer(builder, result) == ANSWER
    assert any(
        line.startswith(f"-----> Installing packages using '{manager} install --frozen-lockfile")
        for line in builder.lines
    )


def test_workspaces(builder: Builder) -> None:
    """Workspaces are installed where they lie, and found by each other."""
    member = {"name": "own", "version": "1.0.0", "main": "own.js"}
    files: dict[str, str | bytes] = {
        "package.json": json.dumps(
            {
                "workspaces": ["packages/*"],
                "packageManager": "bun@1.3.0",
                "dependencies": {"own": "workspace:*"},
            }
        ),
        "packages/own/package.json": json.dumps(member),
        "packages/own/own.js": "module.exports = 'own';",
        "server.js": "require('http').createServer((_, r) => r.end(require('own') + '\\n'))"
        ".listen(process.env.PORT)",
    }
    result = builder.build(files, cache=builder.folder / "bun")
    assert result.processes["web"] == "bun server.js"
    assert answer(builder, result) == "own\n"
    assert "       Fetching Bun 1.3.0" in builder.lines


@pytest.mark.parametrize(
    ("files", "reason", "advice"),
    [
        ({"package.json": '{\n "scripts": 1}'}, "Package.json line 2: scripts is a number", ""),
        ({"package.json": "{}"}, "This Node.js app has no Procfile", "start"),
        (
            app(engines={"node": "99.x"}),
            "Engines.node in package.json asks for Node.js 99.x",
            "22.",
        ),
    ],
)
def test_failures(
    builder: Builder, files: dict[str, str | bytes], reason: str, advice: str
) -> None:
    """What cannot be built ends with a reason and a way on."""
    assert builder.failure(files).casefold().startswith(reason.casefold())
    assert any(advice in line for line in builder.lines)


def test_unreachable_registry(builder: Builder) -> None:
    """A registry that does not answer is named, with the setting that names another; nothing hangs."""
    env = {"npm_config_registry": "http://user:hunter2@127.0.0.1:9/npm"}
    reason = builder.failure(app("npm"), env=env)
    assert "127.0.0.1:9 could not be reached from the build" in reason
    assert any("the setting npm_config_registry names it" in line for line in builder.lines)
    assert "hunter2" not in "\n".join(builder.lines)
