"""Pull, push and login against Debian's docker-registry on the loopback."""

import json
import os
import shutil
import stat
from collections.abc import Iterator

import pytest

from imagelab import (
    DOCKER,
    OCI,
    Foreign,
    digest_of,
    encoded,
    make,
    put,
    put_manifest,
    registry,
    run,
    tar_of,
)
from shipway.runtime.errors import (
    DamagedBlob,
    HostUnfit,
    InvalidReference,
    NoSuchImage,
    NoSuchPlatform,
    RegistryFailed,
    StoreFull,
)
from shipway.runtime.images import listing, registries, removing
from shipway.runtime.images.registries import Access, Pulled
from shipway.runtime.images.store import Stores
from support import free_port, scratch

LOWER = tar_of({"etc": None, "etc/a": os.urandom(3000)}, mtime=5)
UPPER = tar_of({"etc/.wh.a": b"", "b": b"2"}, mtime=6)
LINES: list[str] = []


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    with registry() as found:
        yield found


@pytest.fixture
def stores() -> Iterator[Stores]:
    with scratch() as path:
        yield Stores.open(path)


def pull(stores: Stores, name: str, access: Access | None = None) -> Pulled:
    return registries.pull(stores.images, name, access or Access.of(stores.images), LINES.append)


def push(stores: Stores, name: str, access: Access | None = None) -> str:
    found = access or Access.of(stores.images)
    return registries.push(stores.images, name, found, LINES.append)[0]


@pytest.mark.parametrize("how", ["", "gzip", "zstd"])
@pytest.mark.parametrize("kind", [OCI, DOCKER])
def test_what_a_registry_has_comes_as_it_is(host: str, stores: Stores, kind: str, how: str) -> None:
    """Manifest, config and layers keep their bytes, OCI's and Docker's, packed by anything."""
    image = Foreign([(LOWER, how), (UPPER, how), (LOWER, how)], kind)
    put(host, f"forms/{how or 'plain'}", image)
    name = f"{host}/forms/{how or 'plain'}@{image.digest}"
    done = pull(stores, name)
    assert (done.image.digest, done.digest) == (image.digest, image.digest)
    for digest, blob in image.blobs.items():
        assert stores.layers.blobs.path(digest).read_bytes() == blob
    stores.images.verify(name)


def test_multi_platform(host: str, stores: Stores) -> None:
    """Of a name for many machines this one's image comes; the name's own digest is remembered."""
    mine, other = Foreign([(LOWER, "gzip")]), Foreign([(UPPER, "gzip")])
    put(host, "multi", mine, other)
    entries = [
        other.descriptor(platform={"os": "linux", "architecture": "s390x"}),
        mine.descriptor(platform={"os": "linux", "architecture": "amd64"}),
    ]
    kind = f"{OCI}.index.v1+json"
    inner = encoded({"schemaVersion": 2, "mediaType": kind, "manifests": entries})
    put_manifest(host, "multi", digest_of(inner), inner, kind)
    nested = {"mediaType": kind, "digest": digest_of(inner), "size": len(inner)}
    outer = encoded({"schemaVersion": 2, "mediaType": kind, "manifests": [nested]})
    put_manifest(host, "multi", "v1", outer, kind)
    done = pull(stores, f"{host}/multi:v1")
    assert (done.image.digest, done.digest) == (mine.digest, digest_of(outer))
    [listed] = listing.listed(stores.images)
    assert listed.registry_digest == digest_of(outer)
    assert stores.images.get(f"{host}/multi@{digest_of(outer)}").digest == mine.digest
    lonely = encoded({"schemaVersion": 2, "mediaType": kind, "manifests": entries[:1]})
    put_manifest(host, "multi", "other", lonely, kind)
    with pytest.raises(NoSuchPlatform, match="but for linux/s390x"):
        pull(stores, f"{host}/multi:other")


def test_push_and_pull_again(host: str, stores: Stores) -> None:
    """An image of ours goes to a registry and comes back as the same, byte by byte."""
    image = make(stores, f"{host}/team/own:v1", {"a": "1"}, env={"A": "b"})
    assert push(stores, f"{host}/team/own:v1") == image.digest
    [listed] = listing.listed(stores.images)
    assert listed.registry_digest == image.digest
    removing.remove(stores.images, f"{host}/team/own:v1")
    done = pull(stores, f"{host}/team/own:v1")
    assert (done.image, done.fresh) == (image, True)
    assert pull(stores, f"{host}/team/own:v1").fresh is False
    seen = json.loads(
        run("skopeo", "inspect", "--tls-verify=false", f"docker://{host}/team/own:v1")
    )
    assert seen["Digest"] == image.digest


def test_only_what_is_missing_is_fetched(host: str, stores: Stores) -> None:
    """A layer that is here is not asked for again."""
    one, two = Foreign([(LOWER, "gzip")]), Foreign([(LOWER, "gzip"), (UPPER, "gzip")])
    put(host, "shared", one, two)
    pull(stores, f"{host}/shared@{one.digest}")
    before = stores.layers.blobs.path(digest_of(one.layers[0])).stat().st_ino
    pull(stores, f"{host}/shared@{two.digest}")
    assert stores.layers.blobs.path(digest_of(one.layers[0])).stat().st_ino == before


@pytest.mark.parametrize("which", [0, 1, 2, 3])
@pytest.mark.parametrize("missing", [False, True])
def test_damage_is_fetched_anew(host: str, stores: Stores, which: int, missing: bool) -> None:
    """Whichever blob is damaged, it is named with where to have it; pull makes the image whole."""
    image = Foreign([(LOWER, "gzip"), (UPPER, "gzip")])
    put(host, "damaged", image)
    put_manifest(host, "damaged", "v1", image.manifest, image.media_type)
    name = f"{host}/damaged:v1"
    pull(stores, name)
    digest = list(image.blobs)[which]
    path = stores.layers.blobs.path(digest)
    if missing:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] + b"~")
    with pytest.raises(
        DamagedBlob, match=f"{digest}.*`shipway runtime pull {name}` fetches it anew"
    ):
        stores.images.verify(name)
    pull(stores, name)
    stores.images.verify(name)
    assert path.read_bytes() == image.blobs[digest]


def test_what_goes_wrong(host: str, stores: Stores) -> None:
    """Each failure is told by name, with the registry that was asked; nothing stays."""
    closed = f"localhost:{free_port()}"
    for name, error, why in (
        (f"{host}/nothing:v1", RegistryFailed, f"{host} has no image {host}/nothing:v1"),
        (f"{closed}/app", RegistryFailed, f"{closed} failed for .*refused"),
        ("Upper/x", InvalidReference, "lower case"),
        (f"{host}/app:", InvalidReference, "the tag ''"),
        (f"{host}/nothing@sha256:" + "0" * 64, RegistryFailed, "has no image"),
    ):
        with pytest.raises(error, match=why):
            pull(stores, name)
    with pytest.raises(NoSuchImage, match="nothing"):
        push(stores, f"{host}/nothing:v1")
    make(stores, f"{closed}/own:1", {"a": "1"})
    with pytest.raises(RegistryFailed, match=f"{closed} failed"):
        push(stores, f"{closed}/own:1")
    removing.remove(stores.images, f"{closed}/own:1")
    assert os.listdir(stores.images.root / "blobs/sha256") == []
    assert os.listdir(stores.layers.folder / ".staging") == []


def test_a_damaged_image_is_not_pushed(host: str, stores: Stores) -> None:
    """What is damaged here does not go anywhere."""
    image = make(stores, f"{host}/bad:1", {"a": "1"})
    path = stores.layers.blobs.path(image.layers[0].digest)
    path.write_bytes(path.read_bytes()[:-1] + b"~")
    with pytest.raises(DamagedBlob):
        push(stores, f"{host}/bad:1")
    with pytest.raises(RegistryFailed, match="has no image"):
        pull(stores, f"{host}/bad:1")


def test_no_room(host: str, stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """What does not fit on the disk is told before anything is fetched."""
    image = Foreign([(LOWER, "")])
    put(host, "large", image)
    usage = shutil.disk_usage("/")._replace(free=100)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)
    with pytest.raises(StoreFull, match="has 100 left"):
        pull(stores, f"{host}/large@{image.digest}")


def test_without_skopeo(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without skopeo is told how to get it."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HostUnfit, match="apt-get install skopeo"):
        pull(stores, "debian:13")


def test_login(stores: Stores) -> None:
    """A registry that asks for a login gets it from a file that only root can read."""
    # bcrypt of "secret"
    users = "me:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"
    with registry(users) as host:
        access = Access.of(stores.images)
        make(stores, f"{host}/own:1", {"a": "1"})
        with pytest.raises(RegistryFailed, match=host):
            push(stores, f"{host}/own:1")
        with pytest.raises(RegistryFailed, match=f"the login at {host} failed"):
            registries.login(host, "me", "wrong", access)
        registries.login(f"http://{host}/", "me", "secret", access)
        assert stat.S_IMODE(access.authfile.stat().st_mode) == 0o600
        push(stores, f"{host}/own:1")
        pull(stores, f"{host}/own:1")
        assert registries.logout(host, access) is True
        assert registries.logout(host, access) is False
        with pytest.raises(RegistryFailed):
            pull(stores, f"{host}/own:1")
