"""The programs of a Rust crate or workspace, built by Debian's cargo; nothing else in the image."""

import json
import os
import re
import shutil
from typing import Any

from shipway.buildpacks.kit import debian, files, network, run, say, toml
from shipway.buildpacks.kit.context import Context
from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.kit.layer import Layer

RECIPE = "1"
PACKAGES = ("cargo", "rustc")
MIRROR = "CARGO_MIRROR"
_CHANNEL = re.compile(r"(?m)^\s*(?:channel\s*=\s*)?[\"']?(\d+\.\d+)(?:\.\d+)?[\"']?\s*$")


def build(context: Context) -> None:
    """Make the layers `rust` (build, cache) and `programs` (launch). Raises CannotBuild."""
    layer = Layer(context, "rust")
    made_from = debian.fingerprint(PACKAGES, False, RECIPE)
    if not layer.made_from(made_from):
        say.step(f"Installing Rust from {context.stack}'s packages")
        debian.provide(context, layer, PACKAGES, launch=False)
    layer.keep(made_from, build=True, cache=True)
    env = _environment(context, layer)
    _check_version(context, env)
    options = _options(context)
    say.step("Building using 'cargo build --release'")
    done = run.run(["cargo", "build", "--release", *options], env)
    if done.code:
        advice = network.advice(done.output, (MIRROR,))
        if advice:
            raise CannotBuild(*advice, "Or commit the crates: cargo vendor, as it says.")
        raise CannotBuild("The build failed; cargo says above what is wrong.")
    names = _install_programs(context, env, options)
    if files.there(".cargo/config.toml") and os.path.isdir("vendor"):
        shutil.rmtree("vendor")  # only the compiler reads it
    main = "web" if "web" in names else names[0] if len(names) == 1 else None
    say.detail(f"Programs: {', '.join(names)}")
    if main:
        process = {"type": "web", "command": [main], "default": True}
        toml.write(os.path.join(context.layers, "launch.toml"), {"processes": [process]})


def _environment(context: Context, layer: Layer) -> dict[str, str]:
    env = dict(context.env)
    for name, value in debian.env_values(layer.path).items():
        env[name] = os.pathsep.join(filter(None, (value, env.get(name))))
    cache = context.cached("rust") or "/tmp/rust"
    own = {
        "CARGO_HOME": f"{cache}/home",
        "CARGO_TARGET_DIR": f"{cache}/target",
        "CARGO_TERM_COLOR": "never",
        "CARGO_TERM_PROGRESS_WHEN": "never",
        "CARGO_NET_RETRY": "1",
        "CARGO_HTTP_TIMEOUT": "15",
    }
    env.update(own)
    env.setdefault("CARGO_PROFILE_RELEASE_STRIP", "symbols")
    return env


def _check_version(context: Context, env: dict[str, str]) -> None:
    """Say which Rust it is. Raises CannotBuild when the app asks for a newer one."""
    version = (run.output(["rustc", "--version"], env) or "rustc ?").split()[1]
    say.step(f"Using Rust {version} of the {context.stack} stack")
    for source in files.there("rust-toolchain.toml", "rust-toolchain"):
        match = _CHANNEL.search(files.text(source, 65536))
        if match and _number(match[1]) > _number(version):
            raise CannotBuild(
                f"{source} asks for Rust {match[1]}, but {context.stack} has {version}."
            )


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())


def _options(context: Context) -> list[str]:
    options = ["--locked"] if files.there("Cargo.lock") else []
    mirror = context.env.get(MIRROR)
    if mirror:
        options += ["--config", 'source.crates-io.replace-with="mirror"']
        options += ["--config", f"source.mirror.registry={toml.string(mirror)}"]
    return options


def _install_programs(context: Context, env: dict[str, str], options: list[str]) -> list[str]:
    """Copy what was built into the layer `programs`. Raises CannotBuild when that is nothing."""
    command = ["cargo", "metadata", "--no-deps", "--format-version=1", *options]
    text = run.output(command, env)
    document: dict[str, Any] = json.loads(text) if text else {"packages": []}
    names = [
        target["name"]
        for package in document["packages"]
        for target in package["targets"]
        if "bin" in target["kind"]
    ]
    built = [n for n in names if os.path.exists(f"{env['CARGO_TARGET_DIR']}/release/{n}")]
    if not built:
        raise CannotBuild("The crate has no program (src/main.rs, src/bin/ or [[bin]]).")
    layer = Layer(context, "programs")
    layer.empty()
    os.makedirs(f"{layer.path}/bin")
    for name in built:
        shutil.copy(f"{env['CARGO_TARGET_DIR']}/release/{name}", f"{layer.path}/bin/{name}")
    layer.keep(None, launch=True)
    return built
