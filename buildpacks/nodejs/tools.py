"""Node.js, Bun and the package managers, from npm's registry, in a layer with one `bin`."""

import os
from collections.abc import Mapping

from shipway.buildpacks.kit import npm, say, semver
from shipway.buildpacks.kit.context import Context
from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.kit.layer import Layer
from shipway.buildpacks.nodejs.managers import Manager

ARCHES = {"amd64": "x64", "arm64": "arm64"}
BUN_ARCHES = {"x64": "x64", "arm64": "aarch64"}
# The programs of each package: name and path in it.
PROGRAMS = {
    "npm": {"npm": "bin/npm-cli.js", "npx": "bin/npx-cli.js"},
    "pnpm": {"pnpm": "bin/pnpm.cjs", "pnpx": "bin/pnpx.cjs"},
    "yarn": {"yarn": "bin/yarn.js"},
    "@yarnpkg/cli-dist": {"yarn": "bin/yarn.js"},
}


class Node:
    """Node.js as an app wants it, and what it is fetched with."""

    def __init__(self, context: Context, wanted: semver.Range, source: str) -> None:
        self._registry = npm.Registry(context.env)
        self._arch = ARCHES.get(context.arch, context.arch)
        self._wanted = wanted
        self._source = source

    def install(self, layer: Layer, headers: Layer) -> semver.Version:
        """Unpack the newest version of the range; gives it. Raises CannotBuild."""
        name = f"node-linux-{self._arch}"
        known = self._registry.versions(name)
        version = self._wanted.best(known)
        if version is None:
            newest = max(known, key=semver.Version._key)
            raise CannotBuild(
                f"{self._source or 'The default'} asks for Node.js {self._wanted}, and there is none:"
                f" the newest is {newest}.",
                "Expected a version or a range such as 22.x.",
            )
        say.detail(f"Fetching Node.js {version}")
        part = os.path.join(layer.path, "node")
        self._registry.unpack(known[version], part)
        os.makedirs(f"{layer.path}/bin", exist_ok=True)
        os.rename(f"{part}/bin/node", f"{layer.path}/bin/node")
        _executable(f"{layer.path}/bin/node")
        headers.empty()
        _move(f"{part}/include", f"{headers.path}/include")
        _remove(part)
        return version

    def add(self, layer: Layer, manager: Manager, node: semver.Version) -> semver.Version:
        """Add a package manager that runs on this Node.js; gives its version."""
        known = self._registry.versions(manager.package)
        fitting = [version for version, about in known.items() if _runs_on(about, node)]
        exact = semver.version(str(manager.wanted))
        version = exact if exact in known else manager.wanted.best(fitting)
        if version is None:
            raise CannotBuild(
                f"There is no {manager.name} {manager.wanted} that runs on Node.js {node}.",
                f"Change it in package.json (packageManager, or engines.{manager.name}).",
            )
        say.detail(f"Fetching {manager.name} {version}")
        folder = os.path.join(layer.path, "lib", manager.name)
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        # The digest of a modern Yarn is of another file than the one the registry has.
        self._registry.unpack(known[version], folder, "" if manager.modern else manager.digest)
        for name, path in PROGRAMS[manager.package].items():
            target = f"{folder}/{path}"
            if not os.path.exists(target):  # pnpm 11 and later
                target = f"{folder}/{path.replace('.cjs', '.mjs')}"
            _executable(target)
            os.symlink(os.path.relpath(target, f"{layer.path}/bin"), f"{layer.path}/bin/{name}")
        return version


def install_bun(
    context: Context, layer: Layer, wanted: semver.Range, *, as_node: bool
) -> semver.Version:
    """Unpack Bun, which can also answer to the name `node`; gives its version."""
    registry = npm.Registry(context.env)
    arch = BUN_ARCHES.get(ARCHES.get(context.arch, context.arch), context.arch)
    plain = "" if arch != "x64" or _has_avx2() else "-baseline"
    known = registry.versions(f"@oven/bun-linux-{arch}{plain}")
    version = wanted.best(known)
    if version is None:
        raise CannotBuild(
            f"There is no Bun {wanted}.", "Expected a version or a range such as 1.x."
        )
    say.detail(f"Fetching Bun {version}")
    registry.unpack(known[version], f"{layer.path}/bun")
    os.makedirs(f"{layer.path}/bin", exist_ok=True)
    os.rename(f"{layer.path}/bun/bin/bun", f"{layer.path}/bin/bun")
    _executable(f"{layer.path}/bin/bun")
    for name in ("bunx", "node") if as_node else ("bunx",):
        os.symlink("bun", f"{layer.path}/bin/{name}")
    _remove(f"{layer.path}/bun")
    return version


def _runs_on(about: Mapping[str, object], node: semver.Version) -> bool:
    engines = about.get("engines")
    text = engines.get("node", "*") if isinstance(engines, dict) else "*"
    try:
        return semver.Range(str(text)).allows(node)
    except semver.InvalidRange:
        return True


def _has_avx2() -> bool:
    with open("/proc/cpuinfo") as file:
        return any(" avx2 " in line for line in file)


def _executable(path: str) -> None:
    os.chmod(path, 0o755)  # noqa: S103  # it is a program for all, as npm would make it


def _move(source: str, target: str) -> None:
    if os.path.isdir(source):
        os.rename(source, target)


def _remove(folder: str) -> None:
    import shutil

    shutil.rmtree(folder)
