"""Another Python than the stack's, fetched by uv."""

import os
import sys
from collections.abc import Mapping

from shipway.buildpacks.kit import files, network, say
from shipway.buildpacks.kit.context import Context
from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.kit.layer import Layer
from shipway.buildpacks.kit.run import output, run

MIRROR = "UV_PYTHON_INSTALL_MIRROR"
RECIPE = "1"
STACK = ".".join(map(str, sys.version_info[:3]))


def fetch(context: Context, wanted: str, source: str, env: Mapping[str, str]) -> tuple[str, str]:
    """Path and full version of the newest Python that is `wanted`. Raises CannotBuild."""
    wanted = wanted.removeprefix("python-").removeprefix("cpython-")
    layer = Layer(context, "python")
    made_from = files.fingerprint([], RECIPE, wanted, os.uname().machine, env.get(MIRROR, ""))
    if not layer.made_from(made_from):
        say.step(f"Fetching Python {wanted} specified in {source} using 'uv python install'")
        layer.empty()
        args = ["uv", "python", "install", "--install-dir", f"{layer.path}/all", "--no-bin"]
        own = {**env, "UV_PYTHON_DOWNLOADS": "manual", "UV_HTTP_RETRIES": "1"}
        done = run([*args, wanted], own)
        if done.code:
            raise CannotBuild(
                f"{source} asks for Python {wanted}, but the {context.stack} stack has Python {STACK},"
                " and no other could be fetched.",
                *network.advice(done.output, [MIRROR]),
                f"Or write {STACK.rpartition('.')[0]} into {source}.",
            )
        [folder] = [name for name in os.listdir(f"{layer.path}/all") if _is_python(name)]
        os.rename(f"{layer.path}/all/{folder}", f"{layer.path}/own")
    path = f"{layer.path}/own/bin/python3"
    script = "import platform; print(platform.python_version())"
    version = (output([path, "-IS", "-c", script], env) or "").strip()
    if not version:
        raise CannotBuild(f"The Python {wanted} that was fetched does not run on {context.stack}.")
    layer.keep(made_from, launch=True, build=True, cache=True, python=version)
    say.step(f"Using Python {version} specified in {source}")
    return path, version


def _is_python(name: str) -> bool:
    return name.startswith(("cpython-", "pypy-")) and name.count(".") > 1
