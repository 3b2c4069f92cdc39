"""Packed streams, whole, damaged and hostile."""

import bz2
import gzip
import hashlib
import io
import lzma
import os

import pytest

from imagelab import zstd
from shipway.runtime.errors import ArchiveTooLarge, InvalidArchive
from shipway.runtime.images import compression

DATA = os.urandom(1_500_000) + bytes(50_000)
PACKERS = {
    "": lambda data: data,
    "gzip": gzip.compress,
    "zstd": zstd,
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, preset=0),
}


class Dribble(io.BytesIO):
    """A pipe that gives a little at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size or 0, 1000))


@pytest.mark.parametrize("kind", PACKERS)
@pytest.mark.parametrize("stream", [io.BytesIO, Dribble])
def test_content(kind: str, stream: type[io.BytesIO]) -> None:
    """What was packed comes out, is hashed and counted, however it arrives."""
    hasher = hashlib.sha256()
    content, known = compression.opened(stream(PACKERS[kind](DATA)), hasher)
    assert content.read() == DATA
    assert (known.kind, known.total) == (kind, len(DATA))
    assert hasher.digest() == hashlib.sha256(DATA).digest()


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz"])
def test_several_members_are_one(kind: str) -> None:
    """Packed pieces one after the other are read as one, with zeros after them passed over."""
    packed = PACKERS[kind](b"one ") + PACKERS[kind](b"two") + bytes(512)
    assert compression.opened(io.BytesIO(packed))[0].read() == b"one two"


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz"])
def test_damage(kind: str) -> None:
    """Data that is cut short, or has something else after it, is refused by name."""
    packed = PACKERS[kind](DATA)
    for wrong in (packed[:-20], packed[:10], packed + b"something else"):
        with pytest.raises(InvalidArchive, match=f"{kind} data"):
            compression.opened(io.BytesIO(wrong))[0].read()


@pytest.mark.parametrize("kind", ["gzip", "zstd", "xz"])
def test_bomb(kind: str) -> None:
    """A little that grows to very much is stopped on the way."""
    bomb = PACKERS[kind](bytes(80 << 20))
    content, known = compression.opened(io.BytesIO(bomb))
    with pytest.raises(ArchiveTooLarge, match="as bombs do"):
        while content.read(1 << 20):
            pass
    assert known.total <= 64 << 20


def test_kinds() -> None:
    """Where only a layer's kinds are taken, another is refused."""
    with pytest.raises(InvalidArchive, match="packed by xz"):
        compression.opened(io.BytesIO(lzma.compress(b"x")), None, compression.LAYER_KINDS)


def test_nothing() -> None:
    """An empty stream is plain, and empty."""
    content, known = compression.opened(io.BytesIO(b""))
    assert (content.read(), known.kind) == (b"", "")
