"""References to buildpacks as people write them, told apart."""

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import urlsplit

from shipway.buildpacks import plainfile
from shipway.buildpacks.errors import InvalidBuildpack
from shipway.runtime.errors import InvalidReference
from shipway.runtime.images import references

# What the field calls the buildpacks that we have one of our own for.
ALIAS_NAMESPACES = ("heroku", "paketo-buildpacks")
_ID = re.compile(r"[A-Za-z0-9./-]+(@[0-9.]+)?")
_ARCHIVES = (".tgz", ".tar.gz")


class Kind(Enum):
    """Where a buildpack comes from."""

    KNOWN = "known"  # one of the catalog's, by its id
    FOLDER = "folder"  # of the app
    GIT = "git"
    ARCHIVE = "archive"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class Reference:
    """`place` is the id, the folder below the app, the address, or the image's name."""

    kind: Kind
    place: str
    ref: str = "HEAD"
    written: str = ""


def parse(text: str, app: Path, known: Collection[str], trusted: bool) -> Reference:
    """Tell what `text` means for the app in that folder. Raises InvalidBuildpack.

    `trusted` is false for what a commit says: then no image is pulled from an address of the
    machine's own network.
    """
    name = text.strip()
    id_ = _known(name, known)
    if id_ is not None:
        return Reference(Kind.KNOWN, id_, written=text)
    if name.startswith("urn:cnb:registry:"):
        raise InvalidBuildpack(
            f"{text}: the buildpack registry is not asked; name the buildpack's image instead"
        )
    if "://" in name and not name.startswith(("docker://", "file://")):
        return _address(name, text)
    if re.match(r"[\w.-]+@[\w.-]+:", name):
        raise InvalidBuildpack(f"{text}: builds have no ssh keys; give an https:// address")
    if not name.startswith("docker:"):
        path = name.removeprefix("file://")
        if plainfile.folder_below(app, path) is not None:
            return Reference(Kind.FOLDER, path, written=text)
        if path.startswith((".", "/")) or name.startswith("file://"):
            raise InvalidBuildpack(f"{text}: there is no such folder in the app")
        if not re.match(r"[^/]*[.:][^/]*/|localhost/", name):
            raise InvalidBuildpack(
                f"{text}: neither one of our buildpacks nor a folder of the app; an image is "
                f"written docker://{name}, a repository https://…"
            )
    return _image(re.sub("^docker:(//)?", "", name), text, trusted)


def _known(name: str, known: Collection[str]) -> str | None:
    """The id in the catalog, also by the names that others give to the same thing."""
    bare = name.removeprefix("from=builder:").removeprefix("urn:cnb:builder:").partition("@")[0]
    if bare in known:
        return bare
    namespace, _, rest = bare.rpartition("/")
    own = f"shipway/{rest}"
    return own if namespace in ALIAS_NAMESPACES and own in known else None


def _address(name: str, text: str) -> Reference:
    address, _, ref = name.partition("#")
    scheme = urlsplit(address).scheme
    if scheme not in ("http", "https", "git"):
        raise InvalidBuildpack(f"{text}: an address begins with https://, http:// or git://")
    if ref.startswith("-"):
        raise InvalidBuildpack(f"{text}: {ref!r} is no branch, tag or commit")
    if urlsplit(address).path.endswith(_ARCHIVES):
        return Reference(Kind.ARCHIVE, address, written=text)
    return Reference(Kind.GIT, address, ref or "HEAD", text)


def _image(name: str, text: str, trusted: bool) -> Reference:
    try:
        found = references.parse(name)
    except InvalidReference as error:
        raise InvalidBuildpack(f"{text}: {name!r} is no name of an image") from error
    if not trusted and _is_local(found.domain):
        raise InvalidBuildpack(f"{text}: an app's files may not name a registry of this network")
    return Reference(Kind.IMAGE, name, written=text)


def _is_local(domain: str) -> bool:
    host = urlsplit(f"//{domain}").hostname or ""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".localhost"))
