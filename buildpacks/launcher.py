"""The launcher as a layer, compiled once for a stack, and the layer that says what it starts."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from shipway.buildpacks import heroku, processes
from shipway.buildpacks.catalog import HERE
from shipway.buildpacks.errors import BuildFailed
from shipway.buildpacks.kit import toml
from shipway.buildpacks.lifecycle.checks import api_version
from shipway.buildpacks.lifecycle.request import APP_DIR, LAYERS_DIR, Buildpack
from shipway.buildpacks.result import Result
from shipway.buildpacks.stacks import Stack
from shipway.runtime import files
from shipway.runtime.engine import Engine
from shipway.runtime.errors import DamagedBlob, NoSuchImage
from shipway.runtime.images.layers import Layer
from shipway.runtime.images.store import Image, ImageConfig
from shipway.runtime.spec import ContainerSpec, IdRange, Mount

SOURCE = HERE / "launcher.c"
KEY_LABEL = "io.shipway.launcher"
NO_SUCH_PROGRAM = 127
COMPILE = (
    *("gcc", "-std=gnu11", "-O2", "-Wall", "-static", "-s", "-Wl,--build-id=none"),
    *("-o", "/out/launcher", "/cnb/launcher.c"),
)


def layer(engine: Engine, stack: Stack, ids: IdRange) -> Layer:
    """The layer that holds the launcher; made with the stack's own compiler if it is not there.

    Static and so the same for every run image. Raises BuildFailed.
    """
    build_image = engine.images.get(stack.build_image)
    key = hashlib.sha256(SOURCE.read_bytes())
    key.update(" ".join((*COMPILE, build_image.digest)).encode())
    ref = f"launcher/{stack.name}"
    found = _found(engine, ref, key.hexdigest())
    if found is None:
        with files.locked(engine.images.root / f".launcher-{stack.name.replace('/', '_')}.lock"):
            found = _found(engine, ref, key.hexdigest())
            if found is None:
                found = _make(engine, build_image, ids)
                config = ImageConfig(labels={KEY_LABEL: key.hexdigest()})
                engine.images.write([found], config, ref)
    return found


def write_config(tree: Path, result: Result, group: Sequence[Buildpack]) -> None:
    """Fill an empty folder with metadata.toml, the launcher's own list, and a link for each type."""
    config = tree / LAYERS_DIR.lstrip("/") / "config"
    config.mkdir(parents=True)
    (config / "metadata.toml").write_text(metadata(result, group), encoding="utf-8")
    known = [(one.folder, api_version(one.api)) for one in group]
    (config / "launch").write_bytes(processes.launch_list(result.processes, known))
    links = tree / processes.PROCESS_DIR.lstrip("/")
    links.mkdir(parents=True)
    if any(id_.startswith(heroku.PREFIX) for id_ in result.group):
        (tree / heroku.HOME.lstrip("/")).symlink_to(APP_DIR)
    for process in result.processes:
        (links / process.type).symlink_to(processes.LAUNCHER)


def metadata(result: Result, group: Sequence[Buildpack]) -> str:
    """The text of <layers>/config/metadata.toml, by the platform specification."""
    document = {
        "buildpack-default-process-type": result.default or "",
        "buildpacks": [
            {"id": one.id, "version": one.version, "api": one.api, "homepage": one.homepage}
            for one in group
        ],
        "processes": [
            {
                "type": one.type,
                "command": one.command,
                "args": one.args,
                "direct": one.direct,
                "buildpack-id": one.buildpack,
                "working-dir": one.working_dir,
                "exec-env": one.exec_env or ("*",),
            }
            for one in result.processes
        ],
        "slices": [{"paths": paths} for paths in result.slices],
    }
    return toml.dumps(document)


def _found(engine: Engine, ref: str, key: str) -> Layer | None:
    try:
        image = engine.images.get(ref)
    except (NoSuchImage, DamagedBlob):
        return None
    if image.config.labels.get(KEY_LABEL) != key or len(image.layers) != 1:
        return None
    return image.layers[0] if engine.layers.has(image.layers[0].diff_id) else None


def _make(engine: Engine, build_image: Image, ids: IdRange) -> Layer:
    lines: list[bytes] = []
    with engine.layers.staged_tree() as tree:
        out = tree.parent / "out"
        out.mkdir()
        os.chown(out, 1000, 1000)
        spec = ContainerSpec(
            id=f"launcher-{os.getpid()}-{tree.parent.name[-12:]}",
            image=build_image.digest,
            args=COMPILE,
            env={},
            ids=ids,
            network=False,
            mounts=(
                Mount(os.fspath(SOURCE), "/cnb/launcher.c", readonly=True),
                Mount(os.fspath(out), "/out", own=True),
            ),
        )
        code = engine.execute(spec, lines.append, timeout=120).code
        if code:
            said = b"".join(lines).decode(errors="replace").strip()[-500:]
            why = "has no gcc" if code == NO_SUCH_PROGRAM else f"cannot compile it: {said}"
            raise BuildFailed(f"the launcher cannot be made: the stack's build image {why}", 62)
        place = tree / processes.LAUNCHER.lstrip("/")
        place.parent.mkdir(parents=True)
        place.write_bytes((out / "launcher").read_bytes())
        place.chmod(0o755)
        return engine.layers.commit(tree)
