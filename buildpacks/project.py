"""What an app's project.toml and .buildpacks say: its buildpacks, settings, and files to leave out.

project.toml is of schema 0.2 (`[_]`, `[io.buildpacks]`) or 0.1 (`[project]`, `[build]`).
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shipway.buildpacks import plainfile
from shipway.buildpacks.errors import BuildFailed

PROJECT, LIST = "project.toml", ".buildpacks"
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,255}")
SWEEP_TIME = 30  # seconds
_SCHEMAS = ("0.1", "0.2")


@dataclass(frozen=True, slots=True)
class Inline:
    """A buildpack whose bin/build stands in project.toml itself."""

    id: str
    version: str
    api: str
    program: str
    script: str


Wish = str | Inline  # a reference: a folder, an address, an image, or the id of one of ours


@dataclass(frozen=True, slots=True)
class Project:
    """What the app's own files wish for. `pre` and `post` go around whatever else is chosen."""

    buildpacks: tuple[Wish, ...] = ()
    pre: tuple[Wish, ...] = ()
    post: tuple[Wish, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


def read(app: Path) -> Project:
    """The app's files, as far as they are there. Raises BuildFailed, which names file and key."""
    project = _project(app / PROJECT)
    if project.buildpacks:
        return project
    return Project(
        _listed(app / LIST),
        project.pre,
        project.post,
        project.env,
        project.include,
        project.exclude,
    )


def leave_out(app: Path, project: Project) -> None:
    """Remove what `exclude` names, or all that `include` does not, by the rules of .gitignore.

    A pattern can be written so that it takes years, so a process does it whose time is limited.
    Raises BuildFailed.
    """
    patterns = project.include or project.exclude
    if not patterns:
        return
    key = "include" if project.include else "exclude"
    program = "import sys; from shipway.buildpacks.project import sweep; sweep(sys.argv)"
    try:
        subprocess.run(
            [sys.executable, "-P", "-c", program, os.fspath(app), key, *patterns],
            check=True,
            timeout=SWEEP_TIME,
            capture_output=True,
        )
    except subprocess.TimeoutExpired as error:
        raise BuildFailed(
            f"{PROJECT}: the patterns of `{key}` take more than {SWEEP_TIME} seconds to match"
        ) from error
    except (subprocess.CalledProcessError, OSError, ValueError) as error:
        raise BuildFailed(f"{PROJECT}: the patterns of `{key}` cannot be used") from error


def sweep(argv: Sequence[str]) -> None:
    """The process: the app's folder, "include" or "exclude", and the patterns."""
    from pathspec import GitIgnoreSpec  # few apps need it

    app, key, *patterns = argv[1:]
    spec = GitIgnoreSpec.from_lines(patterns)
    kept = key == "include"
    for folder, folders, names in os.walk(app, topdown=False):
        for name in [*names, *folders]:
            path = Path(folder, name)
            relative = path.relative_to(app).as_posix()
            if path.is_dir() and not path.is_symlink():
                if not any(path.iterdir()) and spec.match_file(f"{relative}/") != kept:
                    path.rmdir()
            elif spec.match_file(relative) != kept:
                path.unlink()


def _listed(path: Path) -> tuple[str, ...]:
    """One reference on each line; a line that begins with # says nothing."""
    text = _text(path)
    lines = [line.strip() for line in text.splitlines()]
    return tuple(line for line in lines if line and not line.startswith("#"))


def _project(path: Path) -> Project:
    try:
        document = plainfile.read_toml(path)
    except FileNotFoundError:
        return Project()
    except OSError as error:
        raise BuildFailed(f"{PROJECT} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BuildFailed(f"{PROJECT} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise BuildFailed(f"{PROJECT} is not valid TOML: {error}") from error
    schema = _table(document, "_").get("schema-version", "0.2" if "_" in document else "")
    if schema and schema not in _SCHEMAS:
        raise BuildFailed(f"{PROJECT}: schema-version {schema!r} is not 0.1 or 0.2")
    new = _table(_table(document, "io"), "buildpacks")
    section, name = (new, "io.buildpacks") if new else (_table(document, "build"), "build")
    env = section.get("env", _table(section, "build").get("env", ()))
    return Project(
        buildpacks=_wishes(section.get("group", section.get("buildpacks", ())), f"{name}.group"),
        pre=_wishes(_table(section, "pre").get("group", ()), f"{name}.pre.group"),
        post=_wishes(_table(section, "post").get("group", ()), f"{name}.post.group"),
        env=_env(env, name),
        include=_strings(section, "include", name),
        exclude=_strings(section, "exclude", name),
    )


def _wishes(value: Any, where: str) -> tuple[Wish, ...]:
    return tuple(
        _wish(item, f"{where}[{number}]") for number, item in enumerate(_tables(value, where))
    )


def _wish(item: Mapping[str, Any], where: str) -> Wish:
    script = item.get("script")
    if script is not None:
        if not isinstance(script, dict) or not isinstance(script.get("inline"), str):
            raise BuildFailed(f"{PROJECT}: {where}.script needs `api` and `inline`, both strings")
        return Inline(
            id=str(item.get("id", "")),
            version=str(item.get("version") or "0.0.0"),
            api=str(script.get("api", "")),
            program=str(script.get("shell") or "/bin/sh"),
            script=script["inline"],
        )
    for key in ("uri", "id"):
        value = item.get(key)
        if isinstance(value, str) and value:
            version = item.get("version")
            return f"{value}@{version}" if key == "id" and version else value
    raise BuildFailed(f"{PROJECT}: {where} needs a string `uri`, `id` or a table `script`")


def _env(value: Any, where: str) -> dict[str, str]:
    found = {}
    for number, item in enumerate(_tables(value, f"{where}.env")):
        name, text = item.get("name"), item.get("value")
        if not isinstance(name, str) or not _ENV_NAME.fullmatch(name):
            raise BuildFailed(f"{PROJECT}: {where}.env[{number}].name is no name of a variable")
        if not isinstance(text, str) or "\0" in text:
            raise BuildFailed(f"{PROJECT}: {where}.env[{number}].value must be a string")
        found[name] = text
    return found


def _text(path: Path) -> str:
    try:
        return plainfile.read_text(path)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise BuildFailed(f"{path.name} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BuildFailed(f"{path.name} cannot be read: {error}") from error


def _table(table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = table.get(key, {})
    if not isinstance(value, dict):
        raise BuildFailed(f"{PROJECT}: `{key}` must be a table")
    return value


def _tables(value: Any, where: str) -> list[Mapping[str, Any]]:
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    if not all(isinstance(item, dict) for item in items):
        raise BuildFailed(f"{PROJECT}: `{where}` must be a list of tables, written [[{where}]]")
    return items


def _strings(table: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = table.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise BuildFailed(f"{PROJECT}: `{where}.{key}` must be a list of strings")
    return tuple(value)
