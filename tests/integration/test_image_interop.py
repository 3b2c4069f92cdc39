"""Other people's tools take our images, and we theirs: skopeo, umoci, oci-image-tool, Docker, buildah."""

import io
import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dockerengine import Docker
from enginelab import Lab, open_lab
from imagelab import busybox_rootfs, docker, run
from runtimecli import call, ok
from shipway.runtime.images import archives, rootfs
from shipway.runtime.images.commit import Change, commit
from shipway.runtime.images.store import Stores
from support import scratch

HELLO = "echo hello from $WHO as $(id -u):$(id -g) in $PWD; cat /added; ls -d /tmp"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with open_lab("imgio") as found:
        yield found


@pytest.fixture(scope="module")
def peer() -> Iterator[Docker]:
    with docker() as found:
        yield found


@pytest.fixture(scope="module")
def stores(lab: Lab) -> Stores:
    """The lab's, with `ours:1`: a base that can run a shell, and a layer that adds and takes away."""
    found = Stores(lab.engine.images, lab.engine.layers)
    image = rootfs.take_in(found.images, io.BytesIO(busybox_rootfs()), "base:1")
    with found.layers.staged_tree() as upper:
        (upper / "added").write_text("added\n")
        (upper / "home").mkdir()
        subprocess.run(["mknod", str(upper / "tmp"), "c", "0", "0"], check=True)
        change = Change(
            "ours:1",
            instructions=(
                f'CMD ["sh", "-c", "{HELLO}"]',
                "ENV PATH=/bin WHO=shipway",
                "WORKDIR /home",
                "USER app",
            ),
        )
        commit(found.images, image, upper, change)
    return found


SAID = "hello from shipway as 1000:1000 in /home\nadded\n"


def test_it_runs_here(lab: Lab, stores: Stores) -> None:
    """What the others are asked to run says this here."""
    done = call(lab, "run", "--rm", "ours:1")
    assert done.stdout == SAID, done.stderr


def test_docker_takes_ours(peer: Docker, lab: Lab, stores: Stores) -> None:
    """`docker load` takes what we save, knows it by the same id, and runs it."""
    with scratch() as folder:
        ok(lab, "save", "-o", str(folder / "ours.tar"), "ours:1")
        told = peer.run("load", "-i", str(folder / "ours.tar"))
    assert told == "Loaded image: ours:1"
    image = stores.images.get("ours:1")
    assert peer.run("inspect", "-f", "{{.Id}}", "ours:1") == image.id
    done = subprocess.run(
        peer.argv("run", "--rm", "--network", "none", "ours:1"), capture_output=True, text=True
    )
    assert done.stdout == SAID, done.stderr
    assert "/tmp" in done.stderr


def test_we_take_docker_s(peer: Docker, lab: Lab, stores: Stores) -> None:
    """What Docker has imported, committed and saved runs here, with its id."""
    subprocess.run(
        peer.argv("import", "-c", "ENV PATH=/bin", "-", "theirs:base"),
        input=busybox_rootfs(),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    box = peer.run(
        "create", "--network", "none", "theirs:base", "sh", "-c", "echo new > /new; rm -r /tmp"
    )
    peer.run("start", "-a", box)
    peer.run(
        "commit", "-c", 'CMD ["sh", "-c", "cat /new; ls -d /tmp"]', "-c", "USER 0", box, "theirs:1"
    )
    identity = peer.run("inspect", "-f", "{{.Id}}", "theirs:1")
    with scratch() as folder:
        peer.run("save", "-o", str(folder / "theirs.tar"), "theirs:1")
        assert ok(lab, "load", "-i", str(folder / "theirs.tar")) == "Loaded image: theirs:1\n"
    assert stores.images.get("theirs:1").id == identity
    done = call(lab, "run", "--rm", "theirs:1")
    assert done.stdout == "new\n"
    assert "/tmp" in done.stderr
    stores.images.verify("theirs:1")


def test_umoci_and_skopeo_take_ours(lab: Lab, stores: Stores) -> None:
    """Umoci unpacks the whole image from our store; skopeo copies it out of the saved tar."""
    with scratch() as folder:
        run("umoci", "unpack", "--image", f"{stores.images.root}:ours:1", folder / "bundle")
        top = sorted(each.name for each in (folder / "bundle/rootfs").iterdir())
        assert top == ["added", "bin", "etc", "home"]
        ok(lab, "save", "-o", str(folder / "ours.tar"), "ours:1")
        copy = ["skopeo", "--insecure-policy", "copy"]
        run(*copy, f"oci-archive:{folder}/ours.tar:ours:1", f"dir:{folder}/one")
        run(*copy, f"docker-archive:{folder}/ours.tar:ours:1", f"dir:{folder}/two")
        image = stores.images.get("ours:1")
        manifest = json.loads((folder / "one/manifest.json").read_bytes())
        assert manifest["config"]["digest"] == image.id
        manifest = json.loads((folder / "two/manifest.json").read_bytes())
        assert manifest["config"]["digest"] == image.id


def test_oci_image_tool_finds_nothing_wrong(stores: Stores) -> None:
    """The specification's own checker accepts a layout that we wrote."""
    with scratch() as folder:
        saved = io.BytesIO()
        archives.save(stores.images, ["ours:1"], saved)
        saved.seek(0)
        (folder / "layout").mkdir()
        with tarfile.open(fileobj=saved) as tar:
            tar.extractall(folder / "layout")
        told = subprocess.run(
            [
                "oci-image-tool",
                "validate",
                "--type",
                "image",
                "--ref",
                "name=ours:1",
                folder / "layout",
            ],
            capture_output=True,
            text=True,
        )
        assert told.returncode == 0, told.stdout + told.stderr


def test_buildah_s_images_run_here(lab: Lab, stores: Stores) -> None:
    """An image that buildah wrote as an archive, OCI's or Docker's, runs here."""
    with scratch() as folder:
        (folder / "busybox").write_bytes(Path("/usr/bin/busybox").read_bytes())
        (folder / "Dockerfile").write_text(
            'FROM scratch\nCOPY busybox /bin/sh\nENV WHO=buildah\nCMD ["/bin/sh", "-c", "echo $WHO"]\n'
        )
        (folder / "busybox").chmod(0o755)
        storage = [
            "unshare",
            "--mount",
            "buildah",
            "--root",
            folder / "s",
            "--runroot",
            folder / "r",
        ]
        storage += ["--storage-driver", "vfs"]
        identity = run(*storage, "build", "-q", "--isolation", "chroot", folder).strip()
        for kind, ref in (("oci-archive", "bo:1"), ("docker-archive", "bd:1")):
            run(*storage, "push", "-q", identity, f"{kind}:{folder}/{kind}.tar:{ref}")
            told = ok(lab, "load", "-i", str(folder / f"{kind}.tar"))
            assert told.startswith("Loaded image: ")
            name = told.removeprefix("Loaded image: ").strip()
            assert ok(lab, "run", "--rm", name) == "buildah\n"
