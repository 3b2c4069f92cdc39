"""The image verbs of `shipway runtime`, as people and scripts use them; build and commit among them."""

import http.server
import json
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from enginelab import Lab, eventually, open_lab
from imagelab import busybox_rootfs, registry, run
from runtimecli import call, ok
from support import free_port, scratch


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with open_lab(__name__) as found:
        path = found.folder / "busybox.tar"
        path.write_bytes(busybox_rootfs())
        ok(found, "import", "-c", "ENV PATH=/bin", "-c", 'CMD ["sh"]', str(path), "bb:1")
        yield found


@pytest.fixture
def folder() -> Iterator[Path]:
    with scratch() as found:
        yield found


@pytest.fixture(scope="module")
def web() -> Iterator[tuple[str, dict[str, bytes]]]:
    """A web server on the loopback, and what it has."""
    pages: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = pages.get(self.path)
            self.send_response(200 if found is not None else 404)
            self.end_headers()
            self.wfile.write(found or b"")

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", pages
    server.shutdown()


def rows(lab: Lab, *args: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(ok(lab, *args, "--json"))
    return found


def fails(lab: Lab, *args: str, **options: Any) -> str:
    """What a verb says that fails: one line."""
    done = call(lab, *args, **options)
    assert done.returncode == 1, done.stdout + done.stderr
    [line] = done.stderr.splitlines()[-1:]
    assert "Traceback" not in done.stderr
    return str(line)


# -- looking ------------------------------------------------------------------------------------


def test_images(lab: Lab) -> None:
    """images has Docker's columns, templates, filters and ids."""
    ok(lab, "tag", "bb:1", "team/bb:v2")
    text = ok(lab, "images", "bb")
    assert text.splitlines()[0].split() == ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]
    [row] = rows(lab, "images", "bb:1")
    assert (row["Repository"], row["Tag"], len(row["ID"])) == ("bb", "1", 12)
    whole = ok(lab, "images", "-q", "--no-trunc", "bb").strip()
    assert whole.startswith(f"sha256:{row['ID']}")
    assert ok(lab, "images", "-q", "bb") == f"{row['ID']}\n"
    form = "{{.Repository}}:{{.Tag}}"
    assert ok(lab, "images", "--format", form, "-f", "reference=*/bb") == "team/bb:v2\n"
    assert ok(lab, "images", "--format", form, "-f", "reference=bb:*") == "bb:1\n"
    assert rows(lab, "images", "-f", "dangling=true") == []
    assert rows(lab, "images", "-f", "until=1h") == []
    assert len(rows(lab, "images", "-f", "until=0s", "bb")) == 1
    assert "DIGEST" in ok(lab, "images", "--digests").splitlines()[0]
    for wrong in ("color=red", "dangling=maybe", "until=soon"):
        assert wrong.partition("=")[2] in fails(lab, "images", "-f", wrong)


def test_history(lab: Lab) -> None:
    """History has Docker's columns, the last step first."""
    text = ok(lab, "history", "stack/debian-13:build")
    assert text.splitlines()[0].split()[:2] == ["IMAGE", "CREATED"]
    found = rows(lab, "history", "--no-trunc", "stack/debian-13:build")
    assert [row["CreatedBy"] for row in found] == ["shipway", "shipway"]
    assert found[1]["ID"] == "<missing>"
    assert "no image named 'nothing'" in fails(lab, "history", "nothing")


def test_references_are_told_apart(lab: Lab) -> None:
    """A name, its long form and the beginning of an id lead to one image; wrong ones say why."""
    identity = ok(lab, "images", "-q", "bb:1").strip()
    for name in ("bb:1", "docker.io/library/bb:1", identity, identity[:5]):
        assert rows(lab, "history", name)[0]["ID"] == identity
    assert "lower case" in fails(lab, "tag", "bb:1", "Bad:1")
    assert "no reference" in fails(lab, "history", "a b")
    assert "no image named" in fails(lab, "tag", "nothing:1", "x:1")


def test_rmi(lab: Lab) -> None:
    """Rmi goes on after a failure, tells what it did, and refuses what a container uses."""
    ok(lab, "tag", "bb:1", "one:1")
    done = call(lab, "rmi", "nothing:1", "one:1")
    assert (done.returncode, done.stdout) == (1, "Untagged: one:1\n")
    assert "no image named 'nothing:1'" in done.stderr
    with open(lab.folder / "busybox.tar", "rb") as file:
        ok(lab, "import", "-c", "LABEL only=one", "-c", "ENV PATH=/bin", "-", "used:1", stdin=file)
    ok(lab, "create", "--name", "user", "used:1", "sh", "-c", "echo hi")
    assert "used by container user" in fails(lab, "rmi", "used:1")
    assert ok(lab, "rmi", "-f", "used:1") == "Untagged: used:1\n"
    assert ok(lab, "prune", "-af", "--filter", "label=only=one").endswith("space: 0B\n")
    assert ok(lab, "start", "-a", "user") == "hi\n"
    ok(lab, "rm", "user")
    assert "Deleted: sha256:" in ok(lab, "prune", "-f")


# -- archives -----------------------------------------------------------------------------------


def test_import_from_a_url_and_export(lab: Lab, folder: Path, web: Any) -> None:
    """A root file system comes from the web; what a container sees goes out as a tar, times kept."""
    address, pages = web
    pages["/rootfs.tar"] = busybox_rootfs()
    told = ok(lab, "import", "-m", "from the web", f"{address}/rootfs.tar", "web:1")
    assert told.startswith("sha256:")
    assert "404" in fails(lab, "import", f"{address}/nothing.tar", "web:2")
    script = "echo new > /new; rm /bin/id; busybox touch -d '2001-02-03 00:00:00' /old"
    ok(lab, "run", "--name", "out", "-u", "0", "-e", "PATH=/bin", "web:1", "sh", "-c", script)
    target = folder / "out.tar"
    ok(lab, "export", "-o", str(target), "out")
    with tarfile.open(target) as tar:
        names = tar.getnames()
        assert (tar.getmember("new").uid, tar.getmember("old").mtime) == (0, 981158400)
        assert tar.extractfile("etc/hostname") is not None
    assert "bin/id" not in names
    assert "bin/sh" in names
    ok(lab, "rm", "out")
    assert "no container" in fails(lab, "export", "-o", str(target), "nothing")


def test_archives_that_cannot_be(lab: Lab, folder: Path) -> None:
    """What cannot be read or written is one line, and no half file is left."""
    assert "cannot be read: No such file" in fails(lab, "load", "-i", str(folder / "nothing"))
    (folder / "text").write_text("hello")
    assert "cut short" in fails(lab, "load", "-i", str(folder / "text"))
    assert "cannot be written" in fails(lab, "save", "-o", str(folder / "no/x.tar"), "bb:1")
    assert "no image named" in fails(lab, "save", "-o", str(folder / "x.tar"), "nothing:1")
    assert sorted(os.listdir(folder)) == ["text"]


def test_a_full_disk(lab: Lab, folder: Path) -> None:
    """A disk that is full, or read-only, is one named error."""
    script = 'mount -t tmpfs -o "size=1m" tmpfs "$1"; shift; exec "$@"'
    argv = ["unshare", "--mount", "sh", "-euc", script, "x", str(folder)]
    verb = [
        sys.executable,
        "-m",
        "shipway.runtime",
        "--root",
        str(folder / "e"),
        "import",
        str(lab.folder / "busybox.tar"),
        "x:1",
    ]
    done = subprocess.run([*argv, *verb], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "no space is left on the disk of" in done.stderr
    script = 'mount -t tmpfs -o ro tmpfs "$1"; shift; exec "$@"'
    argv[4] = script
    done = subprocess.run([*argv, *verb], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "read-only" in done.stderr.lower()


# -- commit -------------------------------------------------------------------------------------


def test_commit(lab: Lab) -> None:
    """A container's files and settings become an image; what the engine gave it does not."""
    script = "echo new > /new; echo own > /etc/own; rm /etc/group"
    ok(lab, "run", "--name", "box", "-u", "0", "-e", "A=b", "bb:1", "sh", "-c", script)
    told = ok(
        lab,
        "commit",
        "-m",
        "why",
        "-a",
        "me",
        "-c",
        "CMD cat /new /etc/own /etc/group",
        "box",
        "c:1",
    )
    again = ok(
        lab,
        "commit",
        "-m",
        "why",
        "-a",
        "me",
        "-c",
        "CMD cat /new /etc/own /etc/group",
        "box",
        "c:2",
    )
    assert told == again
    done = call(lab, "run", "--rm", "c:1")
    assert done.stdout == "new\nown\n"
    assert "can't open '/etc/group'" in done.stderr
    [step, *_] = rows(lab, "history", "--no-trunc", "c:1")
    assert (step["Comment"], step["CreatedBy"]) == ("why", f"sh -c '{script}'")
    image = lab.engine.images.get("c:1")
    assert image.config.env == {"PATH": "/bin", "A": "b"}
    top = lab.engine.images.trees(image)[0]
    assert sorted(os.listdir(top / "etc")) == ["group", "own"]  # a whiteout, and the new file
    ok(lab, "rm", "box")


def test_commit_of_a_running_container(lab: Lab) -> None:
    """While it is read the container is paused, and then goes on."""
    script = "while true; do echo x >> /grows; done"
    ok(lab, "run", "-d", "--name", "busy", "-u", "0", "bb:1", "sh", "-c", script)
    upper = lab.config.root / "containers/busy/layer/upper/grows"
    eventually(upper.exists)
    ok(lab, "commit", "busy", "grown:1")
    size = upper.stat().st_size
    eventually(lambda: upper.stat().st_size > size)
    assert lab.engine.get("busy").state == "running"
    lab.engine.images.verify("grown:1")
    ok(lab, "rm", "-f", "busy")
    assert "no container" in fails(lab, "commit", "nothing", "x:1")


# -- build --------------------------------------------------------------------------------------

DOCKERFILE = """\
ARG BASE=nothing
FROM ${BASE} AS first
ARG WHO=nobody
RUN echo "made by $WHO" > /made; rm /bin/id
COPY . /ctx
ONBUILD RUN echo put-off > /put-off
FROM first AS second
RUN --mount=type=secret,id=key cat /run/secrets/key > /seen
CMD cat /made /put-off /seen; ls /ctx
FROM second
RUN false
"""


def test_build(lab: Lab, folder: Path) -> None:
    """A Dockerfile is built from an image of the store into it, and runs; a second time from the cache."""
    context = folder / "context"
    context.mkdir()
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "kept").write_text("1")
    (context / "left-out").write_text("1")
    (context / ".dockerignore").write_text("left-*\n.dockerignore\nDockerfile\n")
    (folder / "key").write_text("secret\n")
    args = ["--build-arg", "BASE=bb:1", "--build-arg", "WHO=me", "--target", "second"]
    args += ["--secret", f"id=key,src={folder}/key", "-t", "built:1", "-t", "built:2", str(context)]
    told = ok(lab, "build", *args)
    assert "Successfully tagged built:2" in told
    assert ok(lab, "run", "--rm", "built:1") == "made by me\nput-off\nsecret\nkept\n"
    again = ok(lab, "build", "-q", *args)
    assert again.strip() == lab.engine.images.get("built:1").id
    image, base = lab.engine.images.get("built:1"), lab.engine.images.get("bb:1")
    assert image.layers[: len(base.layers)] == base.layers
    lab.engine.images.verify("built:1")
    fresh = ok(lab, "build", "-q", "--no-cache", *args)
    assert fresh != again
    assert not any(
        str(lab.folder) in line for line in Path("/proc/mounts").read_text().splitlines()
    )


def test_a_build_that_fails(lab: Lab, folder: Path) -> None:
    """A failed step, a missing base and a missing Dockerfile are each one line; nothing is tagged."""
    (folder / "Dockerfile").write_text("FROM bb:1\nRUN echo before; exit 3\n")
    done = call(lab, "build", "-t", "no:1", str(folder))
    assert done.returncode == 1
    assert "before" in done.stdout
    assert "exit status 3" in done.stderr
    (folder / "Dockerfile").write_text(f"FROM localhost:{free_port()}/nothing:1\n")
    assert "refused" in fails(lab, "build", "-t", "no:1", str(folder))
    assert "cannot be read" in fails(lab, "build", "-f", str(folder / "no"), str(folder))
    assert "is no folder" in fails(lab, "build", str(folder / "nowhere"))
    assert "write NAME=VALUE" in fails(lab, "build", "--build-arg", "X", str(folder))
    assert "lower case" in fails(lab, "build", "-t", "Bad", str(folder))
    assert rows(lab, "images", "no") == []


def test_build_from_a_pipe(lab: Lab, folder: Path, web: Any) -> None:
    """The standard input has a Dockerfile alone, or a tar; steps reach the network."""
    address, pages = web
    pages["/hello"] = b"from the network\n"
    text = f"FROM bb:1\nRUN busybox wget -q -O /got {address}/hello\nCMD cat /got\n"
    ok(lab, "build", "-q", "-t", "piped:1", "-", input=text)
    assert ok(lab, "run", "--rm", "piped:1") == "from the network\n"
    (folder / "x").write_text("in the tar\n")
    (folder / "sub").mkdir()
    (folder / "sub/D").write_text("FROM bb:1\nCOPY x /x\nCMD cat /x\n")
    run("tar", "-C", folder, "-czf", folder / "c.tgz", "x", "sub")
    with open(folder / "c.tgz", "rb") as file:
        ok(lab, "build", "-q", "-t", "piped:2", "-f", "sub/D", "-", stdin=file)
    assert ok(lab, "run", "--rm", "piped:2") == "in the tar\n"


def test_build_from_git(lab: Lab, folder: Path) -> None:
    """A repository is fetched by its address, with a branch and a folder of it."""
    work = folder / "repo"
    git = ["git", "-C", work, "-c", "user.name=x", "-c", "user.email=x@y"]
    run("git", "init", "-q", "-b", "main", work)
    (work / "app").mkdir()
    (work / "app/Dockerfile").write_text("FROM bb:1\nCOPY . /src\nCMD ls /src\n")
    run(*git, "add", ".")
    run(*git, "commit", "-qm", "x")
    port = free_port()
    daemon = subprocess.Popen(
        [
            *("git", "daemon", "--export-all", "--listen=127.0.0.1"),
            *(f"--port={port}", f"--base-path={folder}"),
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        address = f"git://127.0.0.1:{port}/repo"
        eventually(
            lambda: (
                subprocess.run(["git", "ls-remote", address], capture_output=True).returncode == 0
            )
        )
        ok(lab, "build", "-q", "-t", "cloned:1", f"{address}#main:app")
        assert ok(lab, "run", "--rm", "cloned:1") == "Dockerfile\n"
        assert "could not be fetched" in fails(lab, "build", f"{address}#nowhere")
        assert "has no folder nowhere" in fails(lab, "build", f"{address}#main:nowhere")
    finally:
        daemon.terminate()
        daemon.wait()


# -- registries ---------------------------------------------------------------------------------


def test_pull_push_run(lab: Lab) -> None:
    """Verbs speak as Docker's do; run fetches what is not here, unless it is told not to."""
    with registry() as host:
        ok(lab, "tag", "bb:1", f"{host}/bb:1")
        told = ok(lab, "push", f"{host}/bb:1")
        assert f"The push refers to repository [{host}/bb]" in told
        digest = lab.engine.images.get("bb:1").digest
        assert f"1: digest: {digest} size: " in told
        ok(lab, "rmi", f"{host}/bb:1")
        told = ok(lab, "pull", f"{host}/bb:1")
        assert (
            f"Digest: {digest}\nStatus: Downloaded newer image for {host}/bb:1\n{host}/bb:1\n"
            in told
        )
        assert "Image is up to date" in ok(lab, "pull", f"{host}/bb:1")
        assert ok(lab, "pull", "-q", f"{host}/bb:1") == f"{host}/bb:1\n"
        [row] = [row for row in rows(lab, "images") if row["Repository"] == f"{host}/bb"]
        assert row["Digest"] == digest
        ok(lab, "rmi", f"{host}/bb:1")
        assert ok(lab, "run", "--rm", f"{host}/bb:1", "echo", "fetched") == "fetched\n"
        ok(lab, "rmi", f"{host}/bb:1")
        done = call(lab, "run", "--rm", "--pull", "never", f"{host}/bb:1", "echo")
        assert done.returncode == 125
        done = call(lab, "run", "--rm", f"{host}/nothing:1", "echo")
        assert done.returncode == 125
        assert host in done.stderr
        assert "me" not in ok(lab, "login", "-u", "me", "--password-stdin", host, input="pw\n")
        assert ok(lab, "logout", host) == f"Removing login credentials for {host}\n"


@pytest.mark.parametrize(
    "verb",
    [
        *("images", "history", "tag", "rmi", "prune", "import", "export", "save", "load"),
        *("commit", "pull", "push", "login", "logout", "build"),
    ],
)
def test_help(verb: str) -> None:
    """Each verb's help has an example."""
    assert "Example:" in run(sys.executable, "-m", "shipway.runtime", verb, "--help")
