"""The one way durable files are written."""

import os
import secrets
from pathlib import Path


def atomic_write(path: Path, data: bytes | str, mode: int = 0o644) -> None:
    """Replace `path` by `data` so that a crash leaves the old content or the new, never a part.

    Temp file in the same folder, fsync, rename, fsync of the folder.
    """
    raw = data.encode() if isinstance(data, str) else data
    temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
    except BaseException:
        temp.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def secret_file(path: Path, size: int = 32) -> bytes:
    """The random bytes kept in `path` (0600), made on first use; two callers at once agree."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        pass
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temp = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    atomic_write(temp, secrets.token_bytes(size), 0o600)
    try:
        os.link(temp, path)  # fails where another caller was first: then theirs is the truth
    except FileExistsError:
        pass
    finally:
        temp.unlink()
    return path.read_bytes()
