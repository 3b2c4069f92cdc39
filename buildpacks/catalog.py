"""Which buildpacks there are, and in which groups they are tried."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from shipway.buildpacks.descriptor import Source, load
from shipway.buildpacks.errors import InvalidBuildpack
from shipway.buildpacks.lifecycle.order import Group, Member, Order, expand

HERE = Path(__file__).resolve().parent


# In the order they are tried; Node.js may make the assets of each, and is tried alone at last.
LANGUAGES = ("python", "ruby", "php", "go", "java", "rust", "elixir")


@dataclass(frozen=True, slots=True)
class Catalog:
    """Buildpacks by id, and the order of groups to try (it may name composite buildpacks)."""

    sources: Mapping[str, Source]
    order: Order

    def groups(self, target: Mapping[str, str]) -> Order:
        """The flat order for a target, without groups that a required buildpack does not fit."""
        self._check_versions()
        composites = {id_: source.order for id_, source in self.sources.items() if source.order}
        try:
            groups = expand(self.order, composites)
        except ValueError as error:
            raise InvalidBuildpack(str(error)) from error
        fitting = (self._fitting(group, target) for group in groups)
        return tuple(group for group in fitting if group)

    def _check_versions(self) -> None:
        for source in self.sources.values():
            for id_, version in source.versions:
                there = self.sources.get(id_)
                if there is not None and there.buildpack.version != version:
                    raise InvalidBuildpack(
                        f"{source.buildpack.id} asks for {id_} {version}, "
                        f"but there is {there.buildpack.version}"
                    )

    def _fitting(self, group: Group, target: Mapping[str, str]) -> Group:
        kept = []
        for member in group:
            if member.id not in self.sources:
                raise InvalidBuildpack(f"there is no buildpack {member.id!r}")
            if self.sources[member.id].fits(target):
                kept.append(member)
            elif not member.optional:
                return ()
        return tuple(kept)


@cache
def built_in() -> Catalog:
    """The buildpacks that come with Shipway."""
    names = ("apt", "nodejs", "deno", *LANGUAGES, "static", "procfile", "appjson")
    apt, assets, *last = (
        Member(f"shipway/{name}", optional=True)
        for name in ("apt", "nodejs", "procfile", "app-json")
    )
    return catalog(
        [load(HERE / name) for name in names],
        (
            *((apt, assets, Member(f"shipway/{name}"), *last) for name in LANGUAGES),
            (apt, assets, Member("shipway/static"), *last),
            (apt, Member("shipway/deno"), *last),
            (apt, Member("shipway/nodejs"), *last),
        ),
    )


def catalog(sources: Sequence[Source], order: Order) -> Catalog:
    """A catalog of these buildpacks. Raises InvalidBuildpack where two have the same id."""
    seen: dict[str, Source] = {}
    for source in sources:
        other = seen.setdefault(source.buildpack.id.casefold(), source)
        if other is not source:
            raise InvalidBuildpack(
                f"there are two buildpacks {source.buildpack.id!r}: versions "
                f"{other.buildpack.version} and {source.buildpack.version}"
            )
    return Catalog({source.buildpack.id: source for source in sources}, order)
