"""What is read off an overlay's upper folder."""

import os
from pathlib import Path

import pytest

from shipway.buildpacks import upper
from shipway.buildpacks.upper import Change


def whiteout(path: Path) -> None:
    os.mknod(path, 0o020000, os.makedev(0, 0))


def opaque(path: Path) -> None:
    path.mkdir(parents=True)
    os.setxattr(path, "trusted.overlay.opaque", b"y")


@pytest.mark.parametrize("restored", [True, False])
def test_change(tmp_path: Path, restored: bool) -> None:
    """A layer is untouched, replaced, mixed or gone by what stands for it in the upper folder."""
    (tmp_path / "touched").mkdir()
    (tmp_path / "touched/dir").mkdir()
    opaque(tmp_path / "touched/new")
    whiteout(tmp_path / "touched/deleted")
    (tmp_path / "touched/link").symlink_to("/etc")
    whiteout(tmp_path / "all-deleted")
    opaque(tmp_path / "made-anew")
    (tmp_path / "linked").symlink_to("/etc")
    kept = Change.UNTOUCHED if restored else Change.GONE
    expected = {
        ("absent", "x"): kept,
        ("touched", "absent"): kept,
        ("touched", "dir"): Change.MIXED if restored else Change.REPLACED,
        ("touched", "new"): Change.REPLACED,
        ("touched", "deleted"): Change.GONE,
        ("touched", "link"): Change.GONE,
        ("all-deleted", "x"): Change.GONE,
        ("made-anew", "x"): Change.GONE,
        ("linked", "ssl"): Change.GONE,
    }
    for (folder, name), change in expected.items():
        assert upper.change(tmp_path, folder, name, restored) is change, (folder, name)


def test_trim(tmp_path: Path) -> None:
    """A cache is emptied only when it has outgrown its limit."""
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "file").write_bytes(b"x" * 100_000)
    upper.trim(cache, 1_000_000)
    assert (cache / "file").exists()
    upper.trim(cache, 50_000)
    assert not cache.exists()
