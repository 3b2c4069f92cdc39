"""Images to test with: small trees and tars of every form, a registry, and Docker's own engine."""

import contextlib
import gzip
import hashlib
import io
import json
import shutil
import signal
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import support
from dockerengine import Docker
from shipway.runtime.images.store import Image, ImageConfig, Stores

BUSYBOX = shutil.which("busybox") or "/bin/busybox"  # Debian's busybox-static
OCI = "application/vnd.oci.image"
DOCKER = "application/vnd.docker"


def run(*command: object, **options: Any) -> str:
    """A command's output; it must succeed."""
    done = subprocess.run([str(c) for c in command], capture_output=True, **options)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout.decode(errors="replace")


def tar_of(files: Mapping[str, bytes | str | None], **attributes: Any) -> bytes:
    """A tar: bytes make a file, a text a link to it, None a folder. `mode` and the like hold for all."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.mode = 0o755
            for key, value in attributes.items():
                setattr(member, key, value)
            if isinstance(content, bytes):
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
                continue
            member.type = tarfile.DIRTYPE if content is None else tarfile.SYMTYPE
            member.linkname = content or ""
            tar.addfile(member)
    return buffer.getvalue()


def busybox_rootfs() -> bytes:
    """The tar of a root file system that can run a shell."""
    program = Path(BUSYBOX).read_bytes()
    names = ("sh", "cat", "ls", "echo", "id")
    return tar_of(
        {
            "bin": None,
            "bin/busybox": program,
            **{f"bin/{name}": "busybox" for name in names},
            "etc": None,
            "etc/passwd": b"root:x:0:0::/:/bin/sh\napp:x:1000:1000::/:/bin/sh\n",
            "etc/group": b"root:x:0:\napp:x:1000:\n",
            "tmp": None,
        }
    )


def digest_of(data: bytes) -> str:
    """The digest of a blob."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def encoded(document: Any) -> bytes:
    """A document in a form of its own, which nobody would write it in again."""
    return (json.dumps(document, indent=3, sort_keys=False) + "\n").encode()


def zstd(data: bytes) -> bytes:
    """Packed by the zstd command."""
    return subprocess.run(
        ["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True
    ).stdout


PACKED = {"": lambda data: data, "gzip": gzip.compress, "zstd": zstd}


class Foreign:
    """An image as somebody else would make it: layers packed as asked, documents oddly formatted."""

    def __init__(self, layers: list[tuple[bytes, str]], kind: str = OCI, **config: Any) -> None:
        self.diff_ids = [digest_of(plain) for plain, _ in layers]
        blobs = [PACKED[how](plain) for plain, how in layers]
        self.config = encoded(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], **config},
                "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
                "history": [{"created_by": f"step {n}"} for n in range(len(layers))],
                "x-unknown": [1, 2],
            }
        )
        suffix = {"": "", "gzip": "+gzip", "zstd": "+zstd"}
        oci = kind == OCI
        types = [
            f"{OCI}.layer.v1.tar{suffix[how]}"
            if oci
            else f"{DOCKER}.image.rootfs.diff.tar{'.gzip' if how else ''}"
            for _, how in layers
        ]
        self.media_type = (
            f"{OCI}.manifest.v1+json" if oci else f"{DOCKER}.distribution.manifest.v2+json"
        )
        self.manifest = encoded(
            {
                "schemaVersion": 2,
                "mediaType": self.media_type,
                "config": {
                    "mediaType": f"{OCI}.config.v1+json"
                    if oci
                    else f"{DOCKER}.container.image.v1+json",
                    "digest": digest_of(self.config),
                    "size": len(self.config),
                },
                "layers": [
                    {"mediaType": each, "digest": digest_of(blob), "size": len(blob)}
                    for each, blob in zip(types, blobs, strict=True)
                ],
            }
        )
        self.layers = blobs
        self.blobs = {digest_of(blob): blob for blob in [*blobs, self.config, self.manifest]}
        self.digest = digest_of(self.manifest)

    def descriptor(self, **more: Any) -> dict[str, Any]:
        """Its place in an index."""
        return {
            "mediaType": self.media_type,
            "digest": self.digest,
            "size": len(self.manifest),
            **more,
        }


def layout(entries: list[dict[str, Any]], *blobs: Mapping[str, bytes]) -> bytes:
    """An OCI layout in a tar."""
    files: dict[str, bytes | str | None] = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": entries}).encode(),
    }
    for each in blobs:
        files |= {f"blobs/sha256/{digest[7:]}": data for digest, data in each.items()}
    return tar_of(files)


def make(stores: Stores, ref: str | None, files: Mapping[str, str], **config: Any) -> Image:
    """An image of our own, of one layer."""
    with stores.layers.staged_tree() as tree:
        for name, text in files.items():
            path = tree / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        layer = stores.layers.commit(tree)
    return stores.images.write([layer], ImageConfig(**config), ref)


@contextlib.contextmanager
def docker() -> Iterator[Docker]:
    """Docker's engine without a network, so that it changes nothing of the machine's."""
    with support.scratch() as folder:
        found = Docker(folder, "--bridge", "none", "--iptables=false", "--ip-forward=false")
        try:
            found.start()
            yield found
        finally:
            found.stop()


@contextlib.contextmanager
def registry(htpasswd: str | None = None) -> Iterator[str]:
    """Debian's docker-registry on the loopback; its host and port."""
    port = support.free_port()
    with support.scratch() as folder:
        text = (
            f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
            f"http: {{addr: '127.0.0.1:{port}'}}\n"
        )
        if htpasswd is not None:
            (folder / "users").write_text(htpasswd)
            text += f"auth: {{htpasswd: {{realm: test, path: {folder}/users}}}}\n"
        (folder / "config.yml").write_text(text)
        log = (folder / "log").open("wb")
        process = subprocess.Popen(
            ["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log
        )
        try:
            _await(port, process, folder / "log")
            yield f"localhost:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


def _await(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline, delay = time.monotonic() + 30, 0.01
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
            return
        except OSError:
            assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(delay)
        delay = min(delay * 2, 0.2)


def put(host: str, repository: str, *foreign: Foreign) -> None:
    """Give a registry the blobs and manifests of images, over its own protocol."""
    for image in foreign:
        for digest, blob in image.blobs.items():
            if digest != image.digest:
                start = _ask(f"http://{host}/v2/{repository}/blobs/uploads/", "POST")
                place = start.headers["Location"]
                joiner = "&" if "?" in place else "?"
                _ask(f"{place}{joiner}digest={digest}", "PUT", blob)
        put_manifest(host, repository, image.digest, image.manifest, image.media_type)


def put_manifest(host: str, repository: str, name: str, data: bytes, media_type: str) -> None:
    """Put a manifest or an index into a registry."""
    _ask(f"http://{host}/v2/{repository}/manifests/{name}", "PUT", data, media_type)


def _ask(url: str, method: str, data: bytes | None = None, kind: str = "") -> Any:
    request = urllib.request.Request(url, data=data, method=method)
    request.add_header("Content-Type", kind or "application/octet-stream")
    with urllib.request.urlopen(request, timeout=30) as response:
        return response
