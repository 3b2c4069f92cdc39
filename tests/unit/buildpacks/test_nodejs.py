"""The Node.js buildpack's decisions, and version ranges as npm reads them."""

import json
from pathlib import Path
from typing import Any

import pytest

from shipway.buildpacks.kit import semver
from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.nodejs import build, managers, manifest, versions


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("*", ["0.0.1", "26.1.0"], ["1.0.0-rc.1"]),
        ("", ["20.0.0"], []),
        ("20", ["20.0.0", "20.9.1"], ["19.9.9", "21.0.0", "21.0.0-rc.1"]),
        ("v20.x", ["20.1.0"], ["21.0.0"]),
        ("20.1", ["20.1.9"], ["20.2.0"]),
        ("=20.1.2", ["20.1.2"], ["20.1.3"]),
        ("^20.1.2", ["20.1.2", "20.9.0"], ["20.1.1", "21.0.0"]),
        ("^0.2.3", ["0.2.9"], ["0.3.0"]),
        ("^0.0.3", ["0.0.3"], ["0.0.4"]),
        ("~1.2.3", ["1.2.9"], ["1.3.0"]),
        ("~1", ["1.9.0"], ["2.0.0"]),
        (">=18 <21", ["18.0.0", "20.9.9"], ["21.0.0", "17.9.9"]),
        (">= 18", ["18.0.0"], ["17.0.0"]),
        (">18", ["19.0.0"], ["18.9.9"]),
        ("<=18", ["18.9.9"], ["19.0.0"]),
        ("18 || >=20.1 <20.3", ["18.2.0", "20.2.9"], ["19.0.0", "20.3.0"]),
        ("1.2 - 2.3", ["1.2.0", "2.3.9"], ["2.4.0"]),
        (">=1.2.3-beta.2", ["1.2.3-beta.11", "1.2.3", "2.0.0"], ["1.2.3-beta.1", "1.3.0-beta"]),
    ],
)
def test_ranges(text: str, inside: list[str], outside: list[str]) -> None:
    """Ranges hold what npm's own reader says that they hold."""
    wanted = semver.Range(text)
    known = {name: semver.version(name) for name in (*inside, *outside)}
    assert None not in known.values()
    allowed = [name for name, version in known.items() if version and wanted.allows(version)]
    assert allowed == inside


@pytest.mark.parametrize("text", ["abc", "20.y", ">=", "20 || nope", "1.2.3.4", "x.1"])
def test_no_range(text: str) -> None:
    """What is none is refused."""
    with pytest.raises(semver.InvalidRange):
        semver.Range(text)


def test_best() -> None:
    """The newest of a range is taken, by number and not by letters."""
    known = [semver.Version(22, 9, 0), semver.Version(22, 10, 0), semver.Version(23, 0, 0)]
    assert semver.Range("22").best(known) == semver.Version(22, 10, 0)
    assert semver.Range("21").best(known) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "package.json line 1, column 1: a value is missing or is not JSON."),
        ('{\n "a": 1,\n}', "package.json line 3, column 1: a name in double quotes is missing."),
        ('{\n "a": 1\n "b": 2}', "package.json line 3, column 2: a comma or the closing bracket"),
        ("[1]", "package.json line 1: has a list at its top, expected an object in braces."),
        ('{\n\n"scripts": []}', "package.json line 3: scripts is a list, expected an object of"),
        ('{"scripts":\n{"start": 1}}', "line 2: scripts.start is a number, expected a string."),
        ('{"dependencies": {\n"a": null}}', "line 2: dependencies.a is null, expected a string."),
        ('{"workspaces": "a"}', "line 1: workspaces is a string, expected a list of folders."),
        ('{\n"packageManager": "pnpm"}', 'line 2: packageManager is "pnpm", expected a name and'),
        ('{"packageManager": "cargo@1.2.3"}', "the names are npm, yarn, pnpm, bun."),
        ('{"scripts": {},\n"scripts": {}}', "line 2: 'scripts' is there twice, expected it once."),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_malformed_manifest(text: str, message: str) -> None:
    """What is wrong with a package.json is told with its line and what was expected there."""
    with pytest.raises(CannotBuild) as error:
        manifest.parse(text)
    shown = error.value.lines[0]
    # Newer Pythons name the comma that is too much, on the line before.
    assert message in shown or "there is a comma after the last" in shown


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def chosen(app: Path, locks: dict[str, str], **document: Any) -> managers.Manager:
    for name, text in locks.items():
        (app / name).write_text(text)
    return managers.choose(manifest.parse(json.dumps(document)))


@pytest.mark.parametrize(
    ("locks", "document", "name", "wanted", "install"),
    [
        ({}, {}, "npm", "*", "npm install --include=dev"),
        ({"package-lock.json": ""}, {}, "npm", "*", "npm ci --include=dev"),
        ({"pnpm-lock.yaml": ""}, {}, "pnpm", "10.x", "pnpm install --frozen-lockfile --prod=false"),
        ({"bun.lock": "", "bun.lockb": ""}, {}, "bun", "1.x", "bun install --frozen-lockfile"),
        ({"yarn.lock": "# yarn lockfile v1"}, {}, "yarn", "1.x", "--production=false"),
        ({"yarn.lock": "__metadata:\n"}, {}, "yarn", "4.x", "yarn install --immutable"),
        (
            {"yarn.lock": "__metadata:\n"},
            {"packageManager": "yarn@3.8.1"},
            "yarn",
            "3.8.1",
            "yarn install --immutable",
        ),
        ({}, {"packageManager": "pnpm@9.1.0+sha512.ab"}, "pnpm", "9.1.0", "pnpm install"),
        ({"yarn.lock": ""}, {"engines": {"yarn": "^1.22"}}, "yarn", "^1.22", "--frozen-lockfile"),
        (
            {"yarn.lock": "", "package-lock.json": ""},
            {"packageManager": "npm@10.9.0"},
            "npm",
            "10.9.0",
            "npm ci",
        ),
    ],
)
def test_manager(
    app: Path,
    locks: dict[str, str],
    document: dict[str, Any],
    name: str,
    wanted: str,
    install: str,
) -> None:
    """The lock file says which package manager it is, and packageManager which version."""
    manager = chosen(app, locks, **document)
    assert (manager.name, str(manager.wanted)) == (name, wanted)
    assert install in " ".join(manager.install)


@pytest.mark.parametrize(
    ("locks", "document", "message"),
    [
        (
            {"yarn.lock": "", "package-lock.json": ""},
            {},
            "lock files of several package managers: package-lock.json and yarn.lock.",
        ),
        (
            {"yarn.lock": ""},
            {"packageManager": "pnpm@9.0.0"},
            "packageManager in package.json is pnpm, but the lock file is yarn.lock of yarn.",
        ),
        ({}, {"engines": {"npm": "new"}}, "engines.npm in package.json says 'new'"),
    ],
)
def test_managers_that_disagree(
    app: Path, locks: dict[str, str], document: dict[str, Any], message: str
) -> None:
    """Lock files that disagree end the build, with what to delete or to write."""
    with pytest.raises(CannotBuild, match=message):
        chosen(app, locks, **document)


@pytest.mark.parametrize(
    ("files", "engines", "wanted", "source"),
    [
        ({}, {}, versions.DEFAULT, ""),
        ({".nvmrc": "v20.1.0\n"}, {}, "v20.1.0", ".nvmrc"),
        ({".nvmrc": "# ours\nlts/jod"}, {}, "22.x", ".nvmrc"),
        ({".node-version": "\ufeff22\r\n", ".nvmrc": "\n"}, {}, "22", ".node-version"),
        ({".nvmrc": "20"}, {"node": ">=18 <21"}, ">=18 <21", "engines.node in package.json"),
        ({}, {"node": "latest"}, "*", "engines.node in package.json"),
    ],
)
def test_node_version(
    app: Path, files: dict[str, str], engines: dict[str, str], wanted: str, source: str
) -> None:
    """`engines` says which Node.js, else .nvmrc, else .node-version, else it is the default."""
    for name, text in files.items():
        (app / name).write_text(text)
    found = versions.asked(manifest.parse(json.dumps({"engines": engines})))
    assert (str(found[0]), found[1]) == (wanted, source)


@pytest.mark.parametrize("text", ["twenty", "lts/none", "20 ||| 21"])
def test_no_node_version(app: Path, text: str) -> None:
    """What is no version names the file, what it says and what was expected."""
    (app / ".nvmrc").write_text(text)
    with pytest.raises(CannotBuild, match="nvmrc") as error:
        versions.asked(manifest.parse("{}"))
    assert versions.DEFAULT in error.value.lines[1]


@pytest.mark.parametrize(
    ("scripts", "command"),
    [
        ({"start": "node index.js"}, "node index.js"),
        ({"start": "node x", "prestart": "y"}, "npm run start"),
        ({"start": "node x $npm_package_version"}, "npm run start"),
        ({}, ""),
    ],
)
def test_web_command(app: Path, scripts: dict[str, str], command: str) -> None:
    """The start script is run without npm in between, unless it needs what npm adds."""
    document = json.dumps({"scripts": scripts})
    found = build.web_command(manifest.parse(document), managers.choose(manifest.parse(document)))
    assert found == command


def test_server_js(app: Path) -> None:
    """Without a start script it is server.js, as npm has it."""
    (app / "server.js").write_text("")
    empty = manifest.parse("{}")
    assert build.web_command(empty, managers.choose(empty)) == "node server.js"
