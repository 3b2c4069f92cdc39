"""Reading tars that nobody vouches for."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from shipway.runtime.errors import InvalidArchive
from shipway.runtime.images.tarreader import HEADER_LIMIT, TarReader


def make(format: int, *infos: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for info in infos:
            tar.addfile(info, io.BytesIO(b"x" * info.size))
    return buffer.getvalue()


def info(name: str, **values: object) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for key, value in values.items():
        setattr(made, key, value)
    return made


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_formats(format: int) -> None:
    """Members of each format of tar are read, with long names and contents."""
    name = "d/" * 70 + "file"
    data = make(format, info(name, size=1000, mode=0o600), info("l", type=b"2", linkname="t"))
    reader = TarReader(io.BytesIO(data))
    first, second = ((m, b"".join(reader.content())) for m in reader)
    assert (first[0].name, first[0].mode, first[1]) == (name.encode(), 0o600, b"x" * 1000)
    assert (second[0].kind, second[0].link) == (b"2", b"t")


def test_gnu_tar_by_hand(tmp_path: Path) -> None:
    """What GNU tar writes is read, times before the epoch included."""
    (tmp_path / ("n" * 150)).write_bytes(b"hello")
    subprocess.run(["touch", "-d", "1960-01-01", tmp_path / ("n" * 150)], check=True)
    made = subprocess.run(["tar", "-C", tmp_path, "-c", "."], check=True, capture_output=True)
    reader = TarReader(io.BytesIO(made.stdout))
    assert [m.name for m in reader] == [b"./", b"./" + b"n" * 150]


def test_git_archive(tmp_path: Path) -> None:
    """The archive that git makes, with its global header, is read."""
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    (tmp_path / "app.py").write_text("print()")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    made = subprocess.run([*git, "archive", "HEAD"], check=True, capture_output=True)
    assert [m.name for m in TarReader(io.BytesIO(made.stdout))] == [b"app.py"]


@pytest.mark.parametrize("cut", [100, 512, 700, 1100])
def test_cut_short(cut: int) -> None:
    """An archive that ends in the middle is an error, wherever it ends (a clean end is none)."""
    data = make(tarfile.USTAR_FORMAT, info("a", size=2000))[:cut]
    reader = TarReader(io.BytesIO(data))
    with pytest.raises(InvalidArchive, match="cut short"):
        list(reader)


def test_checksum() -> None:
    """A header with a flipped byte is an error."""
    data = bytearray(make(tarfile.USTAR_FORMAT, info("abc")))
    data[0] ^= 1
    with pytest.raises(InvalidArchive, match="checksum"):
        list(TarReader(io.BytesIO(data)))


def test_huge_header_is_not_read() -> None:
    """A pax header of gigabytes is refused before it is read into memory."""
    data = make(tarfile.PAX_FORMAT, info("x", type=b"x", size=0))
    block = bytearray(data[:512])
    block[124:136] = b"%011o\0" % (HEADER_LIMIT + 1)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises(InvalidArchive, match="header of more than"):
        list(TarReader(io.BytesIO(block)))


@pytest.mark.parametrize(
    ("records", "why"),
    [
        (b"99 path=x\n", "pax record"),
        (b"x path=x\n", "pax header"),
        (b"12 size=-1\n\n", "size"),
        (b"12 path=a\0b\n", "NUL"),
        (b"0 ", "pax record"),
    ],
)
def test_malformed_pax(records: bytes, why: str) -> None:
    """Each malformed pax record is refused with its reason, and none makes the reader loop."""
    pax = info("x", type=b"x", size=len(records))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(pax, io.BytesIO(records))
        tar.addfile(info("a"))
    with pytest.raises(InvalidArchive, match=why):
        list(TarReader(io.BytesIO(buffer.getvalue())))


def test_sparse() -> None:
    """Sparse members are refused, since a few bytes of them unpack to any size."""
    with pytest.raises(InvalidArchive, match="sparse"):
        list(TarReader(io.BytesIO(make(tarfile.GNU_FORMAT, info("s", type=b"S")))))


def test_noise() -> None:
    """Bytes that are no tar at all are refused."""
    with pytest.raises(InvalidArchive):
        list(TarReader(io.BytesIO(b"PK\3\4" * 400)))
