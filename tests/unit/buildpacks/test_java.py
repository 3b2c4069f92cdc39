"""Java: the version that is asked for, and key stores that Java reads."""

import hashlib

import pytest

from shipway.buildpacks.java import truststore, version
from shipway.buildpacks.kit.errors import CannotBuild


@pytest.mark.parametrize(
    ("text", "number"), [("17", 17), ("1.8", 8), ("21.0.2", 21), ("temurin-21.0.1+12", 21)]
)
def test_asked(text: str, number: int) -> None:
    """A major version is read out of all the ways of writing it."""
    assert version.asked({".java-version": f"{text}\n"}) == (".java-version", number)
    properties = {"system.properties": f"# x\njava.runtime.version = {text}\n"}
    assert version.asked(properties) == ("system.properties", number)


def test_choose() -> None:
    """The oldest that does is taken; too new and senseless ones are errors that name the file."""
    assert version.asked({"system.properties": "maven.version=3\n"}) is None
    assert version.choose(None, "debian 13", "Debian 13") == 21
    assert version.choose((".java-version", 17), "debian 13", "Debian 13") == 21
    assert version.choose((".java-version", 22), "debian 13", "Debian 13") == 25
    with pytest.raises(CannotBuild, match="asks for Java 99, but Debian 12 has 17"):
        version.choose((".java-version", 99), "debian 12", "Debian 12")
    with pytest.raises(CannotBuild, match=r"\.java-version asks for Java 'latest'"):
        version.asked({".java-version": "latest"})


def test_store() -> None:
    """A key store ends with the digest that Java checks, and is the same for the same bundle."""
    bundle = "x\n-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n"
    store = truststore.from_pem(bundle * 2)
    assert store == truststore.from_pem(bundle * 2)
    assert store[:12].hex() == "feedfeed" + "00000002" + "00000002"
    assert store.count(b"X.509\0\0\0\x03\0\1\2") == 2
    secret = truststore.PASSWORD.encode("utf-16-be") + b"Mighty Aphrodite"
    assert store[-20:] == hashlib.sha1(secret + store[:-20]).digest()
