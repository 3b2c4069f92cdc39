"""Pushes and commands over SSH with stock clients; only the workers are played by a thread."""

import asyncio
import os
import re
import signal
import stat
import subprocess
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest
from sqlalchemy import func, select, update

from pushing import Place, connects, hang_up, place, wait_for
from shipway.platform.models import Token
from shipway.platform.states import BuildState, ReleaseState

DECLINED = "(pre-receive hook declined)"


@pytest.fixture(scope="module")
def here() -> Iterator[Place]:
    """One SSH server for all tests of this file; each has an app of its own."""
    with place(push_size=8 << 20) as found:
        found.server = found.start_ssh()  # type: ignore[attr-defined]
        yield found


@pytest.fixture(autouse=True)
def all_goes_well(here: Place) -> Iterator[None]:
    """Each test starts with workers that succeed at once."""
    here.workers.outcome = "live"
    here.workers.go.set()
    yield
    here.workers.go.set()


def name(test: object) -> str:
    """An app name made of a test's."""
    return re.sub(r"[^a-z0-9]+", "-", str(test).removeprefix("test_"))[:29].strip("-")


@pytest.fixture
def app(request: pytest.FixtureRequest) -> str:
    """The name of this test's app."""
    return f"{name(request.node.name)[:22].rstrip('-')}-{zlib.crc32(request.node.name.encode()):x}"[
        :30
    ]


@pytest.fixture
def work(here: Place, app: str) -> Path:
    """A working copy with one commit, whose app is there and has nothing yet."""
    return here.work(app)


# -- going live ---------------------------------------------------------------------------------


def test_a_push_goes_live(here: Place, app: str, work: Path) -> None:
    """What the build says is told with git's prefix; the first branch becomes the deploy branch and moves."""
    done = here.push(work)
    said = [line.strip() for line in done.stdout.splitlines() if line.startswith("remote:")]
    assert done.returncode == 0
    assert said == [
        "remote: -----> Set main as deploy branch",
        "remote: -----> Building on the test stack",
        f"remote:        of {here.builds(app)[0].commit}",
        "remote: -----> Launching...",
        "remote:        Released v1",
        f"remote:        http://{app}.localhost/ deployed to Shipway",
        "remote: Verifying deploy... done.",
    ]
    [build] = here.builds(app)
    assert (here.branch(app), build.ref_moved) == (build.commit, True)


def test_a_failed_build_declines_the_push(here: Place, app: str, work: Path) -> None:
    """The reason is told, git shows the push as rejected, the branch stays; the next push starts from there."""
    here.push(work)
    before = here.branch(app)
    here.workers.outcome = "build-fails"
    here.commit(work, "broken")
    done = here.push(work)
    assert done.returncode == 1
    assert done.stdout.count("No Procfile was found.") == 1
    assert f"! [remote rejected] main -> main {DECLINED}" in done.stdout
    assert here.branch(app) == before
    here.workers.outcome = "live"
    assert here.push(work).returncode == 0
    assert here.branch(app) != before


def test_a_failed_deploy_declines_the_push(here: Place, app: str, work: Path) -> None:
    """An instance that crashes at boot says why, and the push is rejected."""
    here.workers.outcome = "deploy-fails"
    done = here.push(work)
    assert (done.returncode, DECLINED in done.stdout) == (1, True)
    assert "web.1 crashed with status 3." in done.stdout
    assert here.branch(app) is None


def test_the_same_commit_again_is_up_to_date(here: Place, app: str, work: Path) -> None:
    """Git says so and nothing happens."""
    here.push(work)
    done = here.push(work)
    assert (done.returncode, done.stdout.strip()) == (0, "Everything up-to-date")
    assert len(here.builds(app)) == 1


def test_a_force_push_of_an_older_commit_goes_live(here: Place, app: str, work: Path) -> None:
    """Rolling back by a push needs no new object."""
    here.push(work)
    first = here.branch(app)
    here.commit(work, "second")
    here.push(work)
    done = here.push(work, "-f", f"{first}:main")
    assert (done.returncode, here.branch(app)) == (0, first)
    assert len(here.releases(app)) == 3


def test_clone_and_fetch(here: Place, app: str, work: Path) -> None:
    """What was pushed can be had back, the deploy branch checked out; refs of builds are not shown."""
    here.git(work, "branch", "-m", "main", "trunk")
    assert here.push(work, "trunk").returncode == 0
    done = here.git(here.folder, "clone", "-q", here.url(app), f"copy-{app}")
    assert done.returncode == 0, done.stdout
    copy = here.folder / f"copy-{app}"
    assert here.git(copy, "branch", "--show-current").stdout.strip() == "trunk"
    assert "refs/builds" not in here.git(copy, "ls-remote").stdout


def test_lines_are_told_as_they_come(here: Place, work: Path) -> None:
    """The first line is there while the build is still under way."""
    here.workers.go.clear()
    push = here.begin_push(work)
    read_until(push, "Building on the test stack")
    assert push.poll() is None
    here.workers.go.set()
    push.communicate(timeout=20)
    assert push.returncode == 0


# -- branches and tags --------------------------------------------------------------------------


def test_another_branch_is_taken_and_not_deployed(here: Place, app: str, work: Path) -> None:
    """A line explains and shows the command that would deploy it."""
    here.push(work)
    done = here.push(work, "main:feature")
    assert done.returncode == 0
    assert f"WARNING: feature was not deployed: the deploy branch of {app} is main" in done.stdout
    assert "git push shipway feature:main" in done.stdout
    assert here.branch(app, "feature") == here.branch(app)
    assert len(here.builds(app)) == 1
    assert here.push(work, ":feature").returncode == 0
    assert here.branch(app, "feature") is None


def test_main_wins_among_several_first_branches(here: Place, app: str, work: Path) -> None:
    """Others that come along are stored."""
    here.git(work, "branch", "alpha")
    here.git(work, "tag", "v1")
    done = here.push(work, "alpha", "main", "v1")
    assert done.returncode == 0, done.stdout
    assert "Set main as deploy branch" in done.stdout
    assert "alpha was not deployed" in done.stdout
    assert here.branch(app) == here.branch(app, "alpha") is not None
    assert here.repos.branch(app, "refs/tags/v1") == here.branch(app)
    assert len(here.builds(app)) == 1


def test_a_failed_deploy_takes_nothing_of_its_push(here: Place, app: str, work: Path) -> None:
    """Branches and tags that came along are declined with it."""
    here.workers.outcome = "build-fails"
    here.git(work, "branch", "alpha")
    assert here.push(work, "alpha", "main").returncode == 1
    assert here.branch(app, "alpha") is None


def test_an_atomic_push_goes_live(here: Place, app: str, work: Path) -> None:
    """`git push --atomic` of several refs moves them all."""
    here.git(work, "tag", "v1")
    done = here.push(work, "--atomic", "main", "v1", "main:other")
    assert done.returncode == 0, done.stdout
    assert here.branch(app) == here.branch(app, "other") is not None


def test_tags_alone_are_taken(here: Place, app: str, work: Path) -> None:
    """No deploy, no words."""
    here.git(work, "tag", "v1")
    done = here.push(work, "v1")
    assert (done.returncode, "remote:" in done.stdout) == (0, False)
    assert here.builds(app) == []


def test_the_deploy_branch_cannot_be_deleted(here: Place, app: str, work: Path) -> None:
    """One clear line, and it stands where it stood."""
    here.push(work)
    before = here.branch(app)
    done = here.push(work, ":main")
    assert (done.returncode, DECLINED in done.stdout) == (1, True)
    assert f"main is the deploy branch of {app} and cannot be deleted." in done.stdout
    assert here.branch(app) == before


def test_a_tag_object_is_no_commit(here: Place, app: str, work: Path) -> None:
    """A branch stands at commits only."""
    here.git(work, "-c", "user.name=T", "-c", "user.email=t@l", "tag", "-a", "-m", "x", "note")
    here.push(work)
    done = here.push(work, "-f", "note^{}:main", "refs/tags/note:refs/heads/odd")
    assert done.returncode != 0, done.stdout
    assert here.branch(app, "odd") is None


# -- several at once ----------------------------------------------------------------------------


def test_a_push_waits_for_the_build_before_it(here: Place, app: str, work: Path) -> None:
    """It says which; both go live, and the branch stands at the newer."""
    here.workers.go.clear()
    first = here.begin_push(work)
    wait_for(lambda: [b.state for b in here.builds(app)] == [BuildState.RUNNING])
    newer = here.commit(work, "newer")
    second = here.begin_push(work)
    wait_for(lambda: len(here.builds(app)) == 2)
    here.workers.go.set()
    out = second.communicate(timeout=20)[0]
    assert f"Waiting for build {here.builds(app)[0].id} of this app to end" in out
    assert (first.wait(20), second.returncode) == (0, 0), out
    assert here.branch(app) == newer
    first.communicate()


def test_a_newer_push_supersedes_one_that_waits(here: Place, app: str, work: Path) -> None:
    """Of three pushes the middle one is never built, and is told so."""
    here.workers.go.clear()
    pushes = []
    for count in (1, 2, 3):
        last = here.commit(work, f"number {count}")
        pushes.append(here.begin_push(work))
        wait_for(lambda count=count: len(here.builds(app)) == count)
    wait_for(lambda: here.builds(app)[1].state == BuildState.SUPERSEDED)
    here.workers.go.set()
    outs = [push.communicate(timeout=20)[0] for push in pushes]
    assert [push.returncode for push in pushes] == [0, 1, 0], outs
    assert outs[1].count("Superseded by a newer push.") == 1
    assert here.branch(app) == last


def test_parallel_pushes_to_many_apps(here: Place, app: str) -> None:
    """Eight people push at once, and each hears of their own app only."""
    works = {f"{app[:20]}-{n}": here.work(f"{app[:20]}-{n}") for n in range(8)}
    pushes = {one: here.begin_push(work) for one, work in works.items()}
    for one, push in pushes.items():
        out = push.communicate(timeout=60)[0]
        assert push.returncode == 0, out
        assert f"http://{one}.localhost/ deployed to Shipway" in out
        assert here.builds(one)[0].commit in out


# -- hanging up and dying -----------------------------------------------------------------------


def test_a_client_that_hangs_up_changes_nothing_for_the_deploy(
    here: Place, app: str, work: Path
) -> None:
    """The build goes on; the branch is moved once the release is live, without the client."""
    here.workers.go.clear()
    push = here.begin_push(work)
    wait_for(lambda: [b.state for b in here.builds(app)] == [BuildState.RUNNING])
    hang_up(push)
    wait_for(lambda: here.builds(app)[0].push_until == 0)
    here.reconcile()
    assert here.branch(app) is None
    here.workers.go.set()
    wait_for(lambda: [r.state for r in here.releases(app)] == [ReleaseState.LIVE])
    here.reconcile()
    [build] = here.builds(app)
    assert (here.branch(app), build.ref_moved) == (build.commit, True)
    assert here.push(work).stdout.strip() == "Everything up-to-date"


def test_a_push_again_joins_its_build(here: Place, app: str, work: Path) -> None:
    """Somebody who hung up and pushes the same commit again hears the whole story of the one build."""
    here.workers.go.clear()
    push = here.begin_push(work)
    wait_for(lambda: [b.state for b in here.builds(app)] == [BuildState.RUNNING])
    hang_up(push)
    again = here.begin_push(work)
    read_until(again, "Building on the test stack")
    here.workers.go.set()
    assert again.communicate(timeout=20)[0].endswith(" * [new branch]      main -> main\n")
    assert again.returncode == 0
    [build] = here.builds(app)
    assert here.branch(app) == build.commit


def read_until(push: "subprocess.Popen[str]", text: str) -> None:
    """Return once the push has said `text`."""
    assert push.stdout
    for line in push.stdout:
        if text in line:
            return
    raise AssertionError(f"the push ended without {text!r}")


def test_a_server_that_is_killed_leaves_builds_alone(here: Place, app: str, work: Path) -> None:
    """After kill -9 in the middle the release goes live, the branch follows, and the next push works."""
    here.workers.go.clear()
    push = here.begin_push(work)
    wait_for(lambda: [b.state for b in here.builds(app)] == [BuildState.RUNNING])
    restart(here, signal.SIGKILL)
    out = push.communicate(timeout=20)[0]
    assert push.returncode != 0, out
    here.workers.go.set()
    wait_for(lambda: [r.state for r in here.releases(app)] == [ReleaseState.LIVE])
    with here.store.transaction() as db:  # the killed server's 30 seconds are over
        db.execute(update(type(here.builds(app)[0])).values(push_until=0.0))
    here.reconcile()
    assert here.branch(app) == here.builds(app)[0].commit
    here.commit(work, "next")
    assert here.push(work).returncode == 0


def test_a_server_that_is_stopped_says_goodbye(here: Place, work: Path, app: str) -> None:
    """SIGTERM: sessions have some seconds to end, then are told that their build goes on."""
    here.workers.go.clear()
    push = here.begin_push(work)
    wait_for(lambda: [b.state for b in here.builds(app)] == [BuildState.RUNNING])
    restart(here, signal.SIGTERM)
    out = push.communicate(timeout=20)[0]
    assert push.returncode != 0
    assert "A build that was begun goes on" in out, out
    assert here.builds(app)[0].state == BuildState.RUNNING


def test_a_push_that_dies_in_its_upload_leaves_nothing(here: Place, app: str, work: Path) -> None:
    """The server is killed while the pack comes in: no branch, no build, a sound repository, and then a good push."""
    (work / "big").write_bytes(os.urandom(7 << 20))
    here.commit(work, "big")
    slow = {**here.git_environ(), "GIT_SSH_COMMAND": slow_ssh(here, 2 << 20)}
    push = subprocess.Popen(
        ["git", "push", "shipway", "main"], cwd=work, env=slow, stdout=-3, stderr=-3
    )
    path = here.repos.path(app)
    wait_for(lambda: received(path) > 1 << 20)
    restart(here, signal.SIGKILL)
    assert push.wait(20) != 0
    assert (here.branch(app), here.builds(app)) == (None, [])
    assert here.git(path, "fsck").returncode == 0
    assert here.push(work).returncode == 0


def restart(here: Place, number: int) -> None:
    """End the SSH server by a signal, and start another once its port is free."""
    here.server.send_signal(number)  # type: ignore[attr-defined]
    here.server.wait(20)  # type: ignore[attr-defined]
    wait_for(lambda: not connects(here.settings.ssh_port))
    here.server = here.start_ssh()  # type: ignore[attr-defined]


def slow_ssh(here: Place, rate: int) -> str:
    """An ssh whose input is passed on at `rate` bytes a second."""
    script = here.folder / "slow-ssh"
    script.write_text(
        "#!/bin/sh\n"
        "perl -e '$|=1; while (sysread(STDIN, my $b, 65536)) { print $b;"
        f" select(undef, undef, undef, length($b)/{rate}) }}'"
        f' | exec {" ".join(here.ssh_argv())} "$@"\n'
    )
    script.chmod(stat.S_IRWXU)
    return str(script)


def received(repository: Path) -> int:
    """Bytes that lie in a repository's object store."""
    total = 0
    for top, _, names in os.walk(repository / "objects"):
        for one in names:
            try:
                total += os.stat(os.path.join(top, one)).st_size
            except FileNotFoundError:
                pass
    return total


# -- refusals -----------------------------------------------------------------------------------


def test_an_unknown_app_is_named(here: Place, app: str, work: Path) -> None:
    """One clear line, not a word of git's, exit code ≠ 0."""
    done = here.git(work, "push", here.url("nosuchapp"), "main")
    assert done.returncode != 0
    assert " !     There is no app 'nosuchapp'." in done.stdout


def test_a_key_without_rights_is_told(here: Place, app: str, work: Path) -> None:
    """Another user's push changes nothing; nor may they read."""
    done = here.push(work, user="eve")
    assert done.returncode != 0
    assert f" !     You have no access to the app '{app}'" in done.stdout
    assert here.builds(app) == []
    assert here.git(work, "fetch", "shipway", user="eve").returncode != 0


def test_an_unknown_key_is_not_let_in(here: Place) -> None:
    """No user, no session."""
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(here.folder / "mallory")],
        check=True,
    )
    done = here.ssh("apps", user="mallory")
    assert done.returncode == 255
    assert "Permission denied" in done.stderr


@pytest.mark.parametrize(
    "bad", ["a;id", "$(id)", "-x", "..", "x" * 64, "ａpp", "../../etc", "a/b", "A", "", "a\x1b[2J"]
)
def test_bad_app_names_are_refused(here: Place, bad: str) -> None:
    """Whatever stands in the path of a git URL: one printable line, and no file anywhere."""
    before = sorted(here.settings.repos.glob("*"))
    done = here.ssh(f"git-receive-pack '{bad}'")
    assert done.returncode != 0
    assert done.stderr.startswith(" !     ")
    assert done.stderr.count("\n") == 1
    assert done.stderr.strip("\n").isprintable(), done.stderr
    assert sorted(here.settings.repos.glob("*")) == before


@pytest.mark.parametrize(
    "command",
    [
        "git-shell",
        "git-upload-archive /hello",
        "git status",
        "git",
        "git-receive-pack",
        "git-receive-pack /a /b",
        "git-receive-pack --help",
        "git-upload-pack --timeout=0 /a",
        "git-receive-pack 'a",
    ],
)
def test_only_pushes_and_fetches_are_served(here: Place, command: str) -> None:
    """No other service of git's, no option of theirs."""
    done = here.ssh(command)
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.startswith(" !     "), done.stderr


@pytest.mark.parametrize(
    ("command", "usage"),
    [
        ("help", "shipway [OPTIONS] [COMMAND] [ARGS]..."),
        ("--help", "shipway [OPTIONS] [COMMAND] [ARGS]..."),
        ("help ps", "shipway ps [OPTIONS] [APP]"),
        ("ps --help", "shipway ps [OPTIONS] [APP]"),
    ],
)
def test_help_names_the_program(here: Place, command: str, usage: str) -> None:
    """Help over SSH has the same usage lines as on one's own machine."""
    done = here.ssh("--", command)  # or the client takes --help for itself
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"Usage: {usage}"


@pytest.mark.parametrize("args", [[], ["-s", "sftp"]])
def test_there_is_no_shell(here: Place, args: list[str]) -> None:
    """Neither a shell nor a subsystem; a login without a command says what can be done."""
    argv = [
        *here.ssh_argv(),
        "-p",
        str(here.settings.ssh_port),
        *args[:1],
        "x@127.0.0.1",
        *args[1:],
    ]
    done = subprocess.run(argv, capture_output=True, text=True, stdin=-3, timeout=20)
    assert done.returncode != 0
    assert done.stdout == ""
    if not args:
        assert "Hello ada, your key works. There is no shell here" in done.stderr


def test_ports_are_not_forwarded(here: Place) -> None:
    """A tunnel would lead to the platform's own ports."""
    argv = [
        *here.ssh_argv(),
        "-p",
        str(here.settings.ssh_port),
        "-W",
        "127.0.0.1:22",
        "x@127.0.0.1",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, stdin=-3, timeout=20)
    assert done.returncode != 0


# -- commands -----------------------------------------------------------------------------------


def test_a_command_runs_as_its_user_without_a_shell(here: Place) -> None:
    """The command line gets the words as they are and a token that is gone with the session."""
    here.ssh("apps", "$(touch /tmp/sw-pwned)", ";", "id")
    assert not Path("/tmp/sw-pwned").exists()
    with here.store.reading() as db:
        left = db.scalar(select(func.count()).where(Token.name.startswith("ssh session")))
    assert left == 0


# -- hostile content ----------------------------------------------------------------------------


def tree(here: Place, work: Path, *entries: tuple[str, bytes, str]) -> str:
    """The id of a tree object made byte by byte: (mode, name, object id) each."""
    raw = b"".join(
        mode.encode() + b" " + path + b"\0" + bytes.fromhex(oid) for mode, path, oid in entries
    )
    return write(here, work, "tree", raw)


def write(here: Place, work: Path, kind: str, raw: bytes) -> str:
    """Write any object, sound or not."""
    argv = ["git", "hash-object", "-w", "-t", kind, "--literally", "--stdin"]
    done = subprocess.run(
        argv, cwd=work, env=here.git_environ(), input=raw, capture_output=True, check=True
    )
    return done.stdout.decode().strip()


def commit_of(here: Place, work: Path, tree_id: str) -> str:
    """A commit of a tree."""
    who = b"T <t@l> 1700000000 +0000"
    raw = b"tree %s\nauthor %s\ncommitter %s\n\nx\n" % (tree_id.encode(), who, who)
    return write(here, work, "commit", raw)


def hostile(here: Place, work: Path, kind: str) -> str:
    """A commit whose tree is of the kind named."""
    blob = write(here, work, "blob", b"#!/bin/sh\ntouch /tmp/sw-pwned\n")
    modules = write(here, work, "blob", b'[submodule "a"]\n\tpath = a\n\turl = -u./payload\n')
    inner = tree(here, work, ("100755", b"x", blob))
    hooks = tree(here, work, ("40000", b"hooks", inner))
    made = {
        "parent": [("40000", b"..", inner)],
        "git": [("40000", b".git", hooks)],
        "GIT": [("40000", b".GIT", hooks)],
        "slash": [("100644", b"a/b", blob)],
        "twice": [("100644", b"f", blob), ("100644", b"f", blob)],
        "modules": [("100644", b".gitmodules", modules)],
        "linked": [("120000", b".gitmodules", blob)],
        "empty": [("100644", b"", blob)],
        "odd": [("100644", b"a\nb", blob), ("100644", b"c\x1b[2J", blob)],
        "padded": [("040000", b"d", inner)],
    }
    return commit_of(here, work, tree(here, work, *made[kind]))


@pytest.mark.parametrize(
    "kind", ["parent", "git", "GIT", "slash", "twice", "modules", "linked", "empty"]
)
def test_hostile_trees_are_refused(here: Place, app: str, work: Path, kind: str) -> None:
    """Git's own check refuses them before anything is queued."""
    bad = hostile(here, work, kind)
    done = here.push(work, f"{bad}:refs/heads/main")
    assert done.returncode != 0, done.stdout
    assert (here.branch(app), here.builds(app)) == (None, [])
    assert not here.repos.has_commit(app, bad)


@pytest.mark.parametrize("kind", ["odd", "padded"])
def test_odd_but_honest_trees_are_taken(here: Place, app: str, work: Path, kind: str) -> None:
    """File names with control characters, and modes that old tools wrote."""
    odd = hostile(here, work, kind)
    assert here.push(work, f"{odd}:refs/heads/main").returncode == 0
    assert here.branch(app) == odd


@pytest.mark.parametrize(
    "ref", ["refs/internal/x", "refs/builds/1", "refs/notes/x", "refs/for/main"]
)
def test_refs_elsewhere_are_refused(here: Place, app: str, work: Path, ref: str) -> None:
    """Only branches and tags."""
    done = here.push(work, f"main:{ref}")
    assert (done.returncode, "remote rejected" in done.stdout) == (1, True), done.stdout
    assert here.repos.branch(app, ref) is None


@pytest.mark.parametrize("ref", ["refs/heads/../../x", "refs/heads/a..b", "refs/heads/x\x1b[2J"])
def test_refs_that_no_client_sends_are_refused(here: Place, app: str, work: Path, ref: str) -> None:
    """A client of somebody's own making gets no further, and hears no control characters."""
    here.push(work)
    head = here.branch(app)
    line = f"{'0' * 40} {head} {ref}\0report-status side-band-64k".encode()
    empty_pack = bytes.fromhex("5041434b0000000200000000029d08823bd8a8eab510ad6ac75c823cfd3ed31e")
    argv = [*here.ssh_argv(), "-p", str(here.settings.ssh_port), "x@127.0.0.1"]
    done = subprocess.run(
        [*argv, f"git-receive-pack '/{app}'"],
        input=b"%04x%s0000" % (len(line) + 4, line) + empty_pack,
        capture_output=True,
        timeout=20,
    )
    assert b"is no valid name of a branch or tag" in done.stdout, done
    ours, _, _ = done.stdout.partition(
        b"unpack ok"
    )  # git's own report, after it, repeats the client's words
    assert b"\x1b" not in ours
    assert not list(here.settings.data.rglob("x"))


def test_ten_thousand_refs_are_refused(here: Place, app: str, work: Path) -> None:
    """At once and with the limit named."""
    head = here.git(work, "rev-parse", "HEAD").stdout.strip()
    lines = [f"{head} refs/heads/b{n:05}\n" for n in range(10_000)]
    (work / ".git/packed-refs").write_text("# pack-refs with: sorted\n" + "".join(lines))
    done = here.push(work, "refs/heads/*:refs/heads/*")
    assert done.returncode == 1
    assert "at most 1000 go at once" in done.stdout
    assert (here.branch(app, "b00000"), here.builds(app)) == (None, [])


def test_a_pack_beyond_the_limit_is_refused(here: Place, app: str, work: Path) -> None:
    """Git says that it is too large; nothing of it stays, and the next push works."""
    (work / "big").write_bytes(os.urandom(9 << 20))
    here.commit(work, "big")
    done = here.push(work)
    assert done.returncode != 0
    assert "maximum allowed size" in done.stdout, done.stdout
    assert here.builds(app) == []
    here.git(work, "reset", "-q", "--hard", "HEAD~1")
    assert here.push(work).returncode == 0
    assert received(here.repos.path(app)) < 1 << 20


def test_redis_may_be_gone(app: str) -> None:
    """A push is taken, told and finished with Redis dead, only slower."""
    with place() as alone:
        alone.start_ssh()
        alone.redis.kill()
        alone.redis.wait()
        work = alone.work(app)
        begun = time.monotonic()
        done = alone.push(work)
        assert done.returncode == 0, done.stdout
        assert time.monotonic() - begun < 10


def test_sessions_of_one_connection_are_limited(here: Place, app: str, work: Path) -> None:
    """Ten at once; the eleventh is refused, and one that ends makes room."""

    async def run() -> None:
        async with asyncssh.connect(
            "127.0.0.1",
            here.settings.ssh_port,
            username="x",
            client_keys=[str(here.folder / "ada")],
            known_hosts=None,
            config=None,
        ) as connection:

            async def begin() -> "asyncssh.SSHClientProcess[bytes]":
                process = await connection.create_process(f"git-receive-pack /{app}", encoding=None)
                assert await process.stdout.read(4)
                return process

            held = [await begin() for _ in range(10)]
            with pytest.raises(asyncssh.ChannelOpenError):
                await begin()
            held[0].stdin.write(b"0000")
            await held[0].wait_closed()
            await begin()

    asyncio.run(run())


def test_keys_are_not_tried_without_end(here: Place) -> None:
    """A client with a hundred unknown keys is sent away after some."""

    async def run() -> None:
        keys = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(30)]
        with pytest.raises(asyncssh.DisconnectError, match="Too many keys"):
            await asyncssh.connect(
                "127.0.0.1",
                here.settings.ssh_port,
                username="x",
                client_keys=keys,
                known_hosts=None,
                config=None,
            )

    asyncio.run(run())
