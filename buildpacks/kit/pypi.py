"""Toolchains that the Python package index has as wheels, installed by uv into a folder."""

import os
from collections.abc import Sequence

from shipway.buildpacks.kit import network, run, say
from shipway.buildpacks.kit.context import Context
from shipway.buildpacks.kit.errors import CannotBuild

# uv's own names for what people set for pip.
PIP_SETTINGS = {"PIP_INDEX_URL": "UV_DEFAULT_INDEX", "PIP_EXTRA_INDEX_URL": "UV_INDEX"}


def install(context: Context, folder: str, requirements: Sequence[str]) -> None:
    """Install the first of `requirements` that the index can meet, without what it depends on.

    Raises CannotBuild.
    """
    env = {**context.env, "NO_COLOR": "1", "UV_NO_PROGRESS": "1", "UV_PYTHON_DOWNLOADS": "never"}
    for name, uv_name in PIP_SETTINGS.items():
        if name in env:
            env.setdefault(uv_name, env[name])
    # The layer keeps what is installed: a cache would be the same files once more, and a link from
    # beside them costs no copy.
    cache = f"{folder}/.cache"
    env.update(UV_CACHE_DIR=cache, UV_LINK_MODE="hardlink")
    done = run.Done(0, ())
    for requirement in requirements:
        options = ("--quiet", "--no-deps", "--only-binary", ":all:", "--target", folder)
        done = run.run(["uv", "pip", "install", *options, requirement], env, show=lambda _: False)
        if done.code == 0:
            _forget_traces(folder)
            return
        advice = network.advice(done.output, ("UV_DEFAULT_INDEX", "PIP_INDEX_URL"))
        if advice:
            raise CannotBuild(f"{requirement} could not be fetched.", *advice)
    for line in done.lines[-6:]:
        say.detail(line)
    raise CannotBuild(f"The package index has no {' nor '.join(requirements)} for this machine.")


def _forget_traces(folder: str) -> None:
    """Remove what differs from one installation to the next."""
    import shutil

    for name in os.listdir(folder):
        if name.endswith(".dist-info") or name in {".cache", ".lock"}:
            path = os.path.join(folder, name)
            shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
