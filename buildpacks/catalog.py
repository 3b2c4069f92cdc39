"""Which buildpacks there are, and in which groups they are tried."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from shipway.buildpacks.errors import InvalidBuildpack
from shipway.buildpacks.lifecycle.checks import api_version
from shipway.buildpacks.lifecycle.order import Group, Member, Order, expand
from shipway.buildpacks.lifecycle.request import Buildpack

OLDEST_API, NEWEST_API = (0, 7), (0, 12)
HERE = Path(__file__).resolve().parent
RESERVED_IDS = frozenset({"app", "config", "generated", "sbom"})


@dataclass(frozen=True, slots=True)
class Source:
    """A buildpack on this host: `folder` holds its buildpack.toml and bin/."""

    buildpack: Buildpack
    folder: Path
    targets: tuple[Mapping[str, Any], ...] = ()
    order: Order = ()


@dataclass(frozen=True, slots=True)
class Catalog:
    """Buildpacks by id, and the order of groups to try (it may name composite buildpacks)."""

    sources: Mapping[str, Source]
    order: Order

    def groups(self, target: Mapping[str, str]) -> Order:
        """The flat order for a target, without groups that a required buildpack does not fit."""
        composites = {id_: source.order for id_, source in self.sources.items() if source.order}
        try:
            groups = expand(self.order, composites)
        except ValueError as error:
            raise InvalidBuildpack(str(error)) from error
        fitting = (self._fitting(group, target) for group in groups)
        return tuple(group for group in fitting if group)

    def _fitting(self, group: Group, target: Mapping[str, str]) -> Group:
        kept = []
        for member in group:
            if member.id not in self.sources:
                raise InvalidBuildpack(f"there is no buildpack {member.id!r}")
            if fits(self.sources[member.id].targets, target):
                kept.append(member)
            elif not member.optional:
                return ()
        return tuple(kept)


@cache
def built_in() -> Catalog:
    """The buildpacks that come with Shipway."""
    return catalog(
        [load(HERE / name) for name in ("python", "procfile")],
        ((Member("shipway/python"), Member("shipway/procfile", optional=True)),),
    )


def catalog(sources: Sequence[Source], order: Order) -> Catalog:
    """A catalog of these buildpacks."""
    return Catalog({source.buildpack.id: source for source in sources}, order)


def load(folder: Path) -> Source:
    """Read a buildpack.toml. Raises InvalidBuildpack."""
    path = folder / "buildpack.toml"
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        head = document["buildpack"]
        own = document.get("metadata", {})
        buildpack = Buildpack(
            id=str(head["id"]),
            version=str(head["version"]),
            api=str(document["api"]),
            homepage=str(head.get("homepage", "")),
            clear_env=bool(head.get("clear-env", False)),
            language=str(own.get("language", "")),
            looks_for=str(own.get("looks-for", "")),
            procfile=str(own.get("procfile", "")),
        )
        order = tuple(_group(item["group"]) for item in document.get("order", ()))
        targets = tuple(document.get("targets", ())) or _stack_targets(document)
        _check(buildpack)
    except OSError as error:
        raise InvalidBuildpack(f"{path} cannot be read: {error.strerror}") from error
    except KeyError as error:
        raise InvalidBuildpack(f"{path} has no key {error}") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidBuildpack(f"{path} is malformed: {error}") from error
    return Source(buildpack, folder, targets, order)


def fits(targets: Sequence[Mapping[str, Any]], target: Mapping[str, str]) -> bool:
    """Whether one of a buildpack's targets is this one; none given is any Linux."""
    return not targets or any(_matches(item, target) for item in targets)


def _matches(item: Mapping[str, Any], target: Mapping[str, str]) -> bool:
    for key in ("os", "arch"):
        if item.get(key) and item[key] != target.get(key):
            return False
    distros = item.get("distros") or [{}]
    return any(
        all(
            not distro.get(key) or distro[key] == target.get(f"distro_{key}")
            for key in ("name", "version")
        )
        for distro in distros
    )


def _stack_targets(document: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    """The deprecated [[stacks]]: only `*` and Bionic have a meaning today."""
    bionic = {"os": "linux", "arch": "amd64", "distros": [{"name": "ubuntu", "version": "18.04"}]}
    stacks = {item["id"] for item in document.get("stacks", ())}
    return (bionic,) if stacks == {"io.buildpacks.stacks.bionic"} else ()


def _group(items: Sequence[Mapping[str, Any]]) -> Group:
    return tuple(Member(str(item["id"]), bool(item.get("optional", False))) for item in items)


def _check(buildpack: Buildpack) -> None:
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./-")
    if not buildpack.id or buildpack.id in RESERVED_IDS or not allowed.issuperset(buildpack.id):
        raise ValueError(f"the id {buildpack.id!r} is not allowed")
    if ".." in buildpack.id or not all(part.isdecimal() for part in buildpack.version.split(".")):
        raise ValueError(f"the version {buildpack.version!r} is not like 1.2.3")
    if not OLDEST_API <= api_version(buildpack.api) <= NEWEST_API:
        raise ValueError(f"buildpack API {buildpack.api} is not within 0.7 and 0.12")
