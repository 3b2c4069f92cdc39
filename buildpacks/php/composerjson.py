"""What a composer.json asks for: a PHP, its extensions, a document root."""

import re
from typing import Any, NamedTuple

from shipway.buildpacks.kit import jsonfile
from shipway.buildpacks.kit.errors import CannotBuild

NAME = "composer.json"
# Extensions that Debian's php-cli and php-common have in them.
BUILT_IN = frozenset(
    [
        "calendar",
        "core",
        "ctype",
        "date",
        "exif",
        "ffi",
        "fileinfo",
        "filter",
        "ftp",
        "gettext",
        "hash",
        "iconv",
        "json",
        "libxml",
        "openssl",
        "pcntl",
        "pcre",
        "pdo",
        "phar",
        "posix",
        "random",
        "reflection",
        "session",
        "shmop",
        "sockets",
        "sodium",
        "spl",
        "standard",
        "sysvmsg",
        "sysvsem",
        "sysvshm",
        "tokenizer",
        "zlib",
        "zend-opcache",
        "opcache",
    ]
)
# Those of other packages than the one of their name.
PACKAGES = {
    "dom": "xml",
    "mysqli": "mysql",
    "mysqlnd": "mysql",
    "pdo_dblib": "sybase",
    "pdo_firebird": "interbase",
    "pdo_mysql": "mysql",
    "pdo_odbc": "odbc",
    "pdo_pgsql": "pgsql",
    "pdo_sqlite": "sqlite3",
    "simplexml": "xml",
    "xmlreader": "xml",
    "xmlwriter": "xml",
    "xsl": "xml",
}
# What nearly every framework takes for granted.
USUAL = ("curl", "mbstring", "opcache", "xml")


class Composer(NamedTuple):
    """The requirement on PHP (`^8.2`, or empty), names of Debian's extension packages, the root."""

    php: str
    extensions: tuple[str, ...]
    has_packages: bool
    root: str


def parse(text: str) -> Composer:
    """Read a composer.json. Raises CannotBuild with the line that is wrong."""
    document = jsonfile.parse(NAME, text)
    require = _table(text, document, "require")
    names = [name[4:].lower() for name in require if name.lower().startswith("ext-")]
    extra = document.get("extra")
    own = extra.get("shipway") if isinstance(extra, dict) else None
    root = own.get("document-root", "") if isinstance(own, dict) else ""
    if not isinstance(root, str):
        raise jsonfile.wrong(NAME, text, "document-root", root, "a folder")
    return Composer(
        str(require.get("php", "")),
        tuple(dict.fromkeys(filter(None, map(package, names)))),
        any("/" in name for name in require),
        root,
    )


def package(extension: str) -> str | None:
    """The part of a Debian package's name: `xml` (php-xml) for `dom`; None for what PHP has itself."""
    name = extension.replace(" ", "-")
    if not re.fullmatch(r"[a-z0-9_-]+", name):
        raise CannotBuild(f"{NAME}: ext-{extension[:40]} is no extension that can be had.")
    return None if name in BUILT_IN and name != "opcache" else PACKAGES.get(name, name)


def _table(text: str, document: dict[str, Any], key: str) -> dict[str, Any]:
    value = document.get(key, {})
    if value == []:  # as PHP writes an empty object
        return {}
    if not isinstance(value, dict):
        raise jsonfile.wrong(NAME, text, key, value, "an object of names and versions")
    return value
