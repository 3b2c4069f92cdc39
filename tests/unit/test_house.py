"""The rules of the house, read from the code itself."""

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("platform", "workers", "buildpacks", "runtime")

# What workers may know of the platform: where the truth is kept, and nothing that serves people.
LEAVES = {
    "applog",
    "branches",
    "builds",
    "buildsettings",
    "deploysettings",
    "errors",
    "events",
    "files",
    "formation",
    "models",
    "names",
    "releases",
    "repos",
    "settings",
    "states",
    "store",
    "vault",
}
OURS_ALLOWED = {
    "runtime": {"runtime"},
    "buildpacks": {"buildpacks", "runtime"},
    "platform": {"platform"},
    "workers": {"workers", "runtime", "buildpacks", "platform"},
}
# The layers of the engine, lowest first: what each package, and each module that many of them use,
# imports of the engine beside itself. The other modules of the top stand above them all.
EVERYWHERE = {"errors", "files", "commands", "spec"}
RUNTIME_ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "files": {"errors"},
    "commands": {"errors"},
    "config": {"errors", "files"},
    "spec": {"errors", "network"},  # what a published port and the name of a network are
    "kernel": EVERYWHERE,
    "network": EVERYWHERE | {"kernel"},
    "ids": EVERYWHERE,
    "oci": EVERYWHERE | {"kernel"},
    "images": EVERYWHERE | {"config", "kernel", "ids"},
    "observability": EVERYWHERE | {"kernel", "network"},
    "containers": EVERYWHERE
    | {"config", "kernel", "network", "ids", "oci", "images", "observability"},
    "filesystem": EVERYWHERE | {"kernel", "images", "containers"},
}
FORBIDDEN = {
    "runtime": {"flask", "celery", "redis", "sqlalchemy", "git", "gunicorn"},
    "buildpacks": {"flask", "celery", "redis", "sqlalchemy", "git"},
    "platform": set(),
    "workers": {"flask", "gunicorn"},
}
# The environment is read in one place; these pass it on to a child, or are programs of their own.
READS_ENVIRON = {"platform/settings.py", "runtime/cli/config.py", "buildpacks/kit/context.py"}


def modules(folder: str) -> Iterator[tuple[str, ast.Module]]:
    """Each Python file of a folder, as a path from the root and its syntax tree."""
    for path in sorted((ROOT / folder).rglob("*.py")):
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def imports(tree: ast.Module) -> Iterator[str]:
    """Every module named in an import statement, also those inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a name comes from"
            yield node.module or ""
            if node.module in {f"shipway.{name}" for name in FOLDERS}:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports(folder: str) -> None:
    """Each folder imports only what the table of the house lets it."""
    wrong = []
    for path, tree in modules(folder):
        for name in imports(tree):
            first, *rest = name.split(".")
            if first in FORBIDDEN[folder] or first in {"runtime", "workers", "buildpacks"}:
                wrong.append(f"{path}: {name}")
            if first == "shipway" and rest and rest[0] not in OURS_ALLOWED[folder]:
                wrong.append(f"{path}: {name}")
            if folder == "workers" and rest[:1] == ["platform"] and len(rest) > 1:
                if rest[1] not in LEAVES:
                    wrong.append(f"{path}: {name} is no leaf")
    assert wrong == []


def test_layers_of_the_engine() -> None:
    """Each package of the engine imports only what lies below it."""
    wrong = []
    for path, tree in modules("runtime"):
        part = path.split("/")[1].removesuffix(".py")
        for name in imports(tree):
            first, *rest = name.removeprefix("shipway.").split(".")
            if part not in RUNTIME_ALLOWED or first != "runtime" or not rest:
                continue
            if rest[0] not in RUNTIME_ALLOWED[part] | {part}:
                wrong.append(f"{path}: {name}")
    assert wrong == []


def test_every_package_of_the_engine_has_its_layer() -> None:
    """No package of the engine but its command is missing in the table of its layers."""
    folders = {path.parent.name for path in (ROOT / "runtime").glob("*/*.py")}
    assert folders - {"cli"} <= set(RUNTIME_ALLOWED)


def test_leaves_stay_leaves() -> None:
    """What workers may import of the platform imports nothing of it that they may not, nor flask."""
    wrong = []
    for path, tree in modules("platform"):
        if Path(path).stem not in LEAVES or "/" in path.removeprefix("platform/"):
            continue
        for name in imports(tree):
            rest = name.split(".")
            if rest[0] in {"flask", "werkzeug", "celery"}:
                wrong.append(f"{path}: {name}")
            if rest[:2] == ["shipway", "platform"] and len(rest) > 2 and rest[2] not in LEAVES:
                wrong.append(f"{path}: {name}")
    assert wrong == []


def test_no_init_files() -> None:
    """None of the four folders has an __init__.py, which would hide the stdlib's platform module."""
    found = [str(p) for folder in FOLDERS for p in (ROOT / folder).rglob("__init__.py")]
    assert found == []


@pytest.mark.parametrize(
    "argv",
    [
        ["-c", "import platform; platform.system()"],
        ["-m", "pytest", "--version"],
        ["-m", "celery", "--version"],
        ["-m", "gunicorn", "--version"],
    ],
    ids=["platform", "pytest", "celery", "gunicorn"],
)
def test_stdlib_platform_wins(argv: list[str]) -> None:
    """From the root of the repository the stdlib's platform module is the one that is imported."""
    done = subprocess.run([sys.executable, *argv], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_package_is_listed() -> None:
    """Every folder with Python modules is named in pyproject.toml, or a wheel would lack it."""
    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            relative = path.parent.relative_to(ROOT)
            if {"bin", "migrations", "versions"} & set(relative.parts):
                continue  # package data: executables and migrations, read by path
            assert "shipway." + ".".join(relative.parts) in listed, relative


def test_environment_is_read_in_one_module() -> None:
    """Only the settings read os.environ; everything else takes its parameters."""
    wrong = []
    for folder in FOLDERS:
        for path, tree in modules(folder):
            if path in READS_ENVIRON or "/bin/" in path or path in PASSES_ENVIRON_ON:
                continue
            for node in ast.walk(tree):
                if not (isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}):
                    continue
                if isinstance(node.value, ast.Name) and node.value.id == "os":
                    wrong.append(f"{path}:{node.lineno}")
    assert wrong == []


# Modules that hand the whole environment to a child they start.
PASSES_ENVIRON_ON = {
    "platform/supervisor.py",
    "platform/warm.py",
    "buildpacks/debian.py",
}


def test_no_shell() -> None:
    """No command is run through a shell of ours: argv lists only."""
    wrong = []
    for folder in FOLDERS:
        for path, tree in modules(folder):
            for node in ast.walk(tree):
                if isinstance(node, ast.keyword) and node.arg == "shell":
                    wrong.append(f"{path}:{node.value.lineno}")
                if isinstance(node, ast.Attribute) and node.attr in {"system", "popen"}:
                    if isinstance(node.value, ast.Name) and node.value.id == "os":
                        wrong.append(f"{path}:{node.lineno}")
    assert wrong == []


def test_no_registry_host_is_named() -> None:
    """No package registry's host stands in a file: a mirror set on a machine is used everywhere."""
    hosts = [
        "py" + "pi.org",
        "python" + "hosted.org",
        "registry.npm" + "js",
        "deb.deb" + "ian.org",
        "security.deb" + "ian.org",
    ]
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True
    ).stdout.split(b"\0")
    wrong = []
    for name in filter(None, tracked):
        path = ROOT / os.fsdecode(name)
        if path.is_file():
            text = path.read_bytes()
            wrong += [f"{path.name}: {host}" for host in hosts if host.encode() in text]
    assert wrong == []


def test_the_wheel_is_whole(tmp_path: Path) -> None:
    """A wheel holds every module, template, hook, migration and buildpack of the checkout."""
    import zipfile

    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "--", *FOLDERS], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    missing = [
        name for name in tracked if not name.endswith("README.md") and f"shipway/{name}" not in held
    ]
    assert missing == []
