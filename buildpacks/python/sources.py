"""Where an app says what it needs, and how it is installed from there."""

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from shipway.buildpacks.kit import files
from shipway.buildpacks.kit.errors import CannotBuild

LOCKS = {"uv.lock": "uv", "poetry.lock": "Poetry", "Pipfile.lock": "Pipenv"}
OTHERS = ("requirements.txt", "Pipfile", "pyproject.toml")
PYPROJECT = "pyproject.toml"


class Source(NamedTuple):
    """The file that decides, and the others that it goes with."""

    name: str
    more: tuple[str, ...] = ()


def choose() -> Source:
    """The most exact of an app's files. Raises CannotBuild where lock files disagree."""
    locks = files.there(*LOCKS)
    if len(locks) > 1:
        raise CannotBuild(
            f"There are lock files of several package managers: {' and '.join(locks)}.",
            f"Expected one: delete the others, such as with `git rm {locks[1]}`.",
        )
    name = [*locks, *files.there(*OTHERS)][0]
    goes_with = {"uv.lock": PYPROJECT, "poetry.lock": PYPROJECT, "Pipfile.lock": "Pipfile"}
    more = goes_with.get(name)
    if more == PYPROJECT and not files.there(PYPROJECT):
        raise CannotBuild(f"There is {name} but no {PYPROJECT}, expected both.")
    return Source(name, tuple(files.there(more)) if more else ())


def pyproject() -> Mapping[str, Any]:
    """The document. Raises CannotBuild with the file and the line."""
    import tomllib

    try:
        return tomllib.loads(files.text(PYPROJECT))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise CannotBuild(f"{PYPROJECT} is no valid TOML: {error}.") from None


def pipfile_lock() -> tuple[list[str], str]:
    """Requirements of Pipfile.lock, in the form of a requirements.txt, and the Python that it asks for."""
    text = files.text("Pipfile.lock")
    try:
        document = json.loads(text)
        meta, packages = document["_meta"], document["default"]
        indexes = [str(source["url"]) for source in meta.get("sources", [])]
        lines = [_locked(name, entry) for name, entry in packages.items()]
        python = meta.get("requires", {})
    except json.JSONDecodeError as error:
        raise CannotBuild(
            f"Pipfile.lock line {error.lineno}, column {error.colno}: {error.msg}, expected JSON;"
            " make it again with `pipenv lock`."
        ) from None
    except (KeyError, TypeError, AttributeError, RecursionError):
        raise CannotBuild(
            "Pipfile.lock is not what Pipenv writes, make it again with `pipenv lock`."
        ) from None
    return [*_extra_indexes(indexes), *lines], str(
        python.get("python_full_version") or python.get("python_version") or ""
    )


def pipfile() -> tuple[list[str], str]:
    """The same of a Pipfile without a lock."""
    import tomllib

    try:
        document = tomllib.loads(files.text("Pipfile"))
        lines = [_wanted(name, entry) for name, entry in document.get("packages", {}).items()]
        python = document.get("requires", {})
        indexes = [str(source["url"]) for source in document.get("source", [])]
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise CannotBuild(f"Pipfile is no valid TOML: {error}.") from None
    except (KeyError, TypeError, AttributeError):
        raise CannotBuild("Pipfile is not what Pipenv reads.") from None
    return [*_extra_indexes(indexes), *lines], str(
        python.get("python_full_version") or python.get("python_version") or ""
    )


def _extra_indexes(urls: Iterable[str]) -> list[str]:
    """Indexes beyond the first, which is the public one, or the operator's in its place."""
    return [f"--extra-index-url {os.path.expandvars(url)}" for url in list(urls)[1:]]


def _locked(name: str, entry: Mapping[str, Any]) -> str:
    if "git" in entry or "path" in entry or "file" in entry:
        return _elsewhere(name, entry)
    line = f"{name}{_extras(entry)}{entry['version']}{_markers(entry)}"
    return " ".join([line, *(f"--hash={digest}" for digest in entry.get("hashes", ()))])


def _wanted(name: str, entry: Any) -> str:
    if isinstance(entry, str):
        return name if entry == "*" else f"{name}{entry}"
    if "git" in entry or "path" in entry or "file" in entry:
        return _elsewhere(name, entry)
    version = entry.get("version", "*")
    return f"{name}{_extras(entry)}{'' if version == '*' else version}{_markers(entry)}"


def _elsewhere(name: str, entry: Mapping[str, Any]) -> str:
    if "git" in entry:
        ref = f"@{entry['ref']}" if entry.get("ref") else ""
        return f"{name}{_extras(entry)} @ git+{entry['git']}{ref}{_markers(entry)}"
    where = str(entry.get("path") or entry["file"])
    return f"-e {where}" if entry.get("editable") else where


def _extras(entry: Mapping[str, Any]) -> str:
    return f"[{','.join(entry['extras'])}]" if entry.get("extras") else ""


def _markers(entry: Mapping[str, Any]) -> str:
    return f" ; {entry['markers']}" if entry.get("markers") else ""
