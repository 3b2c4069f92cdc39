"""The Aptfile's packages in a layer of their own; the compilers' part in another, for builds only."""

import hashlib
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence

from shipway.buildpacks.apt import aptfile
from shipway.buildpacks.kit import debian, files, say
from shipway.buildpacks.kit.context import Context
from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.kit.layer import Layer

LARGEST = 512 << 20  # bytes of one .deb file
SILENCE = 20.0  # seconds until a silent server is given up on
# What only compilers read.
HEADERS = ("usr/include", "usr/share/pkgconfig", f"usr/lib/{debian.TRIPLET}/pkgconfig")


def build(context: Context) -> None:
    """Make the layers `apt` and, where there are -dev packages, `apt-build`. Raises CannotBuild."""
    wanted = aptfile.parse(files.text(aptfile.NAME))
    if not wanted.packages and not wanted.addresses:
        say.step(f"The {aptfile.NAME} names no package")
        return
    asked = (*wanted.packages, *wanted.addresses)
    has_headers = any(_is_headers(name) for name in wanted.packages)
    _make(context, Layer(context, "apt"), asked, launch=True, build=not has_headers)
    if has_headers:
        _make(context, Layer(context, "apt-build"), asked, launch=False, build=True)


def _make(
    context: Context, layer: Layer, asked: Sequence[str], *, launch: bool, build: bool
) -> None:
    fingerprint = debian.fingerprint(asked, launch)
    if layer.made_from(fingerprint):
        say.step(f"Using the packages of the previous build ({aptfile.NAME} is unchanged)")
        layer.keep(fingerprint, launch=launch, build=build, cache=True)
        return
    say.step(f"Fetching Debian packages{'' if launch else ' to compile with'}")
    names = [_download(context, name) if "://" in name else name for name in asked]
    if launch:
        names = debian.without_headers(context, names)
    packages = debian.provide(context, layer, names, launch=launch)
    if launch:
        debian.prune(layer.path, HEADERS)
    for line in debian.versions(packages):
        say.detail(line.replace("=", " ", 1))
    layer.keep(
        fingerprint,
        launch=launch,
        build=build,
        cache=True,
        packages=debian.versions(packages),
    )


def _is_headers(name: str) -> bool:
    return name.partition("=")[0].partition(":")[0].endswith("-dev")


def _download(context: Context, address: str) -> str:
    """The file at `address`, kept in the app's cache. Raises CannotBuild."""
    address, _, wanted = address.partition("#sha256=")
    folder = context.cached("deb") or "/tmp"
    name = hashlib.sha256(address.encode()).hexdigest()[:16]
    path = os.path.join(folder, f"{name}.deb")
    if not os.path.exists(path):
        _fetch(address, path)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if wanted and digest != wanted:
        os.unlink(path)
        raise CannotBuild(f"{address} has the SHA-256 {digest}, expected {wanted}.")
    return path


def _fetch(address: str, path: str) -> None:
    """Write what the server sends to `path`; nothing is left there when that fails."""
    host = urllib.parse.urlsplit(address).netloc.rpartition("@")[2]
    try:
        with urllib.request.urlopen(address, timeout=SILENCE) as answer:  # noqa: S310 -- http(s) only
            content = answer.read(LARGEST + 1)
    except urllib.error.HTTPError as error:
        raise CannotBuild(f"{host} answers {error.code} for {address}.") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise CannotBuild(
            f"{host} could not be reached for {address} ({reason}).",
            f"The {aptfile.NAME} may name the file on another server; http_proxy names a proxy.",
        ) from None
    if len(content) > LARGEST:
        raise CannotBuild(f"{address} is larger than {LARGEST >> 20} MB.")
    with open(f"{path}.part", "wb") as file:
        file.write(content)
    os.rename(f"{path}.part", path)
