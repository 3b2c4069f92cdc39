"""The release of an Elixir app, made by Debian's Elixir: it has Erlang's runtime in it."""

import glob
import os

from shipway.buildpacks.kit import debian, files, network, run, say, toml
from shipway.buildpacks.kit.context import Context
from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.kit.layer import Layer

RECIPE = "1"
PACKAGES = ("elixir", "erlang-base", "erlang-dev", "rebar3")
MIRROR = "HEX_MIRROR"
PATIENCE = "120"  # seconds for hex itself to be fetched


def build(context: Context) -> None:
    """Make the layers `elixir` (build, cache) and `release` (launch). Raises CannotBuild."""
    layer = Layer(context, "elixir")
    made_from = debian.fingerprint(PACKAGES, False, RECIPE)
    if not layer.made_from(made_from):
        say.step(f"Installing Elixir from {context.stack}'s packages")
        debian.provide(context, layer, PACKAGES, launch=False)
        root = f"{layer.path}/usr/lib/erlang"
        _move(root)
        layer.set_env({"ERL_ROOTDIR": root}, phase="build", action="override")
    layer.keep(made_from, build=True, cache=True)
    env = _environment(context, layer)
    version = run.output(["elixir", "--short-version"], env) or "?"
    say.step(f"Using Elixir {version.strip()} of the {context.stack} stack")
    vendored = os.path.isdir("deps")
    unchecked = ("--no-deps-check",) if vendored else ()
    if vendored:
        say.step("Using the packages in deps/, which are committed")
        _mix(env, "deps.compile", "--no-deps-check")
    elif files.there("mix.lock"):
        _fetch_hex(env)
        _mix(env, "deps.get", "--only", "prod")
        _mix(env, "deps.compile")
    _mix(env, "compile", *unchecked)
    release = Layer(context, "release")
    release.empty()
    _mix(env, "release", "--overwrite", "--path", release.path, *unchecked)
    release.set_env({"LANG": "C.UTF-8", "ELIXIR_ERL_OPTIONS": "+fnu", "RELEASE_TMP": "/tmp"})
    release.keep(None, launch=True)
    names = [name for name in os.listdir(f"{release.path}/bin") if not name.endswith(".bat")]
    if len(names) == 1:
        process = {"type": "web", "command": [names[0], "start"], "default": True}
        toml.write(os.path.join(context.layers, "launch.toml"), {"processes": [process]})


def _move(root: str) -> None:
    """Let Erlang's scripts find it where it lies."""
    for path in glob.glob(f"{root}/bin/*") + glob.glob(f"{root}/erts-*/bin/*"):
        if os.path.islink(path):
            continue
        with open(path, "rb") as file:
            text = file.read()
        if text.startswith(b"#!"):
            with open(path, "wb") as file:
                file.write(text.replace(b"/usr/lib/erlang", root.encode()))


def _environment(context: Context, layer: Layer) -> dict[str, str]:
    env = dict(context.env)
    for name, value in debian.env_values(layer.path).items():
        env[name] = os.pathsep.join(filter(None, (value, env.get(name))))
    cache = context.cached("elixir") or "/tmp/elixir"
    env.update(
        ERL_ROOTDIR=f"{layer.path}/usr/lib/erlang",
        HEX_HOME=f"{cache}/hex",
        HEX_HTTP_TIMEOUT="15",
        LANG="C.UTF-8",
        MIX_BUILD_PATH="/tmp/mix-build",
        MIX_ENV="prod",
        MIX_HOME=f"{cache}/mix",
        MIX_REBAR3=f"{layer.path}/usr/bin/rebar3",
    )
    return env


def _fetch_hex(env: dict[str, str]) -> None:
    """Have mix's package client. Raises CannotBuild."""
    say.step("Fetching hex")
    command = ["timeout", PATIENCE, "mix", "local.hex", "--force", "--if-missing"]
    done = run.run(command, env)
    if done.code:
        raise _failure(done)


def _mix(env: dict[str, str], *args: str) -> None:
    say.step(f"Running 'mix {args[0]}'")
    done = run.run(["mix", *args], env)
    if done.code:
        raise _failure(done)


def _failure(done: run.Done) -> CannotBuild:
    advice = network.advice(done.output, (MIRROR, "HEX_BUILDS_URL"))
    if advice:
        return CannotBuild(*advice, "Or commit the packages: git add --force deps.")
    return CannotBuild("The build failed; mix says above what is wrong.")
