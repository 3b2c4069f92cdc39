"""The files of our own buildpacks against the specification's formats, written down key by key."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from shipway.buildpacks import launcher, result
from shipway.buildpacks.catalog import HERE
from shipway.buildpacks.lifecycle.request import Buildpack

ID = r"(?!(app|config|generated|sbom)$)[A-Za-z0-9./-]+"
VERSION = r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
FORMAT = r"application/(vnd\.cyclonedx|spdx|vnd\.syft)\+json"
TYPE = r"[A-Za-z0-9._-]+"
# A text is a pattern, a type itself, a list holds what each item is, a mapping a table; `!` is asked for.
BUILDPACK: Mapping[str, Any] = {
    "!api": r"0\.(7|8|9|10|11|12)",
    "!buildpack": {
        "!id": ID,
        "!version": VERSION,
        "name": str,
        "homepage": str,
        "clear-env": bool,
        "description": str,
        "keywords": [str],
        "sbom-formats": [FORMAT],
        "licenses": [{"type": str, "uri": str}],
        "exec-env": [{"!name": r"[^/]+"}],
    },
    "order": [{"!group": [{"!id": ID, "!version": VERSION, "optional": bool, "exec-env": [str]}]}],
    "targets": [
        {"os": str, "arch": str, "variant": str, "distros": [{"name": str, "version": str}]}
    ],
    "stacks": [{"!id": str, "mixins": [str]}],
    "metadata": dict,
}
METADATA: Mapping[str, Any] = {
    "!buildpack-default-process-type": str,
    "!buildpacks": [{"!id": ID, "!version": VERSION, "!api": r"0\.\d+", "homepage": str}],
    "!processes": [
        {
            "!type": TYPE,
            "!command": [str],
            "!args": [str],
            "!direct": bool,
            "!buildpack-id": ID,
            "!working-dir": r"/.*",
            "!exec-env": [str],
        }
    ],
    "!slices": [{"!paths": [str]}],
}


def wrong(value: Any, schema: Any, path: str = "") -> Iterator[str]:
    """What of a document does not fit its schema."""
    if isinstance(schema, str):
        if not isinstance(value, str) or not re.fullmatch(schema, value):
            yield f"{path}: {value!r} is not {schema}"
    elif isinstance(schema, type):
        if not isinstance(value, schema):
            yield f"{path}: {value!r} is no {schema.__name__}"
    elif isinstance(schema, list):
        if not isinstance(value, list):
            yield f"{path} is no list"
            return
        for number, item in enumerate(value):
            yield from wrong(item, schema[0], f"{path}[{number}]")
    elif not isinstance(value, dict):
        yield f"{path} is no table"
    else:
        known = {key.removeprefix("!"): inner for key, inner in schema.items()}
        for key in schema:
            if key.startswith("!") and key[1:] not in value:
                yield f"{path}.{key[1:]} is missing"
        for key, inner in value.items():
            if key not in known:
                yield f"{path}.{key} is not known"
            else:
                yield from wrong(inner, known[key], f"{path}.{key}")


DESCRIPTIONS = sorted(HERE.glob("*/buildpack.toml"))


@pytest.mark.parametrize("path", DESCRIPTIONS, ids=lambda path: path.parent.name)
def test_buildpack_toml(path: Path) -> None:
    """Our buildpack.toml files have the specification's keys and no others, with its values."""
    assert list(wrong(tomllib.loads(path.read_text()), BUILDPACK)) == []
    assert (path.parent / "bin" / "detect").stat().st_mode & 0o111
    assert (path.parent / "bin" / "build").stat().st_mode & 0o111


def test_a_schema_can_fail() -> None:
    """The check itself sees what is missing, unknown and of the wrong kind."""
    document = {"api": "0.6", "buildpack": {"id": "app", "clear-env": 1, "odd": ""}}
    assert [line.split(" ")[0] for line in wrong(document, BUILDPACK)] == [
        ".api:",
        ".buildpack.version",
        ".buildpack.id:",
        ".buildpack.clear-env:",
        ".buildpack.odd",
    ]


def test_metadata_toml() -> None:
    """The metadata.toml of an image has the specification's keys, and reads back as it was."""
    process = result.ResultProcess("web", "a/b", ("x", 'q"\n'), ("y",), True, True, "/workspace")
    made = result.Result(("a/b",), (), (process,), {}, {}, (("*.js",),), "web", {})
    document = tomllib.loads(launcher.metadata(made, [Buildpack("a/b", "1.2.3", "0.10")]))
    assert list(wrong(document, METADATA)) == []
    assert document["processes"][0]["command"] == ["x", 'q"\n']
    assert document["processes"][0]["exec-env"] == ["*"]
