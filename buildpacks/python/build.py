"""Install what the app asks for into the layer `venv`, unless the one there is from the same."""

import os
import sys
from collections.abc import Mapping

from shipway.buildpacks.kit import files, procfile, say
from shipway.buildpacks.kit.context import Context
from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.kit.layer import Layer
from shipway.buildpacks.python import requirements, sources
from shipway.buildpacks.python.sources import PYPROJECT, Source

RECIPE = "3"  # a new one when the layer must be made anew though the app asks for the same
# uv's own names for what people set for pip.
PIP_SETTINGS = {"PIP_INDEX_URL": "UV_DEFAULT_INDEX", "PIP_EXTRA_INDEX_URL": "UV_INDEX"}
INDEX_SETTINGS = ("UV_DEFAULT_INDEX", "PIP_INDEX_URL")
STACK_PYTHON = ".".join(map(str, sys.version_info[:3]))
EXAMPLE = "web: gunicorn --bind 0.0.0.0:$PORT app:app"
POETRY = ("--from", "poetry>=2,<3", "--with", "poetry-plugin-export>=1.9,<2", "poetry")
# How the tools say that a lock file is older than what it locks.
STALE = ("needs to be updated", "changed significantly since poetry.lock", "is not up to date")


def build(context: Context) -> None:
    """Raises CannotBuild."""
    source = sources.choose()
    command = _web(source)
    python = _choose_python(context, source)
    layer = Layer(context, "venv")
    made_from = _fingerprint(context, source, python.version)
    if layer.made_from(made_from):
        say.step(f"Using the dependencies of the previous build ({source.name} is unchanged)")
    else:
        _install(context, layer, source, python.path)
        # What the app's processes get; its own config comes later and wins.
        layer.set_env({"VIRTUAL_ENV": layer.path, "PYTHONUNBUFFERED": "1", "LANG": "C.UTF-8"})
    layer.keep(made_from, launch=True, build=True, cache=True, python=python.version)
    if os.path.isfile("manage.py"):
        from shipway.buildpacks.python import django

        django.collect_static(context, layer)
    if command:
        say.detail(f"No Procfile: web runs {command!r}")
        procfile.declare(context, command)


def _web(source: Source) -> str:
    """The command of the web process where there is no Procfile. Raises CannotBuild without one."""
    if procfile.there():
        return ""
    from shipway.buildpacks.python import web

    names = files.there(source.name, *source.more, *sources.OTHERS)
    command = web.command("\n".join(files.text(name) for name in names))
    if not command:
        raise procfile.missing("Python", EXAMPLE)
    return command


class Python:
    """The interpreter of an app: `path` and full `version`."""

    def __init__(self, path: str, version: str) -> None:
        self.path = path
        self.version = version


def _choose_python(context: Context, source: Source) -> Python:
    """Say which Python is used, and fetch it where it is not the stack's."""
    for name, wanted in _asked(source):
        from shipway.buildpacks.python import version

        note = version.check(wanted, name, sys.version_info[:3], context.stack)
        if note is None:
            from shipway.buildpacks.python import interpreter

            return Python(*interpreter.fetch(context, wanted, name, _uv_env(context)))
        say.step(f"Using Python {STACK_PYTHON} specified in {name}")
        if note:
            say.detail(note)
        return Python(sys.executable, STACK_PYTHON)
    say.step(f"Using Python {STACK_PYTHON} of the {context.stack} stack")
    return Python(sys.executable, STACK_PYTHON)


def _asked(source: Source) -> list[tuple[str, str]]:
    """The file that names a Python, and what it says: at most one."""
    for name in files.there(".python-version", "runtime.txt"):
        from shipway.buildpacks.python import version

        wanted = version.asked(files.text(name, 4096))
        if wanted:
            return [(name, wanted)]
    if source.name in ("Pipfile", "Pipfile.lock"):
        read = sources.pipfile if source.name == "Pipfile" else sources.pipfile_lock
        wanted = read()[1]
        return [(source.name, wanted)] if wanted else []
    return []


def _fingerprint(context: Context, source: Source, python: str) -> str | None:
    stamps = (RECIPE, python, context.distro, os.uname().machine)
    if source.name == "requirements.txt":
        return requirements.fingerprint(source.name, *stamps)
    if source.name == PYPROJECT and not files.there("uv.lock"):
        return files.fingerprint([PYPROJECT], *stamps)
    return files.fingerprint([source.name, *source.more], *stamps)


def _install(context: Context, layer: Layer, source: Source, python: str) -> None:
    """Make the virtual environment from nothing, so that it depends on the app's file only."""
    layer.empty()
    env = {**_uv_env(context), "VIRTUAL_ENV": layer.path, "UV_PROJECT_ENVIRONMENT": layer.path}
    _uv(env, source, "venv", "--quiet", "--no-project", "--python", python, layer.path)
    if source.name == "uv.lock":
        _install_uv(env, source, python, _groups(context))
    elif source.name == "poetry.lock":
        _install_poetry(env, source)
    elif source.name == "requirements.txt":
        say.step(f"Installing dependencies using 'uv pip install -r {source.name}'")
        _pip(env, source, "-r", source.name)
    elif source.name == PYPROJECT:
        _install_pyproject(env, source)
    else:
        read = sources.pipfile if source.name == "Pipfile" else sources.pipfile_lock
        say.step(f"Installing dependencies of {source.name} using 'uv pip install'")
        _pip(env, source, "-r", _written(read()[0]))


def _install_uv(env: dict[str, str], source: Source, python: str, groups: list[str]) -> None:
    if "UV_DEFAULT_INDEX" not in env:
        say.step(f"Installing dependencies using 'uv sync --locked {' '.join(groups)}'")
        _uv(env, source, "sync", "--locked", "--compile-bytecode", "--python", python, *groups)
        return
    # uv.lock holds addresses of the index that it was made with; `uv sync` would go there.
    say.step("Installing dependencies using 'uv export --frozen' and 'uv pip install'")
    path = "/tmp/uv-requirements.txt"
    args = ("--quiet", "--frozen", "--format", "requirements.txt", "--output-file", path)
    _uv(env, source, "export", "--python", python, *args, *groups)
    _pip(env, source, "-r", path)


def _groups(context: Context) -> list[str]:
    """Dependency groups that are not for development, as the app's settings name them."""
    named = context.env.get("UV_GROUPS", "").replace(",", " ").split()
    return ["--no-default-groups", *(word for name in named for word in ("--group", name))]


def _install_poetry(env: dict[str, str], source: Source) -> None:
    """Poetry says what is locked, uv installs it."""
    say.step("Reading poetry.lock using 'poetry export'")
    path = "/tmp/poetry-requirements.txt"
    # A Poetry of its own environment: not the app's.
    own = {name: value for name, value in env.items() if name != "VIRTUAL_ENV"}
    args = ("tool", "run", "--quiet", "--python", sys.executable, *POETRY)
    _uv(own, source, *args, "export", "--only", "main", "--output", path)
    say.step("Installing dependencies using 'uv pip install'")
    _pip(env, source, "-r", path)
    document = sources.pyproject()
    poetry = document.get("tool", {}).get("poetry", {})
    if "build-system" in document and poetry.get("package-mode", True) and _has_package(document):
        _pip(env, source, "--no-deps", "-e", ".")


def _has_package(document: Mapping[str, object]) -> bool:
    """Whether there is a package of the project's name: many apps are none."""
    project, tool = document.get("project"), document.get("tool")
    poetry = tool.get("poetry", {}) if isinstance(tool, dict) else {}
    name = (project or {}).get("name") if isinstance(project, dict) else None
    name = str(name or poetry.get("name") or "").replace("-", "_").replace(".", "_")
    return bool(poetry.get("packages")) or any(
        os.path.exists(path) for path in (name, f"src/{name}", f"{name}.py") if name
    )


def _install_pyproject(env: dict[str, str], source: Source) -> None:
    document = sources.pyproject()
    if "project" not in document:
        poetry = "poetry" in document.get("tool", {})
        raise CannotBuild(
            f"{PYPROJECT} has no table [project], so it does not say what the app needs.",
            "Run `poetry lock` and commit poetry.lock."
            if poetry
            else "Add one with dependencies, or a requirements.txt.",
        )
    say.step(f"Installing dependencies using 'uv pip install -r {PYPROJECT}'")
    _pip(env, source, "-r", PYPROJECT)
    if "build-system" in document:
        _pip(env, source, "--no-deps", "-e", ".")


def _pip(env: dict[str, str], source: Source, *args: str) -> None:
    _uv(env, source, "pip", "install", "--compile-bytecode", *args)


def _written(lines: list[str]) -> str:
    path = "/tmp/requirements.txt"
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return path


def _uv(env: dict[str, str], source: Source, *args: str) -> None:
    """Run uv. Raises CannotBuild with what can be said of its failure."""
    from shipway.buildpacks.kit import network
    from shipway.buildpacks.kit.run import run

    # Which Python it uses is said already, and where it lies helps nobody.
    done = run(["uv", *args], env, show=lambda line: not line.startswith("Using "))
    if done.code == 0:
        return
    if args[0] == "venv":
        raise CannotBuild("The virtual environment could not be made; see above.")
    if any(sign in done.output for sign in STALE):
        raise CannotBuild(
            f"{source.name} does not fit {source.more[0] if source.more else PYPROJECT}.",
            f"Run `{sources.LOCKS[source.name].lower()} lock`, commit {source.name} and push again.",
        )
    raise CannotBuild(
        f"Installing what {source.name} asks for failed; uv says above what is wrong.",
        *network.advice(done.output, INDEX_SETTINGS),
    )


def _uv_env(context: Context) -> dict[str, str]:
    """Settings of uv and of the compiler that it starts."""
    env = {
        **context.env,
        # Layers have fixed times, so compiled files must not depend on the time of their source.
        "PYC_INVALIDATION_MODE": "UNCHECKED_HASH",
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_NO_PROGRESS": "1",
        "NO_COLOR": "1",
    }
    env.setdefault("UV_HTTP_TIMEOUT", "30")
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
