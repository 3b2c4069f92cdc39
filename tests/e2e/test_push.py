"""A real `git push` by a stock git client, answered through the router."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from apps import flask_app
from load import Load
from support import Platform, platform


@pytest.fixture(scope="module")
def shipway() -> Iterator[Platform]:
    """One platform for all tests of this file."""
    with platform(__name__, boot_timeout=6) as found:
        yield found


@pytest.fixture(scope="module")
def hello(shipway: Platform) -> Path:
    """The working copy of an app that is live as v1, pushed over SSH."""
    shipway.cli("apps:create", "hello")
    work = shipway.repo("hello", flask_app("one"))
    done = shipway.push(work)
    (shipway.folder / "first-push.txt").write_text(done.stdout)
    return work


def test_a_push_over_ssh_goes_live(shipway: Platform, hello: Path) -> None:
    """The build streams with the field's markers, ends with the release and URL, and the app answers there."""
    out = (shipway.folder / "first-push.txt").read_text()
    for line in (
        "-----> Building on the Debian 13 stack",
        "-----> Python app detected",
        "-----> Discovering process types",
        "       Procfile declares types -> web",
        "-----> Launching...",
        "       Released v1",
        f"       {shipway.settings.app_url('hello')} deployed to Shipway",
    ):
        assert f"remote: {line}" in out, out
    status, _, body = shipway.get("hello")
    assert (status, body) == (200, "one web.1 v1\n")


def test_the_app_sees_who_asked(shipway: Platform, hello: Path) -> None:
    """X-Forwarded-* and X-Request-ID arrive; forged ones do not."""
    forged = {"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https", "X-Request-ID": "forged"}
    _, _headers, body = shipway.get("hello", "/headers", forged)
    seen = {key.lower(): value for key, value in json.loads(body).items()}
    assert seen["x-forwarded-for"] == "127.0.0.1"
    assert seen["x-forwarded-proto"] == "http"
    assert seen["x-forwarded-port"] == str(shipway.settings.router_port)
    assert re.fullmatch(r"[0-9a-f-]{32,36}", seen["x-request-id"])
    assert int(re.sub(r"\D", "", seen["x-request-start"])) > 1_700_000_000_000


def test_a_push_over_http_goes_live(shipway: Platform) -> None:
    """The same by git over HTTP with a token."""
    shipway.cli("apps:create", "overhttp")
    work = shipway.repo("overhttp", flask_app("http"))
    out = shipway.push(work, "http", "main").stdout
    assert "Released v1" in out
    assert shipway.get("overhttp")[2].startswith("http web.1")


def test_git_over_http_asks_for_a_token(shipway: Platform, hello: Path) -> None:
    """A wrong token is refused, a right one may clone what was pushed; both by a stock client."""
    base = f"127.0.0.1:{shipway.settings.web_port}/hello.git"
    done = shipway.git(hello, "ls-remote", f"http://x:wrong@{base}", check=False)
    assert done.returncode != 0
    assert "Authentication failed" in done.stdout or "could not read" in done.stdout
    clone = shipway.folder / "clone"
    shipway.git(shipway.folder, "clone", "-q", f"http://x:{shipway.token}@{base}", str(clone))
    assert (clone / "Procfile").read_text() == (hello / "Procfile").read_text()
    missing = f"http://x:{shipway.token}@{base.replace('hello', 'nosuchapp')}"
    done = shipway.push(hello, missing, "main", check=False)
    assert done.returncode != 0
    assert "nosuchapp" in done.stdout


def test_the_image_is_in_the_local_store(shipway: Platform, hello: Path, tmp_path: Path) -> None:
    """What was built is an OCI image that other tools take."""
    layout = shipway.data / "runtime" / "images"
    digest = shipway.json("releases", "hello")[0]["image"]
    index = json.loads((layout / "index.json").read_text())
    names = {
        m["annotations"]["org.opencontainers.image.ref.name"]
        for m in index["manifests"]
        if m["digest"] == digest
    }
    assert names, (digest, index)
    done = subprocess.run(
        ["skopeo", "copy", f"oci:{layout}:{names.pop()}", f"dir:{tmp_path}/copy"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_a_second_push_drops_no_request(shipway: Platform, hello: Path) -> None:
    """Under load every request is answered 200, by the old version and then by the new."""
    shipway.commit(hello, flask_app("two"))
    with Load(shipway.settings.router_port, "hello") as load:
        out = shipway.push(hello).stdout
        time.sleep(3)
    assert "Released v2" in out
    assert load.failed == {}
    versions = {body.split()[0] for body in load.bodies}
    assert versions == {"one", "two"}
    assert shipway.get("hello")[2] == "two web.1 v2\n"


def test_rebuild_builds_the_commit_again(shipway: Platform, hello: Path) -> None:
    """`builds:rebuild` makes a new release of the same commit."""
    before = shipway.json("releases", "hello")[0]
    out = shipway.cli("builds:rebuild", "hello").stdout
    after = shipway.json("releases", "hello")[0]
    assert after["version"] == before["version"] + 1, out
    assert after["commit"] == before["commit"]


FAILURES = {
    "build": ({"requirements.txt": "flask==0.0.0.0.1\n"}, "flask"),
    "procfile": ({"Procfile": None, "app.py": "print('a program')\n"}, "Procfile"),
    "language": (
        {"requirements.txt": None, "Procfile": None, "app.py": None},
        "Looked in the top folder",
    ),
    "silent": ({"Procfile": "web: echo only $((1+1)) words; sleep 60\n"}, "only 2 words"),
    "crash": (
        {"app.py": "print('last words', flush=True)\nraise SystemExit(3)\n"},
        "last words",
    ),
}
DEPLOY_FAILS = ("silent", "crash")  # after their builds have succeeded


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failed_push_changes_nothing(shipway: Platform, hello: Path, kind: str) -> None:
    """A push that cannot go live is declined with the reason; the version before serves on without a failed request."""
    files, reason = FAILURES[kind]
    release = shipway.get("hello")[2]
    head = shipway.git(hello, "rev-parse", "HEAD").stdout.strip()
    for name, text in files.items():
        if text is None:
            (hello / name).unlink()
        else:
            (hello / name).write_text(text)
    if kind == "language":
        (hello / "notes.txt").write_text("nothing to run\n")
    shipway.commit(hello, {}, f"broken: {kind}")
    try:
        with Load(shipway.settings.router_port, "hello") as load:
            done = shipway.push(hello, check=False)
        assert done.returncode != 0
        assert "pre-receive hook declined" in done.stdout
        assert reason in done.stdout, done.stdout
        outcome = shipway.json("builds", "hello")[0]["outcome"]
        assert outcome == ("deploy failed" if kind in DEPLOY_FAILS else "build failed")
        if kind == "silent":  # it says what it waits for long before it gives up
            waits = r"Waiting for web\.1 to answer on port 5000\.\.\. \d+ s.*R10"
            assert re.search(waits, done.stdout, re.DOTALL)
        assert "Traceback" not in done.stdout or kind == "crash"
        assert load.failed == {}
        assert shipway.get("hello")[2] == release
        assert shipway.git(hello, "ls-remote", "shipway", "main").stdout.split()[0] == head
    finally:
        shipway.git(hello, "reset", "-q", "--hard", head)
        shipway.git(hello, "clean", "-qfd")


def test_another_branch_does_not_deploy(shipway: Platform, hello: Path) -> None:
    """A branch that is not the deploy branch is explained and deploys nothing."""
    before = shipway.json("releases", "hello")
    done = shipway.push(hello, "shipway", "HEAD:refs/heads/feature", check=False)
    assert "git push shipway" in done.stdout
    assert "main" in done.stdout
    assert shipway.json("releases", "hello") == before


def test_the_deploy_branch_cannot_be_deleted(shipway: Platform, hello: Path) -> None:
    """Deleting it is refused, and it is still there."""
    done = shipway.push(hello, "shipway", ":main", check=False)
    assert done.returncode != 0
    assert shipway.git(hello, "ls-remote", "shipway", "main").stdout.split()[0]


@pytest.mark.parametrize(
    ("name", "said"), [("nosuchapp", "nosuchapp"), ("Bad_Name", "valid app name"), ("../x", "app")]
)
def test_a_push_to_no_app_is_refused(shipway: Platform, hello: Path, name: str, said: str) -> None:
    """An unknown app or an invalid name is one clear line, over SSH."""
    url = f"ssh://git@127.0.0.1:{shipway.settings.ssh_port}/{name}"
    done = shipway.push(hello, url, "main", check=False)
    assert done.returncode != 0
    assert said in done.stdout, done.stdout
    assert "Traceback" not in done.stdout


def test_a_key_without_rights_is_refused(shipway: Platform, hello: Path) -> None:
    """A registered person who was not let into the app is told so, and nothing changes."""
    own = shipway.key
    other = shipway.folder / "other"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other)], check=True)
    shipway.cli("users:create", "mallory", "--password", "a long password 1")
    shipway.cli("keys:add", f"{other}.pub", "--name", "m", "--user", "mallory")
    shipway.commit(hello, {"x.txt": "x"})
    try:
        shipway.key = other
        done = shipway.push(hello, check=False)
    finally:
        shipway.key = own
    assert done.returncode != 0
    assert "no access" in done.stdout, done.stdout


def test_an_unknown_key_is_refused(shipway: Platform, hello: Path) -> None:
    """A key that nobody registered gets no further than SSH itself."""
    own, stranger = shipway.key, shipway.folder / "stranger"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(stranger)], check=True)
    try:
        shipway.key = stranger
        done = shipway.push(hello, check=False)
    finally:
        shipway.key = own
    assert done.returncode != 0
    assert "ermission denied" in done.stdout


def test_the_client_hangs_up(shipway: Platform, hello: Path) -> None:
    """The deploy goes on to its end without its client, and the branch then stands where the release does."""
    commit = shipway.commit(hello, flask_app("afterhangup"))
    before = shipway.json("releases", "hello")[0]["version"]
    client = subprocess.Popen(
        ["git", "push", "shipway", "main"],
        cwd=hello,
        env=shipway.git_environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert client.stdout is not None
    for line in client.stdout:
        if "----->" in line:
            break
    subprocess.run(["kill", "-9", "--", f"-{client.pid}"], check=True)
    client.wait()
    deadline = time.monotonic() + 60
    while (newest := shipway.json("releases", "hello")[0])["version"] == before or (
        newest["state"] != "live"
    ):
        assert time.monotonic() < deadline, shipway.json("builds", "hello")
        time.sleep(0.2)
    assert shipway.json("builds", "hello")[0]["state"] == "succeeded"
    while shipway.git(hello, "ls-remote", "shipway", "main").stdout.split()[0] != commit:
        assert time.monotonic() < deadline + 30, "the branch was not moved"
        time.sleep(0.5)
    assert shipway.get("hello")[2].startswith("afterhangup")


def test_commands_over_ssh(shipway: Platform, hello: Path) -> None:
    """The platform's commands work over SSH with the key's rights."""
    ssh = shutil.which("ssh")
    assert ssh
    done = subprocess.run(
        [
            *(ssh, "-i", str(shipway.key), "-p", str(shipway.settings.ssh_port)),
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
            *("-o", "LogLevel=ERROR", "shipway@127.0.0.1", "ps", "hello"),
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "web.1" in done.stdout


def test_the_data_folder_is_closed_to_others(shipway: Platform, hello: Path) -> None:
    """No other user of the machine can read the database, the repositories or the logs."""
    for name in ("shipway.db", "shipway.db-wal", "repos", "logs", "secrets", "platform.log"):
        mode = (shipway.data / name).stat().st_mode
        assert mode & 0o077 == 0, (name, oct(mode))
