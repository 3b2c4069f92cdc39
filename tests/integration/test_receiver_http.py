"""Git over HTTP through the real web process with a stock client; only the workers are played by a thread."""

import gzip
import http.client
import os
import re
import signal
import socket
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pushing import Place, connects, hang_up, place, wait_for
from shipway.platform.states import BuildState, ReleaseState

WEB = "from shipway.platform import settings, web_server; web_server.main(settings.load())"
PACKET = "application/x-git-{}-request"


@pytest.fixture(scope="module")
def here() -> Iterator[Place]:
    """One web process for all tests of this file; each has an app of its own."""
    with place(push_size=8 << 20) as found:
        start_web(found)
        yield found


def start_web(here: Place) -> None:
    """The web process, once it takes requests."""
    here.web = here.spawn([sys.executable, "-c", WEB])  # type: ignore[attr-defined]
    wait_for(lambda: connects(here.settings.web_port))


@pytest.fixture(autouse=True)
def all_goes_well(here: Place) -> Iterator[None]:
    """Each test starts with workers that succeed at once."""
    here.workers.outcome = "live"
    here.workers.go.set()
    yield
    here.workers.go.set()


@pytest.fixture
def app(request: pytest.FixtureRequest) -> str:
    """The name of this test's app."""
    test = request.node.name
    words = re.sub(r"[^a-z0-9]+", "-", test.removeprefix("test_"))
    return f"{words[:20].strip('-')}-{zlib.crc32(test.encode()):x}"


@pytest.fixture(scope="module")
def tokens(here: Place) -> dict[str, str]:
    """A token of each user."""
    return {user: here.token(user) for user in ("ada", "eve")}


def url(here: Place, app: str, token: str) -> str:
    """The address of an app for git, with a token as the password."""
    return f"http://anybody:{token}@127.0.0.1:{here.settings.web_port}/{app}.git"


@pytest.fixture
def work(here: Place, app: str, tokens: dict[str, str]) -> Path:
    """A working copy with one commit, whose app is there and has nothing yet."""
    return here.work(app, url(here, app, tokens["ada"]))


def test_a_push_goes_live(here: Place, app: str, work: Path) -> None:
    """The same lines as over SSH; the branch moves."""
    done = here.push(work)
    assert done.returncode == 0, done.stdout
    assert "remote: -----> Set main as deploy branch" in done.stdout
    assert f"remote:        http://{app}.localhost/ deployed to Shipway" in done.stdout
    assert "remote: Verifying deploy... done." in done.stdout
    assert here.branch(app) == here.builds(app)[0].commit


def test_a_failed_build_declines_the_push(here: Place, app: str, work: Path) -> None:
    """As over SSH."""
    here.workers.outcome = "build-fails"
    done = here.push(work)
    assert done.returncode == 1
    assert "No Procfile was found." in done.stdout
    assert "! [remote rejected] main -> main (pre-receive hook declined)" in done.stdout
    assert here.branch(app) is None


def test_lines_are_told_as_they_come(here: Place, work: Path) -> None:
    """Nothing between git and its client gathers the lines."""
    here.workers.go.clear()
    push = here.begin_push(work)
    assert push.stdout
    assert any("Building on the test stack" in line for line in iter(push.stdout.readline, ""))
    assert push.poll() is None
    here.workers.go.set()
    push.communicate(timeout=20)
    assert push.returncode == 0


@pytest.mark.parametrize("version", ["0", "1", "2"])
def test_clone_and_fetch(here: Place, app: str, work: Path, version: str) -> None:
    """In every version of the protocol."""
    here.push(work)
    origin = here.git(work, "remote", "get-url", "shipway").stdout.strip()
    protocol = ["-c", f"protocol.version={version}"]
    copy = here.folder / f"copy-{version}"
    assert here.git(here.folder, *protocol, "clone", "-q", origin, str(copy)).returncode == 0
    newest = here.commit(work, "more")
    assert here.push(work).returncode == 0
    assert here.git(copy, *protocol, "pull", "-q").returncode == 0
    assert here.git(copy, "rev-parse", "HEAD").stdout.strip() == newest
    assert "refs/builds" not in here.git(copy, *protocol, "ls-remote").stdout


def test_a_large_pack_goes_through_in_chunks(here: Place, app: str, work: Path) -> None:
    """A body of unknown length, and beyond the limit of any other request."""
    (work / "big").write_bytes(os.urandom(6 << 20))
    here.commit(work, "big")
    done = here.push(work)
    assert done.returncode == 0, done.stdout
    assert here.branch(app) is not None


def test_a_pack_beyond_the_limit_is_refused(here: Place, app: str, work: Path) -> None:
    """Git's own words reach the client although it is still sending; the next push works."""
    (work / "big").write_bytes(os.urandom(12 << 20))
    here.commit(work, "big")
    done = here.push(work)
    assert done.returncode != 0
    assert "maximum allowed size" in done.stdout, done.stdout
    assert here.builds(app) == []
    here.git(work, "reset", "-q", "--hard", "HEAD~1")
    assert here.push(work).returncode == 0


# -- hanging up ---------------------------------------------------------------------------------


def test_a_client_that_hangs_up_changes_nothing_for_the_deploy(
    here: Place, app: str, work: Path
) -> None:
    """It is noticed within seconds though nothing is said; the build goes on and the branch follows."""
    here.workers.go.clear()
    push = here.begin_push(work)
    wait_for(lambda: [b.state for b in here.builds(app)] == [BuildState.RUNNING])
    hang_up(push)
    wait_for(lambda: here.builds(app)[0].push_until == 0, timeout=30)
    here.workers.go.set()
    wait_for(lambda: [r.state for r in here.releases(app)] == [ReleaseState.LIVE])
    here.reconcile()
    assert here.branch(app) == here.builds(app)[0].commit
    wait_for(lambda: git_processes(here, app) == [])


def test_an_upload_that_is_cut_short_leaves_nothing(
    here: Place, app: str, work: Path, tokens: dict[str, str]
) -> None:
    """Neither a branch nor a build nor a process."""
    here.repos.ensure(app, 10_000)
    head = f"{'0' * 40} {'a' * 40} refs/heads/main\0report-status".encode()
    body = b"%04x%s0000PACK" % (len(head) + 4, head)
    with socket.create_connection(("127.0.0.1", here.settings.web_port)) as raw:
        raw.sendall(
            f"POST /{app}.git/git-receive-pack HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {tokens['ada']}\r\nContent-Length: 1000000\r\n"
            f"Content-Type: {PACKET.format('receive-pack')}\r\n\r\n".encode()
            + body
        )
        wait_for(lambda: git_processes(here, app))
    wait_for(lambda: git_processes(here, app) == [])
    assert (here.branch(app), here.builds(app)) == (None, [])
    assert here.push(work).returncode == 0


def git_processes(here: Place, app: str) -> list[int]:
    """The pids of git's processes in an app's repository."""
    path = str(here.repos.path(app)).encode()
    found = []
    for one in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path in one.read_bytes():
                found.append(int(one.parent.name))
        except OSError:
            continue
    return found


def test_a_web_process_that_is_killed_leaves_builds_alone(
    here: Place, app: str, work: Path
) -> None:
    """After kill -9 in the middle of a push the release goes live; a push again joins it."""
    here.workers.go.clear()
    push = here.begin_push(work)
    wait_for(lambda: [b.state for b in here.builds(app)] == [BuildState.RUNNING])
    kill_tree(here.web.pid)  # type: ignore[attr-defined]
    here.web.wait(20)  # type: ignore[attr-defined]
    push.communicate(timeout=20)
    assert push.returncode != 0
    start_web(here)
    again = here.begin_push(work)
    assert again.stdout
    assert any("is under way" in line for line in iter(again.stdout.readline, ""))
    here.workers.go.set()
    again.communicate(timeout=20)
    assert again.returncode == 0
    [build] = here.builds(app)
    assert here.branch(app) == build.commit


def kill_tree(pid: int) -> None:
    """kill -9 a process and its children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for one in (pid, *map(int, children)):
        os.kill(one, signal.SIGKILL)


# -- refusals -----------------------------------------------------------------------------------


def ask(
    here: Place, method: str, path: str, token: str = "", body: bytes = b"", **headers: str
) -> tuple[int, str, str]:
    """A request by hand: status, kind, body."""
    connection = http.client.HTTPConnection("127.0.0.1", here.settings.web_port, timeout=20)
    sent = {key.replace("_", "-"): value for key, value in headers.items()}
    if token:
        sent["Authorization"] = f"Bearer {token}"
    connection.request(method, path, body=body or None, headers=sent)
    answer = connection.getresponse()
    found = answer.read().decode(errors="replace")
    connection.close()
    return answer.status, answer.headers.get_content_type(), found


ADVERTISED = "/{}.git/info/refs?service=git-receive-pack"


def test_a_token_is_asked_for(here: Place, app: str, work: Path) -> None:
    """Without one and with a wrong one: 401, a word on how to get one, and nothing about the app."""
    plain = f"http://127.0.0.1:{here.settings.web_port}/{app}.git"
    done = here.git(work, "push", plain, "main")
    assert done.returncode != 0
    for token in ("", "wrong"):
        status, kind, body = ask(here, "GET", ADVERTISED.format(app), token)
        assert (status, kind) == (401, "text/plain")
        assert "shipway tokens:create" in body
    done = here.git(work, "push", url(here, app, "wrong"), "main")
    assert "Authentication failed" in done.stdout


def test_an_unknown_app_is_named(here: Place, work: Path, tokens: dict[str, str]) -> None:
    """The client shows the sentence."""
    done = here.git(work, "push", url(here, "nosuchapp", tokens["ada"]), "main")
    assert done.returncode != 0
    assert "remote: There is no app 'nosuchapp'." in done.stdout


def test_a_token_without_rights_is_told(
    here: Place, app: str, work: Path, tokens: dict[str, str]
) -> None:
    """403 in words; nothing changed, nothing read."""
    done = here.git(work, "push", url(here, app, tokens["eve"]), "main")
    assert done.returncode != 0
    assert f"remote: You have no access to the app '{app}'" in done.stdout
    for service in ("receive-pack", "upload-pack"):
        path = f"/{app}.git/git-{service}"
        kind = PACKET.format(service)
        status, _, _ = ask(here, "POST", path, tokens["eve"], b"0000", Content_Type=kind)
        assert status == 403
    assert here.builds(app) == []


@pytest.mark.parametrize(
    "bad", ["a;id", "$(id)", "-x", "..", "%2e%2e", "x" * 64, "%EF%BD%81pp", "a%2Fb", "a%1b[2J", "A"]
)
def test_bad_app_names_are_refused(here: Place, bad: str, tokens: dict[str, str]) -> None:
    """400 or 404 with one printable line, and no file anywhere."""
    before = sorted(here.settings.repos.glob("*")) if here.settings.repos.exists() else []
    status, _, body = ask(here, "GET", ADVERTISED.format(bad), tokens["ada"])
    assert status in (400, 404)
    assert body.strip().isprintable() or "<html" in body
    assert sorted(here.settings.repos.glob("*")) == before


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/{}.git/info/refs"),
        ("GET", "/{}.git/info/refs?service=git-upload-archive"),
        ("GET", "/{}.git/HEAD"),
        ("GET", "/{}.git/objects/info/packs"),
        ("GET", "/{}.git/config"),
        ("GET", "/{}.git/git-receive-pack"),
        ("POST", "/{}.git/git-upload-archive"),
        ("POST", "/{}.git/git-receive-pack"),
    ],
)
def test_only_the_smart_protocol_is_served(
    here: Place, app: str, work: Path, tokens: dict[str, str], method: str, path: str
) -> None:
    """No file of a repository can be had, and no other service."""
    status, _, body = ask(here, method, path.format(app), tokens["ada"])
    assert status in (400, 404, 405), body
    assert "ref: refs/" not in body


def test_a_compressed_request_is_understood(
    here: Place, app: str, work: Path, tokens: dict[str, str]
) -> None:
    """Clients compress what they say in a fetch; a body that lies about it is an end of input for git."""
    here.push(work)
    asked = b"0014command=ls-refs\n0000"
    path, kind = f"/{app}.git/git-upload-pack", PACKET.format("upload-pack")
    common = {"Content_Type": kind, "Git_Protocol": "version=2", "Content_Encoding": "gzip"}
    status, _, body = ask(here, "POST", path, tokens["ada"], gzip.compress(asked), **common)
    assert (status, "refs/heads/main" in body) == (200, True)
    status, _, body = ask(here, "POST", path, tokens["ada"], b"no gzip at all", **common)
    assert (status, "refs/heads/main" in body) == (200, False)
    wait_for(lambda: git_processes(here, app) == [])


def test_a_client_that_asks_first_may_go_on(
    here: Place, app: str, work: Path, tokens: dict[str, str]
) -> None:
    """`Expect: 100-continue` is answered before the body is sent."""
    here.push(work)
    asked = b"0014command=ls-refs\n0000"
    with socket.create_connection(("127.0.0.1", here.settings.web_port)) as raw:
        raw.settimeout(10)
        raw.sendall(
            f"POST /{app}.git/git-upload-pack HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Authorization: Bearer {tokens['ada']}\r\nContent-Length: {len(asked)}\r\n"
            f"Content-Type: {PACKET.format('upload-pack')}\r\nGit-Protocol: version=2\r\n"
            "Expect: 100-continue\r\nConnection: close\r\n\r\n".encode()
        )
        assert raw.recv(100).startswith(b"HTTP/1.1 100")
        raw.sendall(asked)
        answer = b""
        while data := raw.recv(65536):
            answer += data
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"refs/heads/main" in answer
