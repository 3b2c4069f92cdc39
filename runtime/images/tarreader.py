"""A strict reader of tar streams that nobody vouches for: ustar, pax, and GNU long names.

Python's tarfile reads a header of any length into memory and guesses at malformed
numbers; here both are errors, and so are sparse members.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from shipway.runtime.errors import InvalidArchive
from shipway.runtime.images.tarwriter import BLOCK, DIRECTORY, REGULAR

HEADER_LIMIT = 1 << 20  # bytes of all the pax and long-name headers of one member
CHUNK = 1 << 18
_XATTR = b"SCHILY.xattr."


class Readable(Protocol):
    """Anything with a blocking read."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; b"" at the end."""
        ...


@dataclass(slots=True)
class Member:
    """One entry: `kind` is the tar type flag, names are raw bytes, `mtime` is in ns."""

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    link: bytes
    xattrs: dict[str, bytes] = field(default_factory=dict)


class TarReader:
    """Iterates over the members; `content()` gives the current one's bytes, once."""

    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self._left = 0
        self._pad = 0
        self._global: dict[bytes, bytes] = {}

    def __iter__(self) -> Iterator[Member]:
        while True:
            self._skip()
            member = self._next()
            if member is None:
                self._drain()
                return
            self._left = member.size
            self._pad = -member.size % BLOCK
            yield member

    def content(self) -> Iterator[bytes]:
        """The current member's content in pieces of at most CHUNK bytes."""
        while self._left:
            data = self._stream.read(min(self._left, CHUNK))
            if not data:
                raise InvalidArchive("the archive is cut short inside a file")
            self._left -= len(data)
            yield data

    def _skip(self) -> None:
        for _ in self.content():
            pass
        if self._pad:
            self._exactly(self._pad)
            self._pad = 0

    def _drain(self) -> None:
        """Read what follows the end, so that a writer at the other end of a pipe can finish."""
        while self._stream.read(CHUNK):
            pass

    def _next(self) -> Member | None:
        records = dict(self._global)
        budget = HEADER_LIMIT
        while True:
            block = self._block()
            if block is None:
                return None
            kind = block[156:157]
            if kind not in (b"x", b"g", b"L", b"K"):
                return _member(block, records)
            size = _number(block[124:136], "size")
            budget -= size
            if budget < 0 or len(self._global) > 1000:
                raise InvalidArchive(f"the archive has a header of more than {HEADER_LIMIT} bytes")
            body = self._exactly(size + -size % BLOCK)[:size]
            if kind == b"x":
                records.update(_records(body))
            elif kind == b"g":
                self._global.update(_records(body))
                records = self._global | records
            else:
                records[b"path" if kind == b"L" else b"linkpath"] = body.rstrip(b"\0")

    def _block(self) -> bytes | None:
        """The next header; None at the end: two zero blocks, or a clean end of the stream."""
        block = self._stream.read(BLOCK)
        if not block:
            return None
        if len(block) < BLOCK:
            block += self._exactly(BLOCK - len(block))
        if not block.strip(b"\0"):
            return None
        stored = _number(block[148:156], "checksum")
        if stored != sum(block) - sum(block[148:156]) + 8 * 0x20:
            raise InvalidArchive("the archive has a header with a wrong checksum")
        return block

    def _exactly(self, size: int) -> bytes:
        data = self._stream.read(size)
        while len(data) < size:
            more = self._stream.read(size - len(data))
            if not more:
                raise InvalidArchive("the archive is cut short")
            data += more
        return data


def _member(block: bytes, records: dict[bytes, bytes]) -> Member:
    name, kind = _text(block[:100]), block[156:157]
    if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
        name = prefix + b"/" + name
    name = records.get(b"path", name)
    if any(key.startswith(b"GNU.sparse") for key in records) or kind == b"S":
        raise InvalidArchive(f"{_show(name)} is a sparse member, which is not supported")
    if kind in (b"\0", b"7"):
        kind = DIRECTORY if name.endswith(b"/") else REGULAR
    size = _decimal(records, b"size", block[124:136])
    return Member(
        name=name,
        kind=kind,
        mode=_number(block[100:108], "mode") & 0o7777,
        uid=_decimal(records, b"uid", block[108:116]),
        gid=_decimal(records, b"gid", block[116:124]),
        # only files carry content, whatever the others' size fields say (as Go's tar reads it)
        size=size if kind == REGULAR else 0,
        mtime=_nanoseconds(records, block[136:148]),
        link=records.get(b"linkpath", _text(block[157:257])),
        xattrs={
            key[len(_XATTR) :].decode(errors="surrogateescape"): value
            for key, value in records.items()
            if key.startswith(_XATTR)
        },
    )


def _text(raw: bytes) -> bytes:
    return raw.split(b"\0", 1)[0]


def _show(name: bytes) -> str:
    return name.decode(errors="backslashreplace")


def _number(raw: bytes, what: str) -> int:
    """An octal field, or GNU's base 256."""
    if raw[0] == 0x80:
        return int.from_bytes(raw[1:])
    digits = _text(raw).strip(b" ")
    try:
        value = int(digits or b"0", 8)
    except ValueError:
        value = -1
    if value < 0 or raw[0] > 0x80:
        raise InvalidArchive(f"the archive has a header with a malformed {what}")
    return value


def _decimal(records: dict[bytes, bytes], key: bytes, raw: bytes) -> int:
    value = records.get(key)
    if value is None:
        return _number(raw, key.decode())
    if not value.isdigit() or len(value) > 18:
        raise InvalidArchive(f"the archive has a malformed {key.decode()}")
    return int(value)


def _nanoseconds(records: dict[bytes, bytes], raw: bytes) -> int:
    value = records.get(b"mtime")
    if value is None:
        # Some tools write times before 1970 as negative base 256: they mean "none".
        return 0 if raw[0] == 0xFF else _number(raw, "mtime") * 10**9
    whole, _, part = value.partition(b".")
    try:
        return int(whole) * 10**9 + int(part[:9].ljust(9, b"0"))
    except ValueError:
        raise InvalidArchive("the archive has a malformed mtime") from None


def _records(body: bytes) -> dict[bytes, bytes]:
    """The records of a pax header: `LENGTH key=value`, each with a newline."""
    records: dict[bytes, bytes] = {}
    while body:
        digits, space, _ = body[:20].partition(b" ")
        if not space or not digits.isdigit():
            raise InvalidArchive("the archive has a malformed pax header")
        length = int(digits)
        record = body[len(digits) + 1 : length]
        key, equals, value = record.partition(b"=")
        if length > len(body) or not equals or not value.endswith(b"\n"):
            raise InvalidArchive("the archive has a malformed pax record")
        value = value[:-1]
        if b"\0" in value and not key.startswith(_XATTR):
            raise InvalidArchive("the archive has a name with a NUL byte")
        records[key] = value
        body = body[length:]
    return records
