"""Compressed streams: told by their first bytes, read as what they hold, with bounds against bombs.

Layers come plain, or packed by gzip or zstd; archives from people also by bzip2 or xz. Several
packed members one after the other are read as one, as the tools do.
"""

import hashlib
import io
import sys
import zlib
from collections.abc import Callable
from typing import Any

from shipway.runtime.errors import ArchiveTooLarge, InvalidArchive
from shipway.runtime.images.tarreader import Readable

CHUNK = 1 << 20
RATIO = 500  # how many times its size packed data may grow …
FREE = 64 << 20  # … once it has grown to this many bytes
_GZIP_OR_ZLIB = 31

_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
}
_LONGEST_MAGIC = max(len(magic) for magic in _MAGIC)
LAYER_KINDS = frozenset({"", "gzip", "zstd"})


class _Gzip:
    """zlib's decompressor in the form of those of bz2, lzma and zstd."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(_GZIP_OR_ZLIB)

    @property
    def eof(self) -> bool:
        """Whether the member is at its end."""
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        """Whether more can only come of more data."""
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        """What follows the member."""
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """At most `max_length` bytes of content."""
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


def kind_of(head: bytes) -> str:
    """What the first bytes of a stream say it is packed by; "" is plain."""
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")


def opened(
    stream: Readable, hasher: "hashlib._Hash | None" = None, kinds: frozenset[str] | None = None
) -> "tuple[io.BufferedReader, Content]":
    """A stream of what `stream` holds, for small reads; and what there is to know of it.

    `hasher` gets all bytes of the content. Reading raises InvalidArchive for damage or a kind that
    is not among `kinds`, and ArchiveTooLarge for a bomb.
    """
    head = _read_exactly(stream, _LONGEST_MAGIC)
    kind = kind_of(head)
    if kinds is not None and kind not in kinds:
        raise InvalidArchive(f"it is packed by {kind}, which no image layer may be")
    raw = Content(stream, head, kind, hasher)
    return io.BufferedReader(raw, CHUNK), raw


class Content(io.RawIOBase):
    """The content of a stream whose first bytes, `head`, were read already.

    `kind` is what it is packed by, "" for plain; `total` counts the bytes that were read.
    """

    def __init__(
        self, stream: Readable, head: bytes, kind: str, hasher: "hashlib._Hash | None"
    ) -> None:
        self._stream = stream
        self._head = head
        self.kind = kind
        self.total = 0
        self._hasher = hasher
        self._make, self._faults = _codec(kind)
        self._decompressor: Any = None
        self._rest = b""
        self._in = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer as far as one step goes; 0 at the end."""
        data = self._next(len(buffer)) if self.kind else self._plain(len(buffer))
        if self._hasher is not None:
            self._hasher.update(data)
        buffer[: len(data)] = data
        self.total += len(data)
        return len(data)

    def _plain(self, size: int) -> bytes:
        head, self._head = self._head[:size], self._head[size:]
        return head + self._stream.read(size - len(head)) if len(head) < size else head

    def _next(self, size: int) -> bytes:
        """At least one byte, unless the stream is at its end."""
        while True:
            if self._decompressor is None:
                data = self._rest or self._feed()
                if not data or not data.strip(b"\0"):  # tools pad with zeros
                    if not data:
                        return b""
                    self._rest = b""
                    continue
                self._decompressor = self._make()
            elif self._decompressor.needs_input:
                data = self._feed()
                if not data:
                    raise InvalidArchive(f"the {self.kind} data is cut short")
            else:
                data = b""
            self._rest = b""
            if found := self._decompress(data, size):
                return found

    def _decompress(self, data: bytes, size: int) -> bytes:
        try:
            found: bytes = self._decompressor.decompress(data, size)
        except self._faults as error:
            raise InvalidArchive(f"the {self.kind} data is damaged: {error}") from error
        if self._decompressor.eof:
            self._rest = self._decompressor.unused_data
            self._decompressor = None
        if self.total + len(found) > max(FREE, RATIO * self._in):
            raise ArchiveTooLarge(
                f"the {self.kind} data grows to more than {RATIO} times its size, as bombs do"
            )
        return found

    def _feed(self) -> bytes:
        data = self._head + self._stream.read(CHUNK)
        self._head = b""
        self._in += len(data)
        return data


def _codec(kind: str) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    """How to make a decompressor, and what it raises. Each is imported when it is needed."""
    if kind == "gzip":
        return _Gzip, (zlib.error,)
    if kind == "bzip2":
        import bz2

        return bz2.BZ2Decompressor, (OSError, ValueError)
    if kind == "xz":
        import lzma

        return lzma.LZMADecompressor, (lzma.LZMAError,)
    if kind == "zstd":
        zstd = _zstd()
        return zstd.ZstdDecompressor, (zstd.ZstdError,)
    return lambda: None, ()


def _zstd() -> Any:
    """The stdlib's module, or its backport; rarely used, so imported late."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def _read_exactly(stream: Readable, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := stream.read(size - len(data))):
        data += more
    return data
