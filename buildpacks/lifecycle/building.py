"""The build phase: each buildpack's bin/build in turn, and what it left in its layers."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from shipway.buildpacks.kit import toml
from shipway.buildpacks.lifecycle import checks, env, errors, plan, sboms, spawn, tomlfile
from shipway.buildpacks.lifecycle.detect import Selected, buildpack_env
from shipway.buildpacks.lifecycle.request import (
    APP_DIR,
    LAYERS_DIR,
    PLATFORM_DIR,
    Buildpack,
    Request,
)


class BuiltLayer(NamedTuple):
    """A layer that a buildpack wants to keep."""

    buildpack: str
    name: str
    flags: checks.LayerFlags
    data: Mapping[str, Any]
    has_folder: bool


class Built(NamedTuple):
    """All that the buildpacks made. `processes` pairs each with the id of its buildpack.

    `default` is the process type that the image starts if nobody says otherwise.
    """

    layers: tuple[BuiltLayer, ...]
    processes: tuple[tuple[str, checks.Process], ...]
    labels: Mapping[str, str]
    stores: Mapping[str, Any]
    slices: tuple[tuple[str, ...], ...]
    default: str | None


def build(request: Request, selected: Selected, scratch: str) -> Built:
    """Run the group. Raises LifecycleError at the first buildpack that fails."""
    build_env = env.inherited(request.build_env)
    entries = list(selected.entries)
    layers: list[BuiltLayer] = []
    processes: dict[str, tuple[str, checks.Process]] = {}
    labels: dict[str, str] = {}
    stores: dict[str, Any] = {}
    slices: list[tuple[str, ...]] = []
    default: str | None = None
    for buildpack in selected.group:
        _restore(request, buildpack)
        entries = _run(request, buildpack, entries, build_env, scratch)
        found = _layers(buildpack)
        sboms.check(buildpack, {layer.name for layer in found})
        for layer in found:
            layers.append(layer)
            if layer.flags.build:
                _contribute(build_env, layer)
        launch = checks.launch(
            f"{buildpack.layers}/launch.toml", checks.api_version(buildpack.api), APP_DIR
        )
        for process in launch.processes:
            processes.pop(process.type, None)
            processes[process.type] = (buildpack.id, process)
            default = _default(default, process)
        slices += launch.slices
        labels.update(launch.labels)
        store = tomlfile.read(f"{buildpack.layers}/store.toml").get("metadata")
        if store:
            stores[buildpack.id] = store
    return Built(tuple(layers), tuple(processes.values()), labels, stores, tuple(slices), default)


def _default(before: str | None, process: checks.Process) -> str | None:
    """The last default one; a later process of the same type may take that back."""
    if process.default:
        return process.type
    return None if process.type == before else before


def _restore(request: Request, buildpack: Buildpack) -> None:
    """Metadata without [types], so that a layer is kept only if the buildpack says so again."""
    os.makedirs(buildpack.layers, exist_ok=True)
    for layer in request.restored.get(buildpack.id, ()):
        if layer.content and not os.path.isdir(f"{buildpack.layers}/{layer.name}"):
            continue  # both or neither
        toml.write(f"{buildpack.layers}/{layer.name}.toml", {"metadata": layer.data})
        sboms.restore(buildpack, layer.name)
    store = request.stores.get(buildpack.id)
    if store:
        toml.write(f"{buildpack.layers}/store.toml", {"metadata": store})


def _run(
    request: Request,
    buildpack: Buildpack,
    entries: list[plan.Entry],
    build_env: Mapping[str, str],
    scratch: str,
) -> list[plan.Entry]:
    """Returns the plan entries that later buildpacks may still meet."""
    mine = [entry for entry in entries if buildpack.id in entry.providers]
    plan_path = os.path.join(scratch, f"{buildpack.folder}.bp-plan.toml")
    toml.write(plan_path, plan.document(mine))
    own = {"CNB_LAYERS_DIR": buildpack.layers, "CNB_BP_PLAN_PATH": plan_path}
    args = [f"{buildpack.root}/bin/build", buildpack.layers, PLATFORM_DIR, plan_path]
    code = spawn.start(args, buildpack_env(buildpack, request, own, build_env)).wait()
    if code:
        # Our own have said what is wrong, unless they were killed or crashed.
        said = code == 1 and buildpack.id.startswith("shipway/")
        reason = "" if said else f"the buildpack {buildpack.id} failed (exit {code})"
        raise errors.LifecycleError(reason, errors.BUILDPACK_FAILED)
    left = checks.unmet(f"{buildpack.layers}/build.toml", [entry.name for entry in mine])
    met = {entry.name for entry in mine} - left
    return [entry for entry in entries if entry.name not in met]


def _layers(buildpack: Buildpack) -> list[BuiltLayer]:
    """Layers to keep, by name. The others' folders are put out of later buildpacks' way."""
    names = {name.removesuffix(".toml") for name in os.listdir(buildpack.layers) if _is_layer(name)}
    found = []
    for name in sorted(names - checks.RESERVED_LAYERS):
        folder = f"{buildpack.layers}/{name}"
        flags, data = checks.layer(f"{folder}.toml")
        if any(flags):
            found.append(BuiltLayer(buildpack.id, name, flags, data, os.path.isdir(folder)))
        elif os.path.isdir(folder):
            _set_aside(folder)
    return found


def _is_layer(name: str) -> bool:
    if name.endswith((".ignore", *sboms.ENDINGS)):
        return False
    return name.endswith(".toml") or "." not in name


def _set_aside(folder: str) -> None:
    try:
        os.rename(folder, f"{folder}.ignore")
    except OSError:  # a restored layer lies below the overlay and cannot be renamed
        import shutil  # costs more than all else in a build that needs it not

        shutil.rmtree(folder, ignore_errors=True)


def _contribute(build_env: dict[str, str], layer: BuiltLayer) -> None:
    root = f"{LAYERS_DIR}/{layer.buildpack.replace('/', '_')}/{layer.name}"
    env.add_root(build_env, root, env.BUILD_PATHS)
    env.add_dir(build_env, f"{root}/env")
    env.add_dir(build_env, f"{root}/env.build")
