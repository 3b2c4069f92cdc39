"""Documents that come from elsewhere: what is read of them, and what is refused."""

import json
from typing import Any

import pytest

from shipway.runtime.errors import InvalidImage, NoSuchPlatform
from shipway.runtime.images import manifests

DIGEST = "sha256:" + "a" * 64
PART = {"mediaType": "x", "digest": DIGEST, "size": 3}
MINE = manifests.host_architecture()


def entry(digit: str, **platform: str) -> dict[str, Any]:
    return {"digest": "sha256:" + digit * 64, "size": 1, "platform": {"os": "linux", **platform}}


def test_manifest() -> None:
    """A manifest is read, whether it says its media type or not."""
    found = manifests.manifest({"config": PART, "layers": [PART]}, "it")
    assert found.media_type == manifests.MANIFEST_TYPE
    assert found.layers == (manifests.Descriptor("x", DIGEST, 3),)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({}, "neither"),
        ({"config": PART}, "neither"),
        ({"config": PART, "layers": [], "manifests": []}, "an index and as a manifest"),
        ({"fsLayers": [], "schemaVersion": 1}, "schema 1"),
        ({"manifests": []}, "where a manifest is meant"),
        ({"config": PART, "layers": {}}, "no list"),
        ({"config": PART, "layers": [PART] * 501}, "at most 500"),
        ({"config": None, "layers": []}, "without a digest"),
        ({"config": PART | {"size": -1}, "layers": []}, "without a digest"),
        ({"config": PART | {"size": True}, "layers": []}, "without a digest"),
        ({"config": PART | {"digest": "sha512:" + "a" * 128}, "layers": []}, "only sha256"),
        ({"config": PART | {"digest": "../../etc/passwd"}, "layers": []}, "only sha256"),
    ],
)
def test_what_is_no_manifest(document: dict[str, Any], why: str) -> None:
    """What could be read in two ways, or lacks a part, is refused with the reason."""
    with pytest.raises(InvalidImage, match=why):
        manifests.manifest(document, "it")


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_document(data: bytes) -> None:
    """What is no JSON object is refused."""
    with pytest.raises(InvalidImage):
        manifests.document(data, "it")


def test_the_platform_of_this_machine() -> None:
    """Of an index the entry for this machine is chosen; one without a platform comes last."""
    unknown = entry("b", architecture="unknown", os="unknown")
    bare = {"digest": DIGEST, "size": 1}
    mine = entry("c", architecture=MINE)
    other = entry("d", architecture="s390x")
    windows = entry("e", architecture=MINE, os="windows")
    found = manifests.choose({"manifests": [unknown, bare, windows, other, mine]}, "it")
    assert found.digest == mine["digest"]
    assert manifests.choose({"manifests": [other, bare]}, "it").digest == DIGEST


def test_no_platform() -> None:
    """Without an entry for this machine it is said what there is."""
    index = {
        "manifests": [
            entry("d", architecture="s390x"),
            entry("e", architecture="arm", variant="v7"),
        ]
    }
    with pytest.raises(NoSuchPlatform, match=f"linux/{MINE}, but for linux/arm/v7, linux/s390x"):
        manifests.choose(index, "it")


def config(**changes: Any) -> bytes:
    whole = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"diff_ids": [DIGEST]}}
    return json.dumps(whole | changes).encode()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rootfs": {}}, "no list of the layers"),
        ({"rootfs": {"diff_ids": ["x"]}}, "no list of the layers"),
        ({"rootfs": {"diff_ids": [DIGEST, DIGEST]}}, "2 layers, and its manifest has 1"),
        ({"os": "windows"}, "only linux"),
        ({"config": []}, "no JSON object"),
        ({"config": {"Env": "A=b"}}, "malformed Env"),
        ({"config": {"Cmd": [1]}}, "malformed Cmd"),
        ({"config": {"Labels": {"a": 1}}}, "malformed Labels"),
        ({"history": [1]}, "malformed history"),
    ],
)
def test_configs(changes: dict[str, Any], why: str) -> None:
    """A config is checked for all that is read of it later."""
    with pytest.raises(InvalidImage, match=why):
        manifests.config(config(**changes), 1, "it")


def test_a_config_may_be_bare() -> None:
    """Null stands for nothing everywhere, as Docker writes it."""
    bare = {"Env": None, "Cmd": None, "Labels": None, "ExposedPorts": None, "Volumes": None}
    assert manifests.config(config(config=bare), 1, "it")["config"] == bare
    assert manifests.config(config(config=None), 1, "it")["config"] is None
