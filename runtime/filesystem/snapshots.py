"""What a container has on its disk, given out: as a new image, or as one tar."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from shipway.runtime.containers import idmapping, lifecycle
from shipway.runtime.containers.container import Files, Observer
from shipway.runtime.containers.tools import Tools
from shipway.runtime.errors import RuntimeFailure
from shipway.runtime.images import commit as commits
from shipway.runtime.images import rootfs
from shipway.runtime.images.archives import Writable
from shipway.runtime.images.commit import Change, Overrides
from shipway.runtime.images.store import Image, ImageStore

# What the engine itself adds to the environment of a container whose image has no say on it.
_OWN_ENV = ("HOME", "TERM")


def commit(
    tools: Tools, observer: Observer, files: Files, images: ImageStore, change: Change, pause: bool
) -> Image:
    """Make an image of a container, which is paused meanwhile if it runs and `pause` is set."""
    record = files.read_record()
    base = images.get(record.digest or record.image)
    still = _still(tools, observer, files) if pause else contextlib.nullcontext()
    with still, files.look() as layer:
        ids = idmapping.range_of(files)
        made = overrides(files, base)
        return commits.commit(images, base, layer / "upper", change, made, ids=ids)


def export(tools: Tools, files: Files, images: ImageStore, output: Writable) -> None:
    """Write the tar of all files of a container."""
    record = files.read_record()
    image = images.get(record.digest or record.image)
    layers = tools.idmapping.layers(files, images.trees(image))
    with files.look() as layer, _mountable(files, layer / "upper", images) as upper:
        rootfs.give_out([upper, *layers], output, idmapping.range_of(files))


@contextlib.contextmanager
def _mountable(files: Files, upper: Path, images: ImageStore) -> Iterator[Path]:
    """The writable layer as a folder that can be mounted: a file system of its own is copied.

    The kernel lets nobody mount what is mounted in another's mount namespace.
    """
    if upper == files.upper:
        yield upper
        return
    # What is `self` to us is another to the program that copies.
    source = str(upper).replace("/proc/self/", f"/proc/{os.getpid()}/", 1)
    with images.layers.staged_tree() as copy:
        done = subprocess.run(
            ["cp", "-a", "--", f"{source}/.", copy], capture_output=True, text=True
        )
        if done.returncode != 0:
            raise RuntimeFailure(
                f"the files of {files.id} could not be read: {done.stderr.strip()}"
            )
        yield copy


def overrides(files: Files, base: Image) -> Overrides:
    """What the container was created with; of one that was not kept, only its command is known."""
    try:
        spec = lifecycle.saved_spec(files)
    except RuntimeFailure:
        return Overrides(lifecycle.command(files) or None)
    env = {
        name: value
        for name, value in spec.env.items()
        if name not in _OWN_ENV or name in base.config.env
    }
    return Overrides(spec.args, env, spec.cwd)


@contextlib.contextmanager
def _still(tools: Tools, observer: Observer, files: Files) -> Iterator[None]:
    """Nothing of the container runs meanwhile, if it did."""
    if observer.container(files).state != "running":
        yield
        return
    lifecycle.pause(tools, observer, files)
    try:
        yield
    finally:
        lifecycle.unpause(tools, observer, files)
