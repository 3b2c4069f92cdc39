"""Stacks: the base images under every app, made once on this machine from Debian's packages.

A stack is two images, one for running apps and one for building them; the second is the first with
one more layer, so that the disk and the page cache hold the common part once.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import uv

from shipway.buildpacks import debian, mirrors
from shipway.buildpacks.compiledpython import pin_times
from shipway.buildpacks.errors import StackFailed
from shipway.runtime import files
from shipway.runtime.errors import NoSuchImage
from shipway.runtime.images.layers import Layer, LayerStore
from shipway.runtime.images.store import ImageConfig, ImageStore
from shipway.runtime.images.tarwriter import FIXED_TIME

USER_ID = 1000
HOME = "/workspace"
DISK_NEEDED = 1_500_000_000  # bytes: trees, blobs, and the packages while they are unpacked
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
RECIPE_LABEL = "io.shipway.stack.recipe"

RUN_PACKAGES = (
    "bash",
    "ca-certificates",
    "curl",
    "libffi8",
    "libgomp1",
    "libmariadb3",
    "libpq5",
    "libxml2",
    "libxslt1.1",
    "media-types",
    "netbase",
    "procps",
    "python3",
    "tzdata",
)
BUILD_PACKAGES = (
    "build-essential",
    "git",
    "jq",
    "libffi-dev",
    "libjpeg62-turbo-dev",
    "libmariadb-dev",
    "libpq-dev",
    "libssl-dev",
    "libxml2-dev",
    "libxslt1-dev",
    "openssh-client",
    "pkgconf",
    "python3-dev",
    "python3-venv",
    "unzip",
    "xz-utils",
    "zlib1g-dev",
    "zstd",
)


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack that is ready; the images are references in the engine's store."""

    name: str
    run_image: str
    build_image: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a stack is made of. A changed recipe makes the stack anew."""

    name: str
    suite: str
    version: str
    run_packages: tuple[str, ...] = RUN_PACKAGES
    build_packages: tuple[str, ...] = BUILD_PACKAGES
    revision: int = 2  # raised when the steps below change what comes out

    @property
    def stack(self) -> Stack:
        """The stack it makes."""
        return Stack(self.name, f"stack/{self.name}:run", f"stack/{self.name}:build")

    @property
    def digest(self) -> str:
        """A short name for the recipe's content, kept as a label of its images."""
        content = [self.suite, self.run_packages, self.build_packages, self.revision]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def config(self) -> ImageConfig:
        """The configuration of both images."""
        stack_id = f"io.shipway.stacks.{self.name}"
        return ImageConfig(
            env={
                "PATH": PATH,
                "LANG": "C.UTF-8",
                "CNB_USER_ID": str(USER_ID),
                "CNB_GROUP_ID": str(USER_ID),
                "CNB_STACK_ID": stack_id,
            },
            cmd=("/bin/bash",),
            working_dir=HOME,
            user=f"{USER_ID}:{USER_ID}",
            labels={
                "io.buildpacks.stack.id": stack_id,
                "io.buildpacks.base.id": stack_id,
                "io.buildpacks.base.distro.name": "debian",
                "io.buildpacks.base.distro.version": self.version,
                RECIPE_LABEL: self.digest,
            },
        )


RECIPES = {
    "debian-12": Recipe("debian-12", "bookworm", "12"),
    "debian-13": Recipe("debian-13", "trixie", "13"),
}


class Stores(Protocol):
    """What of an engine is needed to make a stack."""

    @property
    def images(self) -> ImageStore:
        """The store the images go to."""
        ...

    @property
    def layers(self) -> LayerStore:
        """The store the layers go to."""
        ...


def ensure_stack(
    engine: Stores, name: str = "debian-13", output: Callable[[str], None] = print
) -> Stack:
    """Make the stack unless it is there (about 40 s, once). Raises StackFailed.

    Any number of processes may call this at once: one makes it, the others wait. Killed half-way,
    it leaves nothing that counts, and the next call begins again.
    """
    recipe = RECIPES.get(name)
    if recipe is None:
        known = " and ".join(sorted(RECIPES))
        raise StackFailed(f"there is no stack {name!r}; there are {known}")
    if not _is_ready(engine, recipe):
        output(f"-----> Making the stack {name}: once per machine, about a minute")
        with files.locked(engine.images.root / f".stack-{name}.lock"):
            if not _is_ready(engine, recipe):
                _make(engine, recipe, output)
        output(f"       The stack {name} is ready")
    return recipe.stack


def renew_stack(engine: Stores, name: str, output: Callable[[str], None] = print) -> Stack:
    """Make the stack anew, with the packages that Debian has now. Raises StackFailed.

    Images on the old one keep it until they are rebased; a making that fails leaves it in place.
    """
    stack = ensure_stack(engine, name, output)
    output(f"-----> Making the stack {name} anew, with today's security updates")
    with files.locked(engine.images.root / f".stack-{name}.lock"):
        _make(engine, RECIPES[name], output)
    return stack


def _is_ready(engine: Stores, recipe: Recipe) -> bool:
    try:
        images = [
            engine.images.get(ref) for ref in (recipe.stack.run_image, recipe.stack.build_image)
        ]
    except NoSuchImage:
        return False
    return all(image.config.labels.get(RECIPE_LABEL) == recipe.digest for image in images) and all(
        engine.layers.has(layer.diff_id) for layer in images[-1].layers
    )


def _make(engine: Stores, recipe: Recipe, output: Callable[[str], None]) -> None:
    debian.require_tools()
    free = shutil.disk_usage(engine.images.root).free
    if free < DISK_NEEDED:
        raise StackFailed(
            f"the disk of {engine.images.root} has {free // 10**6} MB free, and making a stack "
            f"needs {DISK_NEEDED // 10**6} MB; free some"
        )
    engine.layers.sweep()
    run = _make_run_layer(engine.layers, recipe, output)
    build = _make_build_layer(engine.layers, recipe, run, output)
    output("-----> Syncing the stack to disk")
    engine.layers.settle()
    engine.images.write([run, build], recipe.config(), recipe.stack.build_image)
    engine.images.write([run], recipe.config(), recipe.stack.run_image)


def _make_run_layer(layers: LayerStore, recipe: Recipe, output: Callable[[str], None]) -> Layer:
    output(f"-----> Installing Debian {recipe.version} ({len(recipe.run_packages)} packages asked)")
    with layers.staged_tree() as tree:
        sources = mirrors.sources_for(recipe.suite)
        debian.make_base(tree, recipe.suite, recipe.run_packages, sources, output)
        _add_user(tree)
        _clean(tree)
        pin_times(tree, FIXED_TIME)
        layer = layers.commit(tree)
    output(f"       The run image has {layer.size // 10**6} MB")
    return layer


def _make_build_layer(
    layers: LayerStore, recipe: Recipe, run: Layer, output: Callable[[str], None]
) -> Layer:
    output("-----> Adding compilers and tools for builds")
    with layers.staged_tree() as tree:
        scratch = tree.parent / "scratch"
        scratch.mkdir()
        lower = layers.path(run.diff_id)
        debian.add_packages(lower, tree, scratch, recipe.build_packages, output)
        (tree / "usr/local/bin").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(uv.find_uv_bin(), tree / "usr/local/bin/uv")
        (tree / "usr/local/bin/uv").chmod(0o755)
        _clean(tree)
        pin_times(tree, FIXED_TIME)
        layer = layers.commit(tree)
    output(f"       The build image adds {layer.size // 10**6} MB")
    return layer


def _add_user(tree: Path) -> None:
    """The user that apps run and build as, with a home it owns."""
    for path, line in (
        ("etc/passwd", f"app:x:{USER_ID}:{USER_ID}::{HOME}:/bin/bash"),
        ("etc/group", f"app:x:{USER_ID}:"),
        ("etc/shadow", "app:*:::::::"),
        ("etc/gshadow", "app:!::"),
    ):
        with (tree / path).open("a") as file:
            file.write(line + "\n")
    for folder in (HOME, "/layers"):
        owned = tree / folder.lstrip("/")
        owned.mkdir(mode=0o755)
        os.chown(owned, USER_ID, USER_ID)


def _clean(tree: Path) -> None:
    """Remove what differs from one making to the next, or belongs to the host."""
    for pattern in (
        "dev/*",
        "run/*",
        "tmp/*",
        "var/tmp/*",
        "var/cache/apt/*.bin",
        "var/cache/apt/archives/*.deb",
        "var/cache/debconf/*-old",
        "var/cache/ldconfig/aux-cache",
        "var/lib/apt/lists/*",
        "var/lib/dpkg/*-old",
        "etc/*-",
        "etc/.pwd.lock",
        "etc/hostname",
        "etc/machine-id",
        "etc/resolv.conf",
    ):
        for path in tree.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    for path in (tree / "var/log").rglob("*"):
        if not path.is_dir():
            path.unlink()
    shadow = tree / "etc/shadow"
    if shadow.is_file():
        # the day a password was set last: the day of making
        lines = [line.split(":") for line in shadow.read_text().splitlines()]
        with shadow.open("r+") as file:
            file.write("".join(":".join([*p[:2], "", *p[3:]]) + "\n" for p in lines))
            file.truncate()
