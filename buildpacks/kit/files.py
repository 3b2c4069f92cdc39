"""Files of an app: read with a bound, named in errors, and what their content comes to."""

import hashlib
import os
from collections.abc import Iterable

from shipway.buildpacks.kit.errors import CannotBuild

LARGEST = 8 << 20  # bytes; lock files of large apps have a few million
BYTE_ORDER_MARK = "\ufeff"


def there(*names: str) -> list[str]:
    """Those of these files that are there, in this order."""
    return [name for name in names if os.path.isfile(name)]


def data(name: str, largest: int = LARGEST) -> bytes:
    """The bytes of a plain file within the app. Raises CannotBuild."""
    app = os.path.realpath(os.getcwd())
    target = os.path.realpath(name)
    if target != app and not target.startswith(app + "/"):
        raise CannotBuild(f"{name} is a link out of the app, expected a plain file.")
    try:
        with open(os.open(target, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            content = file.read(largest + 1)
    except OSError as error:
        raise CannotBuild(f"{name} cannot be read: {error.strerror}.") from None
    if len(content) > largest:
        raise CannotBuild(f"{name} is larger than {largest >> 10} KB.")
    return content


def text(name: str, largest: int = LARGEST) -> str:
    """The text of a file; a byte order mark is left out. Raises CannotBuild with file and line."""
    content = data(name, largest)
    try:
        return content.decode().removeprefix(BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise CannotBuild(
            f"{name} line {line}: has bytes that are not UTF-8, expected plain text."
        ) from None


def fingerprint(names: Iterable[str], *more: str) -> str:
    """A digest of these files' names and content, and of `more` (a recipe, versions).

    A file that is not there counts as such.
    """
    digest = hashlib.sha256("\0".join(more).encode())
    for name in names:
        try:
            with open(name, "rb") as file:
                content = file.read()
        except OSError:
            digest.update(f"\0{name}\0-".encode())
            continue
        digest.update(f"\0{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()
