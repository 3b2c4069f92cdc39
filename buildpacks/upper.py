"""What a build left of a layer in the overlay's upper folder. Nothing of it is trusted.

No process of the build lives any more when this runs, so what is looked at stays as it is; names
were checked before; links are never followed.
"""

import os
import stat
import subprocess
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from shipway.buildpacks.errors import BuildFailed
from shipway.runtime.images.whiteouts import OPAQUE_XATTR

USER_ID = 1000
_OPAQUE = (OPAQUE_XATTR, "user.overlay.opaque")


class Change(Enum):
    """How a layer folder differs from the restored one below it."""

    UNTOUCHED = "untouched"  # nothing of it is in the upper folder
    REPLACED = "replaced"  # all of it is in the upper folder
    MIXED = "mixed"  # the upper folder holds only what differs
    GONE = "gone"


def change(upper: Path, folder: str, name: str, restored: bool) -> Change:
    """Compare `<upper>/<folder>/<name>` with the layer below, which is there if `restored`."""
    if not os.path.lexists(upper / folder):
        return Change.UNTOUCHED if restored else Change.GONE
    if not _is_folder(upper / folder):
        return Change.GONE
    hidden = not restored or _is_opaque(upper / folder)
    path = upper / folder / name
    if not os.path.lexists(path):
        return Change.GONE if hidden else Change.UNTOUCHED
    if not _is_folder(path):
        return Change.GONE
    return Change.REPLACED if hidden or _is_opaque(path) else Change.MIXED


def take(upper: Path, folder: str, name: str, tree: Path) -> None:
    """Move a replaced layer folder to `<tree>/layers/<folder>/<name>`."""
    path = _place(tree, folder) / name
    (upper / folder / name).rename(path)
    _strip(path)


def merge(upper: Path, folder: str, name: str, lower: Path, tree: Path) -> None:
    """Copy the restored layer folder (below `lower`) to `tree` and move what differs into it."""
    path = _place(tree, folder) / name
    argv = ["cp", "--archive", "--reflink=auto", "--", os.fspath(lower / folder / name)]
    if subprocess.run([*argv, os.fspath(path)], stderr=subprocess.DEVNULL).returncode:
        raise BuildFailed(f"the layer {name} could not be copied")
    folders = [(upper / folder / name, path)]
    while folders:
        source, target = folders.pop()
        for entry in os.scandir(source):
            inner = target / entry.name
            if _is_folder(Path(entry.path)) and _is_folder(inner) and not _is_opaque(entry.path):
                folders.append((Path(entry.path), inner))
                continue
            remove(inner)
            if not _is_whiteout(entry):
                os.rename(entry.path, inner)
                if entry.is_dir(follow_symlinks=False):
                    _strip(inner)
        status = source.stat()
        os.chown(target, status.st_uid, status.st_gid)
        os.chmod(target, stat.S_IMODE(status.st_mode))


def remove(path: Path) -> None:
    """Delete a tree of any depth, of any kind, in no need to be there."""
    argv = ["rm", "-rf", "--one-file-system", "--", os.fspath(path)]
    subprocess.run(argv, check=True, stderr=subprocess.DEVNULL)


def length(paths: Sequence[Path]) -> int:
    """The bytes of all files, as an archive of them would have them: holes count."""
    names = [os.fspath(path) for path in paths]
    argv = ["du", "--apparent-size", "--summarize", "--total", "--block-size=1", "--", *names]
    done = subprocess.run(argv, capture_output=True, text=True)
    return int(done.stdout.splitlines()[-1].split()[0])


def trim(path: Path, limit: int) -> None:
    """Empty a folder that has grown beyond `limit` bytes."""
    argv = ["du", "--summarize", "--block-size=1", "--", os.fspath(path)]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode or int(done.stdout.split()[0]) > limit:
        remove(path)


def _place(tree: Path, folder: str) -> Path:
    """The parents as the next build needs them: owned by the user that builds."""
    path = tree / "layers" / folder
    path.mkdir(parents=True)
    for parent in (path, path.parent):
        os.chown(parent, USER_ID, USER_ID)
        parent.chmod(0o755)
    return path


def _strip(path: Path) -> None:
    """A layer that hides what is below it would not equal the same one made without a below."""
    for name in _OPAQUE:
        if name in os.listxattr(path, follow_symlinks=False):
            os.removexattr(path, name, follow_symlinks=False)


def _is_folder(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _is_opaque(path: Path | str) -> bool:
    found = os.listxattr(path, follow_symlinks=False)
    return any(
        name in found and os.getxattr(path, name, follow_symlinks=False) == b"y" for name in _OPAQUE
    )


def _is_whiteout(entry: "os.DirEntry[str]") -> bool:
    status = entry.stat(follow_symlinks=False)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
