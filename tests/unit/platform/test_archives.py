"""Archives that cost far more than they weigh."""

import gzip
import io
import tarfile
from pathlib import Path

import pytest

from shipway.platform import archives
from shipway.platform.archives import BadArchive
from shipway.platform.repos import Repos
from shipway.platform.settings import Settings

MOST = 1 << 20


def _packed(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with (
        gzip.open(path, "wb", compresslevel=1) as stream,
        tarfile.open(fileobj=stream, mode="w") as tar,
    ):
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return path


def _member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.type = size, kind
    return member


def test_what_is_only_skipped_counts(tmp_path: Path) -> None:
    """A file of nothing but zeros is no way to keep the platform busy."""
    size = 8 * MOST
    bomb = _packed(tmp_path / "bomb", (_member("a", size), bytes(size)), (_member("b"), b""))
    with pytest.raises(BadArchive, match="it holds far more than it may"):
        archives.is_image(bomb, MOST)
    assert not archives.is_image(bomb, size)


def test_what_is_read_again_counts(tmp_path: Path) -> None:
    """Each hard link goes back to where its file is; many of them would take hours."""
    size = MOST // 4
    links = []
    for number in range(100):
        link = _member(f"link-{number}", kind=tarfile.LNKTYPE)
        link.linkname = "a"
        links.append((link, b""))
    bomb = _packed(
        tmp_path / "bomb", (_member("a", 10), bytes(10)), (_member("b", size), bytes(size)), *links
    )
    repos = Repos(Settings(data=tmp_path))
    repos.ensure("app", 1)
    assert archives.commit(repos, "app", bomb, "ada", 0, MOST)
    links += [(_member(f"more-{number}", size), bytes(size)) for number in range(17)]
    _packed(bomb, (_member("a", size), bytes(size)), *links)
    with pytest.raises(BadArchive, match="more than"):
        archives.commit(repos, "app", bomb, "ada", 0, MOST)
