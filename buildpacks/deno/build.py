"""Give the app its Deno and its modules, and run its build task."""

import glob
import os
import re
from typing import Any

from shipway.buildpacks.kit import files, jsonfile, procfile, say, semver
from shipway.buildpacks.kit.context import Context
from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.kit.layer import Layer

RECIPE = "2"
DEFAULT = "2.x"
CONFIGS = ("deno.json", "deno.jsonc")
ENTRIES = ("main.ts", "server.ts", "mod.ts", "index.ts", "src/main.ts", "main.js", "server.js")
ARCHES = {"amd64": "x64", "arm64": "arm64"}
EXAMPLE = "web: deno run --allow-net --allow-env main.ts"
MIRRORS = ("npm_config_registry", "JSR_URL", "DENO_NPM_REGISTRY")
# Databases and compiled code in DENO_DIR, which Deno makes anew where they are missing.
CACHES = ("*_cache_v*", "gen", "node_compat_bin")
_COMMENT = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/', re.DOTALL)
_TRAILING = re.compile(r'"(?:\\.|[^"\\])*"|,(?=\s*[}\]])')


def build(context: Context) -> None:
    """Raises CannotBuild."""
    config = _config()
    tasks = config.get("tasks") if isinstance(config.get("tasks"), dict) else {}
    assert isinstance(tasks, dict)
    entry = next(iter(files.there(*ENTRIES)), "")
    command = "deno task start" if "start" in tasks else ""
    if not procfile.there() and not command:
        raise procfile.missing("Deno", EXAMPLE, "Give deno.json a task named start. Or:")
    runtime = _runtime(context)
    modules = Layer(context, "modules")
    env = {
        **context.env,
        "PATH": f"{os.path.join(context.layers, 'deno', 'bin')}:{context.env['PATH']}",
        "DENO_DIR": modules.path,
        "DENO_NO_UPDATE_CHECK": "1",
        "NO_COLOR": "1",
    }
    _modules(modules, entry, runtime, env)
    if "build" in tasks:
        say.step("Running the task 'build'")
        _deno(env, "The task 'build' failed; see above.", "task", "build")
    _forget_caches(modules.path)
    if command and not procfile.there():
        say.detail(f"No Procfile: web runs {command!r}")
        procfile.declare(context, command)


def _runtime(context: Context) -> str:
    """Unpack Deno from npm's registry; gives what modules depend on."""
    layer = Layer(context, "deno")
    wanted, source = _version()
    made_from = files.fingerprint([], RECIPE, context.arch, str(wanted))
    if layer.made_from(made_from):
        say.step("Using the Deno of the previous build")
    else:
        from shipway.buildpacks.kit import npm

        say.step(f"Installing Deno {wanted}" + (f" ({source})" if source else ""))
        registry = npm.Registry(context.env)
        known = registry.versions(f"@deno/linux-{ARCHES.get(context.arch, context.arch)}-glibc")
        version = wanted.best(known)
        if version is None:
            raise CannotBuild(
                f"{source or 'The default'} asks for Deno {wanted}, and there is none.",
                f"Expected a version or a range such as {DEFAULT}.",
            )
        say.detail(f"Fetching Deno {version}")
        layer.empty()
        registry.unpack(known[version], f"{layer.path}/bin")
        os.chmod(f"{layer.path}/bin/deno", 0o755)  # noqa: S103  # a program
    layer.keep(made_from, launch=True, build=True, cache=True)
    return made_from


def _modules(layer: Layer, entry: str, runtime: str, env: dict[str, str]) -> None:
    """Fetch what the lock file or the entry point imports, so that a start needs no network."""
    made_from = files.fingerprint([*CONFIGS, "deno.lock", "package.json"], RECIPE, runtime)
    if not files.there("deno.lock"):
        made_from = ""  # only the code knows
        say.detail("There is no deno.lock: each build may get other modules. Commit one.")
    if made_from and layer.made_from(made_from):
        say.step("Using the modules of the previous build (deno.lock is unchanged)")
    else:
        frozen = ["--frozen"] if made_from else []
        target = ["--entrypoint", entry] if entry else []
        say.step(f"Installing modules using 'deno install {' '.join([*frozen, *target])}'")
        layer.empty()
        failed = "Installing the modules failed; deno says above what is wrong."
        _deno(env, failed, "install", *frozen, *target)
    layer.set_env({"DENO_DIR": layer.path, "DENO_NO_UPDATE_CHECK": "1"}, action="override")
    layer.keep(made_from or None, launch=True, cache=True)


def _forget_caches(folder: str) -> None:
    """Remove what Deno remembers of the code it saw: each build would get another layer of it."""
    for path in (each for pattern in CACHES for each in glob.glob(f"{folder}/{pattern}")):
        if os.path.isdir(path):
            import shutil  # a build without such a folder has no need of it

            shutil.rmtree(path)
        else:
            os.unlink(path)


def _deno(env: dict[str, str], failed: str, *args: str) -> None:
    from shipway.buildpacks.kit import network
    from shipway.buildpacks.kit.run import run

    done = run(["deno", *args], env)
    if done.code and "lockfile is out of date" in done.output:
        raise CannotBuild(
            "deno.lock does not fit the app.",
            "Run `deno install`, commit deno.lock and push again.",
        )
    if done.code:
        raise CannotBuild(failed, *network.advice(done.output, MIRRORS))


def _version() -> tuple[semver.Range, str]:
    for name in files.there(".dvmrc", ".deno-version"):
        text = files.text(name, 4096).strip().lower().removeprefix("deno").strip()
        try:
            return semver.Range(text or DEFAULT), name
        except semver.InvalidRange:
            raise CannotBuild(
                f"{name} says {text[:40]!r}, which is no version or range of Deno.",
                f"Expected one such as {DEFAULT} or 2.1.0.",
            ) from None
    return semver.Range(DEFAULT), ""


def _config() -> dict[str, Any]:
    """deno.json, which may have comments and commas too many. Raises CannotBuild with the line."""
    for name in files.there(*CONFIGS):
        text = _COMMENT.sub(_blank, files.text(name, 1 << 20))
        return jsonfile.parse(name, _TRAILING.sub(_blank, text))
    return {}


def _blank(match: "re.Match[str]") -> str:
    """A string as it is; anything else as spaces, so that lines and columns stay."""
    text = match.group()
    return text if text.startswith('"') else re.sub(r"[^\n]", " ", text)
