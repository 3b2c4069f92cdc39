"""Packages of npm's registry, fetched without npm: Node.js itself, its package managers, Bun, Deno.

Each download is checked against the registry's own digest, and against the app's where it has one.
"""

import base64
import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import IO, Any

from shipway.buildpacks.kit import semver
from shipway.buildpacks.kit.errors import CannotBuild

# npm's own setting, which it reads in either form; else the public registry, which the platform names.
SETTINGS = ("npm_config_registry", "NPM_CONFIG_REGISTRY", "SHIPWAY_NPM_REGISTRY")
TIMEOUT = 30.0  # seconds without a byte
SHORT = "application/vnd.npm.install-v1+json"


class Registry:
    """An npm registry; `env` is the build's environment."""

    def __init__(self, env: Mapping[str, str]) -> None:
        base = next((env[name] for name in SETTINGS if env.get(name)), "")
        if not base:
            raise CannotBuild(
                "No npm registry is known to this build.",
                f"The operator names one with the build setting {SETTINGS[0]}.",
            )
        parts = urllib.parse.urlsplit(base.rstrip("/"))
        login, _, host = parts.netloc.rpartition("@")
        self._host = host
        self._base = parts._replace(netloc=host).geturl()
        secret = base64.b64encode(urllib.parse.unquote(login).encode()).decode()
        self._login = {"Authorization": f"Basic {secret}"} if login else {}

    def versions(self, name: str) -> dict[semver.Version, Mapping[str, Any]]:
        """All versions of a package, with what the registry says of each."""
        url = f"{self._base}/{name.replace('/', '%2f')}"
        with self._open(url, name) as answer:
            try:
                document = json.load(answer)
                known = document["versions"].items()
            except (ValueError, KeyError, AttributeError, TypeError):
                raise CannotBuild(f"{self._host} gave no answer of an npm registry.") from None
        pairs = ((semver.version(text), about) for text, about in known)
        return {version: about for version, about in pairs if version is not None}

    def unpack(self, about: Mapping[str, Any], folder: str, digest: str = "") -> None:
        """Unpack a version's archive into `folder`, which is made. Nothing is left of a bad one.

        `digest` is what the app expects: `sha512.<hex>`, as in `packageManager`.
        """
        name, url = str(about["name"]), str(about["dist"]["tarball"])
        # Mirrors often leave the address of where they copied from.
        path = urllib.parse.urlsplit(url).path
        if urllib.parse.urlsplit(url).netloc != self._host:
            prefix = urllib.parse.urlsplit(self._base).path
            url = self._base + path.removeprefix(prefix)
        part = f"{folder}.part"
        shutil.rmtree(part, ignore_errors=True)
        os.makedirs(part)
        try:
            with self._open(url, name) as answer:
                digests = _unpack(answer, part, _algorithms(about, digest))
            _verify(digests, about, digest, name)
            os.rename(part, folder)
        except OSError as error:
            raise CannotBuild(f"{name} could not be fetched from {self._host}: {error}.") from None
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _open(self, url: str, name: str) -> Any:
        request = urllib.request.Request(url, headers={"Accept": SHORT, **self._login})  # noqa: S310
        try:
            return urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310
        except urllib.error.HTTPError as error:
            if error.code == 404:
                raise CannotBuild(f"The npm registry {self._host} has no package {name}.") from None
            raise CannotBuild(f"The npm registry {self._host} answers {error.code}.") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise CannotBuild(
                f"{self._host} could not be reached from the build ({reason}).",
                f"Where there is a mirror of it, the setting {SETTINGS[0]} names it: the operator",
                f'writes build_env = {{ {SETTINGS[0]} = "https://…" }} into the settings of the'
                " platform.",
            ) from None


def _unpack(stream: IO[bytes], folder: str, algorithms: set[str]) -> dict[str, str]:
    """Unpack an archive, without the one folder at its top; gives its digests (hex)."""
    digests = {name: hashlib.new(name) for name in algorithms}
    args = ["tar", "-xzf", "-", "-C", folder, "--strip-components=1", "--no-same-owner"]
    process = subprocess.Popen(args, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    with process.stdin, contextlib.suppress(BrokenPipeError):
        while data := stream.read(1 << 18):
            for digest in digests.values():
                digest.update(data)
            process.stdin.write(data)
    if process.wait():
        raise OSError("it is no whole archive")
    return {name: digest.hexdigest() for name, digest in digests.items()}


def _algorithms(about: Mapping[str, Any], digest: str) -> set[str]:
    own = {_integrity(about)[0]}
    wanted = digest.partition(".")[0]
    if digest and wanted not in hashlib.algorithms_guaranteed:
        raise CannotBuild(f"packageManager has a digest of the unknown kind {wanted[:20]!r}.")
    return own | ({wanted} if digest else set())


def _integrity(about: Mapping[str, Any]) -> tuple[str, str]:
    """Kind and value (hex) of the registry's own digest."""
    dist = about["dist"]
    if "integrity" in dist:
        kind, _, value = str(dist["integrity"]).split()[0].partition("-")
        return kind, base64.b64decode(value).hex()
    return "sha1", str(dist["shasum"])


def _verify(digests: Mapping[str, str], about: Mapping[str, Any], digest: str, name: str) -> None:
    kind, value = _integrity(about)
    if digests[kind] != value:
        raise CannotBuild(
            f"{name} was damaged on its way: its {kind} digest is not the registry's."
        )
    kind, _, value = digest.partition(".")
    if digest and digests[kind] != value.lower():
        raise CannotBuild(
            f"{name} {about['version']} has another {kind} digest than packageManager in"
            " package.json gives: it would not be what was pinned.",
        )
