"""A container made an image: its image's layers, and one more of what it wrote."""

import copy
import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipway.runtime.images import changes
from shipway.runtime.images.intake import intake
from shipway.runtime.images.store import CREATED, Image, ImageStore
from shipway.runtime.images.treetar import tree_tar
from shipway.runtime.spec import IdRange

# The engine writes these into every container's layer: they are the container's, not its image's.
OWN_FILES = frozenset({b"etc/hosts", b"etc/hostname", b"etc/resolv.conf"})


@dataclass(frozen=True)
class Change:
    """What a new image has beside the files: as `docker commit` takes it."""

    ref: str | None = None
    author: str = ""
    message: str = ""
    instructions: Sequence[str] = ()


@dataclass(frozen=True)
class Overrides:
    """What a container was started with in place of its image's: it becomes the new image's.

    `command` is the whole command line, None if it is not known.
    """

    command: Sequence[str] | None = None
    env: Mapping[str, str] | None = None
    working_dir: str | None = None


def commit(
    images: ImageStore,
    base: Image,
    upper: Path,
    change: Change,
    overrides: Overrides = Overrides(),
    without: Collection[bytes] = OWN_FILES,
    ids: IdRange | None = None,
) -> Image:
    """Make an image of `base` and the writable layer `upper`, which is only read.

    Files keep their times; `ids` are the machine's that they have on disk, if not the container's
    own. The caller sees to it that nobody writes. Raises InvalidTree, InvalidImage,
    InvalidReference, StoreFull.
    """
    document = copy.deepcopy(images.document(base))
    _override(document, overrides)
    changes.apply(document, change.instructions)
    pieces = tree_tar(os.fspath(upper), settle=False, own_times=True, without=without, ids=ids)
    with intake(images) as taking, images.blobs.incoming(pieces) as blob:
        layer = taking.layer(blob)
        document["created"] = CREATED
        if change.author:
            document["author"] = change.author
        document["rootfs"]["diff_ids"].append(layer.diff_id)
        document["history"] = [*(document.get("history") or ()), _history(change, overrides)]
        for key in ("container", "container_config", "id", "parent"):
            document.pop(key, None)  # what old Dockers left there of a container of theirs
        layers = [*base.layers, layer]
        return taking.document(document, layers, [change.ref] if change.ref else [])


def _history(change: Change, overrides: Overrides) -> dict[str, str]:
    found = {"created": CREATED}
    if overrides.command:
        found["created_by"] = shlex.join(overrides.command)
    if change.author:
        found["author"] = change.author
    if change.message:
        found["comment"] = change.message
    return found


def _override(document: dict[str, Any], overrides: Overrides) -> None:
    run = dict(document.get("config") or {})
    if overrides.command is not None:
        entrypoint = list(run.get("Entrypoint") or ())
        words = list(overrides.command)
        if words[: len(entrypoint)] == entrypoint:
            run["Cmd"] = words[len(entrypoint) :]
        else:
            run["Entrypoint"], run["Cmd"] = [], words
    if overrides.env:
        old = dict(item.partition("=")[::2] for item in run.get("Env") or ())
        new = old | dict(overrides.env)
        run["Env"] = [f"{name}={value}" for name, value in new.items()]
    if overrides.working_dir is not None:
        run["WorkingDir"] = overrides.working_dir
    document["config"] = run
