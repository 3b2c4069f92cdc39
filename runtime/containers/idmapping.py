"""How containers see the ids on the engine's disk as their own: by the kernel, or by shifted copies.

The kernel maps the ids of a mount, if it is new enough and the file system takes part. Where it
does not, a layer is copied once for each range of ids, with the machine's ids of that range on disk
(`LayerStore.shifted`), and what a container writes has these ids too. `shifted.json` in the
container's folder says so. It stands there before anything is shifted, so it also holds what must be
shifted back, and tells a prune which copies are needed.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from shipway.runtime.config import EngineConfig
from shipway.runtime.containers.container import Files
from shipway.runtime.errors import HostUnfit
from shipway.runtime.files import atomic_write
from shipway.runtime.ids import shift
from shipway.runtime.images.store import ImageStore
from shipway.runtime.kernel import mounts, syscalls
from shipway.runtime.kernel.userns import UserNamespace, user_namespace
from shipway.runtime.spec import ContainerSpec, IdRange, Overlay

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_TRIED = ".idmap"
TRIED_IDS = IdRange(1_000_000)


@dataclass(frozen=True)
class View:
    """What a container is to be shown: layers and overlays in a form that `namespace` can mount."""

    namespace: UserNamespace
    layers: Sequence[Path]
    overlays: Sequence[Overlay] = ()

    @contextmanager
    def as_root(self) -> Iterator[None]:
        """What this thread makes in the container's writable layer meanwhile belongs to its root."""
        if self.namespace.fd is not None:
            yield
        else:
            with syscalls.as_file_owner(self.namespace.root, self.namespace.root):
                yield


class IdMapping:
    """The way of one engine on this machine."""

    def __init__(self, config: EngineConfig, images: ImageStore) -> None:
        self._config = config
        self._images = images

    @cached_property
    def by_kernel(self) -> bool:
        """Whether mounts are id-mapped. Really tried once in a boot, unless it is forbidden."""
        if self._config.idmap == "never":
            return False
        note = self._config.run / _TRIED
        here = f"{_BOOT.read_text().strip()} {self._config.root.stat().st_dev} "
        found = note.read_text() if note.exists() else ""
        if not found.startswith(here):
            with self._images.layers.staged_tree() as place:
                refused = refusal(place, user_namespace(TRIED_IDS))
                if refused and refusal(place, UserNamespace(None, TRIED_IDS.base)):
                    return True  # neither works, and a start says why; it may be mended meanwhile
            found = here + ("no" if refused else "yes")
            atomic_write(note, found.encode(), durable=False)
        return found.endswith("yes")

    def view(self, files: Files, spec: ContainerSpec, layers: Sequence[Path], upper: Path) -> View:
        """Make ready what a start of the container mounts; `upper` is its writable layer.

        Raises InvalidSpec, StoreFull, RuntimeFailure.
        """
        if self.by_kernel:
            return View(self.plain(files, spec.ids, upper), layers, spec.overlays)
        lent = [overlay.upper.parent for overlay in spec.overlays]
        lent += [Path(mount.source) for mount in spec.mounts if mount.own]
        lent = [folder for folder in lent if folder.is_dir()]
        shown = self.look(files, spec.ids, layers, upper, lent)
        overlays = [
            replace(overlay, lower=tuple(self._shifted(overlay.lower, spec.ids)))
            for overlay in spec.overlays
        ]
        return replace(shown, overlays=overlays)

    def look(
        self,
        files: Files,
        ids: IdRange,
        layers: Sequence[Path],
        upper: Path,
        lent: Sequence[Path] = (),
    ) -> View:
        """What a mount of the container's root needs. Folders that it was lent are shifted too."""
        if self.by_kernel:
            return View(self.plain(files, ids, upper), layers)
        shift.check(ids)
        with self._images.pinned():
            held = _read(files) or {"folders": [], "whole": False}
            folders = [*held["folders"], *map(str, lent)]
            _write(files, ids, folders, held["whole"])
            for folder in (*(() if held["whole"] else _written(upper)), *lent):
                shift.move_tree(folder, shift.to_host(ids))
            if not held["whole"]:
                _write(files, ids, folders, True)
            return View(UserNamespace(None, ids.base), self._shifted(layers, ids))

    def plain(self, files: Files, ids: IdRange, upper: Path) -> UserNamespace:
        """The namespace for id-mapped mounts; what a start without them left is shifted back."""
        if files.shifted.exists():
            give_back(files)
            for folder in _written(upper):
                shift.move_tree(folder, shift.to_container(ids))
            files.shifted.unlink()
        return user_namespace(ids)

    def layers(self, files: Files, layers: Sequence[Path]) -> Sequence[Path]:
        """The layers with ids as the container's writable layer has them."""
        ids = range_of(files)
        return self._shifted(layers, ids) if ids else layers

    def _shifted(self, layers: Sequence[Path], ids: IdRange) -> list[Path]:
        """Layers of the store in the range's form; other folders are shown as they are."""
        store = self._images.layers
        found = []
        for path in layers:
            if path.is_relative_to(store.folder):
                name, *inside = path.relative_to(store.folder).parts
                found.append(store.shifted(name, ids).joinpath(*inside))
            else:
                found.append(path)
        return found


def range_of(files: Files) -> IdRange | None:
    """The range whose ids the container's writable layer has on disk; None if its own ones."""
    held = _read(files)
    return IdRange(*held["ids"]) if held else None


def give_back(files: Files) -> None:
    """Let what the container was lent have the container's own ids again. Nobody uses it any more."""
    held = _read(files)
    if held is None or not held["folders"]:
        return
    ids = IdRange(*held["ids"])
    for folder in map(Path, held["folders"]):
        if folder.is_dir() and not folder.is_symlink():
            shift.move_tree(folder, shift.to_container(ids))
    _write(files, ids, [], held["whole"])


def refusal(folder: Path, namespace: UserNamespace) -> str:
    """Why no overlay can be mounted in a folder with the namespace's ids; empty if one can."""
    import tempfile  # late: it is tried once in a boot

    with tempfile.TemporaryDirectory(dir=folder, prefix=".check-") as name:
        lower, layer = Path(name, "lower"), Path(name, "layer")
        for made in (lower, layer, layer / "upper", layer / "work"):
            made.mkdir()

        def try_it() -> str:
            mounts.mount_private_tmpfs()
            scratch = mounts.MOUNT_POINT / "layers"
            for made in (scratch, mounts.ROOTFS):
                made.mkdir()
            upper, work = layer / "upper", layer / "work"
            try:
                mounts.mount_overlay(mounts.ROOTFS, [lower], upper, work, scratch, namespace)
            except (HostUnfit, OSError) as error:
                return str(error)
            return ""

        return mounts.in_own_mount_namespace(try_it)


def _read(files: Files) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(files.shifted.read_bytes())
    except FileNotFoundError:
        return None
    return found


def _written(upper: Path) -> tuple[Path, Path]:
    """The folders of a writable layer that an overlay works in."""
    return upper, upper.with_name("work")


def _write(files: Files, ids: IdRange, folders: Sequence[str], whole: bool) -> None:
    """`whole` tells that all of the writable layer has been shifted."""
    held = {"ids": [ids.base, ids.size], "folders": sorted(set(folders)), "whole": whole}
    if held != _read(files):
        atomic_write(files.shifted, json.dumps(held).encode())
