"""Tar headers: what Python's own tarfile reads out of what is written here."""

import io
import tarfile

import pytest

from shipway.runtime.images import tarwriter
from shipway.runtime.images.tarreader import TarReader


def archive(*members: bytes) -> bytes:
    return b"".join((*members, tarwriter.END))


def read_back(data: bytes) -> list[tarfile.TarInfo]:
    return tarfile.open(fileobj=io.BytesIO(data)).getmembers()


@pytest.mark.parametrize(
    "name", ["a", "x" * 100, "d/" * 60 + "file", "ünï/ço∂é", "n" * 255 + "/" + "m" * 255]
)
def test_names(name: str) -> None:
    """A name of any length and alphabet is read back as it was."""
    data = tarwriter.header(name.encode(), tarwriter.REGULAR, mode=0o640, uid=7, gid=8)
    [info] = read_back(archive(data))
    assert (info.name, info.mode, info.uid, info.gid) == (name, 0o640, 7, 8)
    assert (info.mtime, info.uname, info.gname) == (tarwriter.FIXED_TIME, "", "")


def test_large_numbers() -> None:
    """Ids and sizes that do not fit in octal go into a pax header."""
    data = tarwriter.header(
        b"big", tarwriter.REGULAR, mode=0o644, uid=4_000_000_000, gid=3_000_000, size=9 << 30
    )
    with tarfile.open(fileobj=io.BytesIO(data), mode="r|") as tar:
        info = tar.next()
    assert info is not None
    assert (info.uid, info.gid, info.size) == (4_000_000_000, 3_000_000, 9 << 30)


def test_pax_record_length_counts_itself() -> None:
    """Values around the lengths where the count gains a digit are read back whole."""
    for length in (*range(75, 110), *range(970, 1010)):
        link = b"l" * length
        data = tarwriter.header(b"a", tarwriter.SYMLINK, mode=0o777, uid=0, gid=0, link=link)
        [info] = read_back(archive(data))
        assert info.linkname.encode() == link


def test_xattrs_are_binary_safe() -> None:
    """An xattr's value may hold any byte."""
    value = bytes(range(256))
    data = tarwriter.header(
        b"a", tarwriter.REGULAR, mode=0o755, uid=0, gid=0, xattrs={"security.capability": value}
    )
    [member] = TarReader(io.BytesIO(archive(data)))
    assert member.xattrs == {"security.capability": value}
