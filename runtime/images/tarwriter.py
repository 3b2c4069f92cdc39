"""Headers of a deterministic tar, in the pax format: fixed times, numeric ids, no names.

Python's tarfile costs about 60 µs a member to write; this costs about 5, and lets
names be the raw bytes that are on disk.
"""

from collections.abc import Mapping

BLOCK = 512
FIXED_TIME = 315532801  # 1980-01-01T00:00:01Z, the buildpack spec's time for everything
REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = (
    b"%d" % n for n in range(7)
)
END = bytes(2 * BLOCK)

_NAME, _LINK = 100, 100  # bytes that fit in the header's fields
_MAX_ID, _MAX_SIZE = 0o7777777, 0o77777777777
_MAX_TIME = 0o77777777777
_PAX_NAME = b"././@PaxHeader"


def padding(size: int) -> bytes:
    """The zeros that follow `size` bytes of content."""
    return bytes(-size % BLOCK)


def header(
    name: bytes,
    kind: bytes,
    *,
    mode: int,
    uid: int,
    gid: int,
    size: int = 0,
    link: bytes = b"",
    xattrs: Mapping[str, bytes] | None = None,
    mtime: int = FIXED_TIME,
) -> bytes:
    """One member's header, with a pax header before it when its values do not fit.

    `mtime` is in seconds; what no header can hold becomes the nearest that it can.
    """
    records: dict[bytes, bytes] = {}
    if len(name) > _NAME:
        records[b"path"] = name
    if len(link) > _LINK:
        records[b"linkpath"] = link
    if uid > _MAX_ID:
        records[b"uid"], uid = b"%d" % uid, 0
    if gid > _MAX_ID:
        records[b"gid"], gid = b"%d" % gid, 0
    field_size = size
    if size > _MAX_SIZE:
        records[b"size"], field_size = b"%d" % size, 0
    for key in sorted(xattrs or ()):
        records[b"SCHILY.xattr." + key.encode()] = (xattrs or {})[key]
    block = _block(name, kind, mode, uid, gid, field_size, link, mtime)
    return _pax(records) + block if records else block


def _block(
    name: bytes,
    kind: bytes,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    link: bytes,
    mtime: int = FIXED_TIME,
) -> bytes:
    when = min(max(mtime, 0), _MAX_TIME)
    head = b"%b%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        name[:_NAME].ljust(_NAME, b"\0"), mode & 0o7777, uid, gid, size, when
    )  # fmt: skip
    tail = (kind + link[:_LINK].ljust(_LINK, b"\0") + b"ustar\x0000").ljust(BLOCK - 156, b"\0")
    checksum = sum(head) + sum(tail) + 8 * 0x20
    return head + b"%06o\0 " % checksum + tail


def _pax(records: Mapping[bytes, bytes]) -> bytes:
    body = b"".join(_record(key, records[key]) for key in sorted(records))
    block = _block(_PAX_NAME, b"x", 0o644, 0, 0, len(body), b"")
    return block + body + padding(len(body))


def _record(key: bytes, value: bytes) -> bytes:
    """`LENGTH key=value` and a newline, where LENGTH counts its own digits too."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest)
    while len(b"%d" % length) + len(rest) != length:
        length = len(b"%d" % length) + len(rest)
    return b"%d" % length + rest
