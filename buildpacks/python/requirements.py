"""What a requirements.txt depends on, so that an unchanged one need not be installed again."""

import hashlib
import os

_INCLUDES = ("-r", "--requirement", "-c", "--constraint")


def fingerprint(path: str, *more: str) -> str | None:
    """A digest of the file, of all that it includes, and of `more`.

    None when it installs something from the app's own folder, whose content is not looked at.
    """
    digest = hashlib.sha256("\0".join(more).encode())
    return digest.hexdigest() if _add(path, digest, set()) else None


def _add(path: str, digest: "hashlib._Hash", seen: set[str]) -> bool:
    path = os.path.normpath(path)
    if path in seen:
        return True
    seen.add(path)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError:
        return False  # uv will say what is wrong with it
    digest.update(b"%d\0" % len(data) + data)
    for line in data.decode(errors="replace").splitlines():
        words = line.replace("=", " ", 1).split() if line.lstrip().startswith("-") else line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] in _INCLUDES:
            if len(words) < 2 or "://" in words[1]:
                return False
            if not _add(os.path.join(os.path.dirname(path), words[1]), digest, seen):
                return False
        elif _is_local(words):
            return False
    return True


def _is_local(words: list[str]) -> bool:
    first = words[0]
    if first in ("-e", "--editable") or first.startswith((".", "/", "file:", "-e.")):
        return True
    return any("file:" in word for word in words) or (
        "/" in first and "@" not in first and "://" not in first and not first.startswith("-")
    )
