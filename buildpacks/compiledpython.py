"""Keep Python's compiled files valid in a layer, where every file has the same fixed time.

A `.pyc` holds its source's time; a layer gives the source another, so Python would compile it
again at every start. Either compile with `--invalidation-mode unchecked-hash` (uv:
`PYC_INVALIDATION_MODE=unchecked-hash`), or call `pin_times` on the tree before it is committed.
"""

import os
import struct
from pathlib import Path

_HEADER = struct.Struct("<4sIII")  # magic, flags (0: by time), the source's time, its size


def pin_times(tree: Path, to: int) -> int:
    """Make the compiled files that fit their source now fit it at time `to`; gives their number."""
    pinned = 0
    for folder, _, names in os.walk(tree):
        if os.path.basename(folder) != "__pycache__":
            continue
        for name in names:
            if name.endswith(".pyc"):
                source = os.path.join(os.path.dirname(folder), name.split(".")[0] + ".py")
                pinned += _pin(os.path.join(folder, name), _target(source, tree), to)
    return pinned


def _target(source: str, tree: Path) -> str:
    """Where a source that is a link leads, seen with `tree` as the root of the file system."""
    try:
        link = os.readlink(source)
    except OSError:
        return source
    if os.path.isabs(link):
        return os.path.join(tree, link.lstrip("/"))
    return os.path.join(os.path.dirname(source), link)


def _pin(compiled: str, source: str, to: int) -> bool:
    try:
        status = os.stat(source, follow_symlinks=False)
        descriptor = os.open(compiled, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        header = os.pread(descriptor, _HEADER.size, 0)
        if len(header) < _HEADER.size:
            return False
        magic, flags, time, size = _HEADER.unpack(header)
        if flags or (time, size) != (int(status.st_mtime), status.st_size):
            return False
        os.pwrite(descriptor, _HEADER.pack(magic, flags, to, size), 0)
        return True
    finally:
        os.close(descriptor)
