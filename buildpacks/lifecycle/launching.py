"""What a container of the image will see: its environment, worked out at build time.

There is no launcher in our images, so the layers' env files are applied here, in the order in
which a launcher would: per buildpack first all path folders, then all env files.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from shipway.buildpacks.lifecycle import env
from shipway.buildpacks.lifecycle.building import Built, BuiltLayer
from shipway.buildpacks.lifecycle.request import LAYERS_DIR


class LaunchEnv(NamedTuple):
    """`common` is what differs from the run image's; `by_process` adds to it, by process type."""

    common: dict[str, str]
    by_process: dict[str, dict[str, str]]


def launch_env(built: Built, run_env: Mapping[str, str]) -> LaunchEnv:
    """The environment for every process type, on top of the run image's `run_env`."""
    layers = [layer for layer in built.layers if layer.flags.launch]
    common = _environment(layers, run_env, None)
    by_process = {}
    for _, process in built.processes:
        own = _difference(_environment(layers, run_env, process.type), common)
        if own:
            by_process[process.type] = own
    return LaunchEnv(_difference(common, run_env), by_process)


def exec_d(built: Built) -> Iterator[str]:
    """Programs that would have to run before the app does, which nothing here does yet."""
    for layer in built.layers:
        if layer.flags.launch and os.path.isdir(f"{_root(layer)}/exec.d"):
            yield f"{layer.buildpack}:{layer.name}"


def _environment(
    layers: Sequence[BuiltLayer], run_env: Mapping[str, str], process: str | None
) -> dict[str, str]:
    values = dict(run_env)
    for _, group in groupby(layers, key=lambda layer: layer.buildpack):
        roots = [_root(layer) for layer in group]
        for root in roots:
            env.add_root(values, root, env.LAUNCH_PATHS)
        for root in roots:
            env.add_dir(values, f"{root}/env")
            env.add_dir(values, f"{root}/env.launch")
            if process is not None:
                env.add_dir(values, f"{root}/env.launch/{process}")
    return values


def _root(layer: BuiltLayer) -> str:
    return f"{LAYERS_DIR}/{layer.buildpack.replace('/', '_')}/{layer.name}"


def _difference(values: Mapping[str, str], base: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if base.get(name) != value}
