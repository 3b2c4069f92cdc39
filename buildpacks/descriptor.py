"""What buildpack.toml and extension.toml say, read strictly, and whether it fits a target."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipway.buildpacks import plainfile
from shipway.buildpacks.errors import InvalidBuildpack
from shipway.buildpacks.lifecycle.checks import api_version
from shipway.buildpacks.lifecycle.order import Group, Member, Order
from shipway.buildpacks.lifecycle.request import EXEC_ENV, Buildpack
from shipway.buildpacks.lifecycle.sboms import EXTENSIONS

OLDEST_API, NEWEST_API = (0, 7), (0, 12)
UNSUPPORTED_API = 12  # the platform specification's exit code
RESERVED_IDS = frozenset({"app", "config", "generated", "sbom"})
_ID = re.compile(r"[A-Za-z0-9.-]+(/[A-Za-z0-9.-]+)*")
_VERSION = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}", re.ASCII
)  # 1.2.3 is asked for, not kept to
_API = re.compile(r"\d+(\.\d+)?", re.ASCII)
_ANY = "*"


@dataclass(frozen=True, slots=True)
class Source:
    """A buildpack on this host: `folder` holds its buildpack.toml and bin/.

    A composite has an `order` and the `versions` it asks for; `exec_envs` are the execution
    environments that it works in, none for all. An image extension has an
    extension.toml instead.
    """

    buildpack: Buildpack
    folder: Path
    targets: tuple[Mapping[str, Any], ...] = ()
    order: Order = ()
    versions: tuple[tuple[str, str], ...] = ()
    exec_envs: tuple[str, ...] = ()

    def fits(self, target: Mapping[str, str]) -> bool:
        """Whether it can take part in a build for this target."""
        works = not self.exec_envs or {EXEC_ENV, _ANY} & set(self.exec_envs)
        return bool(works) and fits(self.targets, target)


def load(folder: Path) -> Source:
    """Read a buildpack.toml, or an extension.toml. Raises InvalidBuildpack."""
    path = folder / "buildpack.toml"
    is_extension = not os.path.lexists(path) and os.path.lexists(folder / "extension.toml")
    if is_extension:
        path = folder / "extension.toml"
    try:
        document = plainfile.read_toml(path)
        head = document["extension" if is_extension else "buildpack"]
        buildpack = _buildpack(document, head)
        groups = [item["group"] for item in document.get("order", ())]
        source = Source(
            buildpack,
            folder,
            targets=_targets(document),
            order=tuple(_group(items) for items in groups),
            versions=tuple(
                (str(item["id"]), str(item["version"]))
                for items in groups
                for item in items
                if item.get("version")
            ),
            exec_envs=tuple(str(item["name"]) for item in head.get("exec-env", ())),
        )
    except OSError as error:
        raise InvalidBuildpack(f"{path} cannot be read: {error.strerror}") from error
    except KeyError as error:
        raise InvalidBuildpack(f"{path} has no key {error}") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidBuildpack(f"{path} is malformed: {error}") from error
    if not OLDEST_API <= api_version(buildpack.api) <= NEWEST_API:
        raise InvalidBuildpack(
            f"{path}: buildpack API {buildpack.api} is not within 0.7 and 0.12", UNSUPPORTED_API
        )
    return source


def fits(targets: Sequence[Mapping[str, Any]], target: Mapping[str, str]) -> bool:
    """Whether one of a buildpack's targets is this one; none given is any Linux."""
    return not targets or any(_matches(item, target) for item in targets)


def _buildpack(document: Mapping[str, Any], head: Mapping[str, Any]) -> Buildpack:
    own = document.get("metadata", {})
    formats = head.get("sbom-formats", ())
    buildpack = Buildpack(
        id=str(head["id"]),
        version=str(head["version"]),
        api=_api(str(document["api"])),
        homepage=str(head.get("homepage", "")),
        clear_env=bool(head.get("clear-env", False)),
        language=str(own.get("language", "")),
        looks_for=str(own.get("looks-for", "")),
        procfile=str(own.get("procfile", "")),
        is_extension="extension" in document and "buildpack" not in document,
        sbom_formats=tuple(
            EXTENSIONS[kind.split(";")[0].strip()]
            for kind in formats
            if kind.split(";")[0].strip() in EXTENSIONS
        ),
    )
    name = buildpack.id
    if not _ID.fullmatch(name) or name in RESERVED_IDS or {".", ".."} & set(name.split("/")):
        raise ValueError(f"the id {name!r} is not allowed")
    if not _VERSION.fullmatch(buildpack.version):
        raise ValueError(f"the version {buildpack.version!r} is not like 1.2.3")
    return buildpack


def _api(text: str) -> str:
    if not _API.fullmatch(text):
        raise ValueError(f"the api {text!r} is not like 0.10")
    return text


def _group(items: Sequence[Mapping[str, Any]]) -> Group:
    """Without the members that are for other execution environments only."""
    return tuple(
        Member(str(item["id"]), bool(item.get("optional", False)))
        for item in items
        if {EXEC_ENV, _ANY} & set(item.get("exec-env") or (_ANY,))
    )


def _matches(item: Mapping[str, Any], target: Mapping[str, str]) -> bool:
    for key, name in (("os", "os"), ("arch", "arch"), ("variant", "arch_variant")):
        if item.get(key) and target.get(name) and item[key] != target[name]:
            return False
    distros = item.get("distros") or [{}]
    return any(
        all(
            not distro.get(key) or distro[key] == target.get(f"distro_{key}")
            for key in ("name", "version")
        )
        for distro in distros
    )


def _targets(document: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """Those of [[targets]], and what the deprecated [[stacks]] stand for.

    Of stacks only `*` and Bionic have a meaning today.
    """
    stacks = {str(item["id"]) for item in document.get("stacks", ())}
    targets: list[Mapping[str, Any]] = list(document.get("targets", ()))
    if _ANY in stacks:
        return ()
    if "io.buildpacks.stacks.bionic" in stacks and (targets or len(stacks) == 1):
        distros = [{"name": "ubuntu", "version": "18.04"}]
        targets.append({"os": "linux", "arch": "amd64", "distros": distros})
    return tuple(targets)
