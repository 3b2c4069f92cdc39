"""Pull, push and login, through skopeo: what a registry has comes in as it is, checked by digest.

The manifest is asked for first, so that layers that are here already are not fetched, and so that
the manifest and the config are kept byte by byte. Logins are in a file that only root can read.
"""

import contextlib
import hashlib
import ipaddress
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shipway.runtime import files
from shipway.runtime.errors import (
    DamagedBlob,
    ImageError,
    InvalidImage,
    NoSuchLayer,
    RegistryFailed,
    StoreFull,
)
from shipway.runtime.images import manifests, references, tools
from shipway.runtime.images.blobs import Incoming
from shipway.runtime.images.intake import intake
from shipway.runtime.images.layers import Layer
from shipway.runtime.images.manifests import Manifest
from shipway.runtime.images.references import Reference
from shipway.runtime.images.store import Image, ImageStore
from shipway.runtime.images.tools import Output, ToolFailed

AUTH = "auth.json"
PLAIN = "plain"
_DRESS = re.compile(r'^Error parsing image name "[^"]*": |^writing blob: |^initializing \S+ \S+: ')
_MISSING = ("manifest unknown", "name unknown", "not found", "repository name not known")
_FULL = "no space left on device"


@dataclass(frozen=True)
class Access:
    """How registries are spoken to; `authfile` holds the logins.

    Without a `tls_verify` it is as with Docker: certificates are checked, but on the loopback
    plain HTTP is taken as well.
    """

    authfile: Path
    tls_verify: bool | None = None

    @classmethod
    def of(cls, images: ImageStore, tls_verify: bool | None = None) -> "Access":
        """The engine's own logins."""
        return cls(images.engine_root / AUTH, tls_verify)

    def options(self, domain: str, side: str = "") -> list[str]:
        """Skopeo's options for that registry; `side` is "src-" or "dest-" for a copy."""
        verify = not _is_loopback(domain) if self.tls_verify is None else self.tls_verify
        options = [f"--{side}tls-verify={str(verify).lower()}"]
        if self.authfile.exists():
            options += [f"--{side}authfile" if side else "--authfile", os.fspath(self.authfile)]
        return options


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull brought: `digest` is what the registry knows it by, `fresh` whether it was new."""

    image: Image
    ref: str
    digest: str
    fresh: bool


# -- pulling ------------------------------------------------------------------------------------


def pull(images: ImageStore, name: str, access: Access, output: Output) -> Pulled:
    """Bring an image here from its registry, by its name; for several machines, the one for this.

    Blobs that are here are read through and fetched again if they are damaged. Raises
    InvalidReference, RegistryFailed, NoSuchPlatform, InvalidImage, StoreFull.
    """
    skopeo = tools.find("skopeo")
    wanted = references.parse(name)
    remote = _Remote(skopeo, wanted, access)
    top = remote.manifest(wanted)
    digest = _digest(top)
    if wanted.digest and digest != wanted.digest:
        raise RegistryFailed(f"{wanted.domain} gave {digest} for {name}")
    own, data = remote.choose(digest, top)
    manifest = manifests.manifest(manifests.document(data, own), own)
    config = remote.config(own, manifest)
    document = manifests.config(config, len(manifest.layers), f"the config of {own}")
    diff_ids = document["rootfs"]["diff_ids"]
    missing = _missing(images, manifest, diff_ids)
    fresh = bool(missing) or images.refs().get(wanted.short, own if wanted.digest else "") != own
    with intake(images) as taking, images.layers.staged_tree() as stage:
        if missing:
            _fetch(images, remote, (own, manifest), missing, stage, output)
        layers: list[Layer] = []
        for each, diff_id in zip(manifest.layers, diff_ids, strict=True):
            if each.digest in missing:
                missing.discard(each.digest)  # a layer may be there more than once
                with _fetched(images, remote, stage, each.digest) as blob:
                    layers.append(taking.layer(blob, diff_id))
            else:
                layers.append(Layer(diff_id, each.digest, each.size))
        refs = [] if wanted.digest else [wanted.short]
        image = taking.image(config, layers, refs, data, f"{wanted.repository}@{digest}")
    return Pulled(image, wanted.short, digest, fresh)


def _missing(images: ImageStore, manifest: Manifest, diff_ids: Sequence[str]) -> set[str]:
    """The layers that are not here, or not whole, by digest."""
    found = set()
    for each, diff_id in zip(manifest.layers, diff_ids, strict=True):
        try:
            images.blobs.verify(each.digest)
            known = images.layers.is_known(diff_id, each.digest)
            if known:
                with images.blobs.lock():
                    images.layers.renew(diff_id)  # prune leaves what is young
        except (DamagedBlob, NoSuchLayer):
            known = False
        if not known:
            found.add(each.digest)
    return found


class _Remote:
    """A repository of a registry."""

    def __init__(self, skopeo: str, name: Reference, access: Access) -> None:
        self.skopeo = skopeo
        self.name = name
        self.access = access

    def at(self, digest: str) -> str:
        """The address of that content in the repository."""
        return f"docker://{self.name.repository}@{digest}"

    def manifest(self, name: Reference) -> bytes:
        """The bytes of a manifest or an index. Raises RegistryFailed."""
        return self._inspect("--raw", f"docker://{name.full}")

    def config(self, digest: str, manifest: Manifest) -> bytes:
        """The bytes of an image's config, checked. Raises RegistryFailed."""
        data = self._inspect("--config", "--raw", self.at(digest))
        if _digest(data) != manifest.config.digest:
            raise RegistryFailed(f"{self.name.domain} gave another config than {digest} names")
        return data

    def choose(self, digest: str, data: bytes) -> tuple[str, bytes]:
        """The manifest for this machine, and its digest. Raises NoSuchPlatform, RegistryFailed."""
        for _ in range(manifests.DEEPEST):
            found = manifests.document(data, f"{self.name.short} ({digest})")
            if not manifests.is_index(found, self.name.short):
                return digest, data
            digest = manifests.choose(found, self.name.short).digest
            data = self._inspect("--raw", self.at(digest))
            if _digest(data) != digest:
                raise RegistryFailed(f"{self.name.domain} gave another manifest than {digest}")
        raise InvalidImage(f"{self.name.short} is an index in more than {manifests.DEEPEST} others")

    def _inspect(self, *args: str) -> bytes:
        options = self.access.options(self.name.domain)
        try:
            return tools.read([self.skopeo, "inspect", *options, *args])
        except ToolFailed as error:
            raise _failure(self.name, error) from error


def _fetch(
    images: ImageStore,
    remote: _Remote,
    wanted: tuple[str, Manifest],
    missing: Collection[str],
    stage: Path,
    output: Output,
) -> None:
    """Fetch an image into a layout of its own at `stage`; the blobs not missing are linked there."""
    digest, manifest = wanted
    need = sum(each.size for each in manifest.layers if each.digest in missing)
    free = shutil.disk_usage(stage).free
    if need > free:
        raise StoreFull(
            f"{remote.name.short} has {need} bytes to fetch, and the disk of {images.root} has"
            f" {free} left; free some"
        )
    keep: list[str] = []
    target = f"oci:{stage}:pulled"
    if manifest.media_type != manifests.DOCKER_MANIFEST_TYPE:
        keep = ["--preserve-digests"]  # skopeo would pack plain layers
    elif any(not each.media_type.endswith("gzip") for each in manifest.layers):
        target = f"dir:{stage / PLAIN}"  # nor can it keep those of Docker's manifest in a layout
    blobs = stage / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for each in manifest.layers:
        place = blobs / each.digest.removeprefix("sha256:")
        if each.digest not in missing and not place.exists():
            os.link(images.blobs.path(each.digest), place)
    options = [*keep, *remote.access.options(remote.name.domain, "src-")]
    argv = [remote.skopeo, "copy", "--insecure-policy", *options, remote.at(digest), target]
    try:
        tools.run(argv, output)
    except ToolFailed as error:
        raise _failure(remote.name, error) from error


@contextlib.contextmanager
def _fetched(images: ImageStore, remote: _Remote, stage: Path, digest: str) -> Iterator[Incoming]:
    """A blob that was fetched, checked. Raises RegistryFailed."""
    name = digest.removeprefix("sha256:")
    path = stage / PLAIN / name
    if not path.exists():
        path = stage / "blobs" / "sha256" / name
    try:
        with images.blobs.incoming_file(path, digest) as blob:
            yield blob
    except DamagedBlob as error:
        raise RegistryFailed(f"{remote.name.domain} did not give {digest} whole") from error


# -- pushing ------------------------------------------------------------------------------------


def push(images: ImageStore, name: str, access: Access, output: Output) -> tuple[str, int]:
    """Send an image to the registry that its name says, as it is here; its digest and size there.

    Raises InvalidReference, NoSuchImage, DamagedBlob, RegistryFailed.
    """
    skopeo = tools.find("skopeo")
    target = references.parse_tag(name)
    image = images.get(name)
    digest, _ = images.manifest(image.digest)
    parts = images.parts(digest) - {digest}
    with images.told(digest):
        for part in sorted(parts):
            images.blobs.verify(part)
    with images.layers.staged_tree() as stage:
        (stage / "version").write_text("Directory Transport Version: 1.1\n")
        os.link(images.blobs.path(digest), stage / "manifest.json")
        for part in parts:
            os.link(images.blobs.path(part), stage / part.removeprefix("sha256:"))
        options = access.options(target.domain, "dest-")
        try:
            tools.run(
                [
                    *(skopeo, "copy", "--insecure-policy", "--preserve-digests", *options),
                    *(f"dir:{stage}", f"docker://{target.full}"),
                ],
                output,
            )
        except ToolFailed as error:
            raise _failure(target, error) from error
    images.note_source(target.short, digest, f"{target.repository}@{digest}")
    return digest, images.blobs.size(digest)


# -- logins -------------------------------------------------------------------------------------


def login(registry: str, user: str, password: str, access: Access) -> None:
    """Try a login at a registry and keep it. Raises RegistryFailed, InvalidReference."""
    domain = _registry(registry)
    skopeo = tools.find("skopeo")
    if not access.authfile.exists():
        files.atomic_write(access.authfile, b"{}")
    argv = [skopeo, "login", *access.options(domain), "--username", user, "--password-stdin"]
    try:
        tools.run([*argv, domain], _drop, stdin=password.encode())
    except ToolFailed as error:
        raise RegistryFailed(f"the login at {domain} failed: {error}") from error
    finally:
        access.authfile.chmod(0o600)


def logout(registry: str, access: Access) -> bool:
    """Forget the login at a registry; whether there was one. Raises InvalidReference."""
    domain = _registry(registry)
    try:
        document = json.loads(access.authfile.read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    found: bool = document.get("auths", {}).pop(domain, None) is not None
    if found:
        files.atomic_write(access.authfile, json.dumps(document).encode())
    return found


def _registry(text: str) -> str:
    """The host of a registry, which people also write as a URL."""
    host = text.removeprefix("https://").removeprefix("http://").rstrip("/")
    return references.parse(f"{host}/name").domain


def _drop(_line: str) -> None:
    """Take what need not be shown."""


# -- parts --------------------------------------------------------------------------------------


def _failure(name: Reference, error: ToolFailed) -> ImageError:
    """What skopeo says, as the error that it is."""
    reason = _DRESS.sub("", str(error))
    everything = "\n".join([*error.lines, reason]).lower()
    if _FULL in everything:
        return StoreFull(f"no space is left for {name.short}; free some")
    if any(words in everything for words in _MISSING):
        return RegistryFailed(
            f"the registry {name.domain} has no image {name.short}, or none for this login: {reason}"
        )
    return RegistryFailed(f"the registry {name.domain} failed for {name.short}: {reason}")


def _is_loopback(domain: str) -> bool:
    host = domain.rpartition(":")[0] if domain.rpartition(":")[2].isdigit() else domain
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"
