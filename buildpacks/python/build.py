"""Install the requirements into the layer `venv`, unless the one there is from the same."""

import os
import sys

from shipway.buildpacks.kit import say
from shipway.buildpacks.kit.context import Context
from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.kit.layer import Layer
from shipway.buildpacks.python import requirements

RECIPE = "2"  # a new one when the layer must be made anew though the app asks for the same
REQUIREMENTS = "requirements.txt"
# uv's own names for what people set for pip.
PIP_SETTINGS = {"PIP_INDEX_URL": "UV_DEFAULT_INDEX", "PIP_EXTRA_INDEX_URL": "UV_INDEX"}
PYTHON = ".".join(map(str, sys.version_info[:3]))


def build(context: Context) -> None:
    """Raises CannotBuild."""
    _choose_python(context)
    layer = Layer(context, "venv")
    made_from = requirements.fingerprint(
        REQUIREMENTS, RECIPE, PYTHON, context.distro, os.uname().machine
    )
    if layer.made_from(made_from):
        say.step(f"Using the dependencies of the previous build ({REQUIREMENTS} is unchanged)")
    else:
        _install(context, layer)
        # What the app's processes get; its own config comes later and wins.
        layer.set_env({"VIRTUAL_ENV": layer.path, "PYTHONUNBUFFERED": "1", "LANG": "C.UTF-8"})
    layer.keep(made_from, launch=True, build=True, cache=True, python=PYTHON)


def _choose_python(context: Context) -> None:
    """Say which Python is used."""
    for source in (".python-version", "runtime.txt"):
        try:
            with open(source, encoding="utf-8", errors="replace") as file:
                text = file.read(4096)
        except OSError:
            continue
        from shipway.buildpacks.python import version

        wanted = version.asked(text)
        if wanted is None:
            continue
        note = version.check(wanted, source, sys.version_info[:3], context.stack)
        say.step(f"Using Python {PYTHON} specified in {source}")
        if note:
            say.detail(note)
        return
    say.step(f"Using Python {PYTHON} of the {context.stack} stack")


def _install(context: Context, layer: Layer) -> None:
    """Make the virtual environment from nothing, so that it depends on the requirements only."""
    layer.empty()
    env = _uv_env(context, layer)
    if _uv(env, "venv", "--quiet", "--no-project", "--python", sys.executable, layer.path):
        raise CannotBuild("The virtual environment could not be made; see above.")
    say.step(f"Installing dependencies using 'uv pip install -r {REQUIREMENTS}'")
    if _uv(env, "pip", "install", "--compile-bytecode", "-r", REQUIREMENTS):
        raise CannotBuild(
            f"Installing what {REQUIREMENTS} asks for failed; uv says above what is wrong."
        )


def _uv(env: dict[str, str], *args: str) -> int:
    from shipway.buildpacks.kit.run import run

    # Which Python it uses is said already, and where it lies helps nobody.
    return run(["uv", *args], env, show=lambda line: not line.startswith("Using Python ")).code


def _uv_env(context: Context, layer: Layer) -> dict[str, str]:
    """Settings of uv and of the compiler that it starts."""
    env = {
        **context.env,
        # Layers have fixed times, so compiled files must not depend on the time of their source.
        "PYC_INVALIDATION_MODE": "UNCHECKED_HASH",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_PROGRESS": "1",
        "VIRTUAL_ENV": layer.path,
        "NO_COLOR": "1",
    }
    for pip_name, name in PIP_SETTINGS.items():
        if pip_name in env:
            env.setdefault(name, env[pip_name])
    cache = context.cached("uv")
    if cache:
        # The cache is another mount, from which files cannot be linked.
        env.update(UV_CACHE_DIR=cache, UV_LINK_MODE="copy")
    else:
        env["UV_NO_CACHE"] = "1"
    return env
