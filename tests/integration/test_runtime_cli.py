"""`shipway runtime` as a command: a container's life from a shell, with and without a terminal."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import support
from enginelab import IMAGE, Lab, eventually, open_lab
from runtimecli import argv, call, ok, terminal
from shipway.runtime.images.store import ImageConfig

DETACH = "\x10\x11"


@pytest.fixture(scope="module")
def module_lab() -> Iterator[Lab]:
    """One engine for all tests of this file, with an image of other defaults than the stack's."""
    with open_lab(__name__) as lab:
        stack = lab.engine.images.get(IMAGE)
        config = ImageConfig(
            env={"FROM": "image"},
            entrypoint=("sh", "-c"),
            cmd=("echo $FROM $(id -un) $(pwd)",),
            working_dir="/made/for/it",
            user="games:audio",
        )
        lab.engine.images.write(stack.layers, config, "test/defaults:1")
        yield lab


@pytest.fixture
def lab(module_lab: Lab) -> Iterator[Lab]:
    """The engine, and a check that each test's containers leave nothing when removed."""
    yield module_lab
    module_lab.clear()


def states(lab: Lab) -> dict[str, str]:
    """The containers and their states."""
    return {container.id: container.state for container in lab.engine.list()}


# -- run ----------------------------------------------------------------------------------------


def test_run_streams_output_and_exits_as_the_program(lab: Lab) -> None:
    """stdout and stderr come apart, the exit code is the program's, --rm leaves nothing."""
    done = call(lab, "run", "--rm", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 7)
    assert states(lab) == {}


def test_what_was_shown_is_in_the_log(lab: Lab) -> None:
    """A foreground container without --rm stays, exited, and its output is in its log."""
    assert ok(lab, "run", "--name", "fore", IMAGE, "echo", "kept") == "kept\n"
    assert states(lab) == {"fore": "stopped"}
    assert lab.engine.log_path("fore").read_text().endswith(" stdout F kept\n")


def test_input_is_piped_through_as_it_is(lab: Lab) -> None:
    """Binary input comes out unchanged, and the end of it ends the program; without -i there is none."""
    data = os.urandom(300_000)
    done = subprocess.run(
        argv(lab, "run", "--rm", "-i", IMAGE, "cat"), input=data, capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout == data) == (0, True), done.stderr
    assert ok(lab, "run", "--rm", IMAGE, "cat", input="unread") == ""


def test_exit_codes_of_programs_that_cannot_run(lab: Lab) -> None:
    """127 for a program that is not there, 126 for one that cannot be run, 125 for our own failure."""
    for code, arguments in (
        (127, [IMAGE, "nope"]),
        (126, [IMAGE, "/etc/passwd"]),
        (126, [IMAGE, "/etc"]),
        (125, ["--pull", "never", "no/such:image", "true"]),
        (125, ["--no-such-option", IMAGE]),
        (125, ["--name", "a b", IMAGE]),
        (125, ["-u", "nobody-of-that-name", IMAGE]),
        (125, ["-m", "lots", IMAGE]),
        (125, ["-v", "nonsense", IMAGE]),
        (125, ["--network", "nowhere", IMAGE]),
        (125, ["--stop-signal", "FOO", IMAGE]),
    ):
        done = call(lab, "run", "--rm", *arguments)
        assert done.returncode == code, done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
    assert lab.leftovers() == {}


def test_options_reach_the_container(lab: Lab, tmp_path: Path) -> None:
    """What run is told is what the program finds."""
    (tmp_path / "env").write_text("# a comment\nA=file\nB=two words\n")
    (tmp_path / "bound").mkdir()
    (tmp_path / "bound/file").write_text("seen")
    script = (
        "echo $A $B $HOSTNAME_; hostname; pwd; id -u; id -g; cat /mnt/file; echo;"
        "touch /mnt/x /y 2>/dev/null || echo readonly; stat -f -c %T /scratch; ls /sys/class/net"
    )
    output = ok(
        lab,
        *("run", "--rm", "--read-only", "--network", "none", "-h", "box", "-w", "/usr/share"),
        *(
            "-e",
            "A=option",
            "--env-file",
            str(tmp_path / "env"),
            "-u",
            "12:34",
            "--pids-limit",
            "50",
        ),
        *("-v", f"{tmp_path}/bound:/mnt:ro", "--tmpfs", "/scratch:size=1m", "-m", "64m"),
        *("--cpus", "0.5", "-c", "512", "--label", "x=y", IMAGE, "sh", "-c", script),
    )
    assert output.split("\n")[:9] == [
        "option two words",
        "box",
        "/usr/share",
        "12",
        "34",
        "seen",
        "readonly",
        "tmpfs",
        "lo",
    ]


def test_an_images_defaults_are_combined(lab: Lab) -> None:
    """User, entrypoint, command, folder and environment are the image's where nothing else is said."""
    image = "test/defaults:1"
    assert ok(lab, "run", "--rm", image) == "image games /made/for/it\n"
    assert ok(lab, "run", "--rm", image, "echo mine; id -gn") == "mine\naudio\n"
    assert (
        ok(lab, "run", "--rm", "--entrypoint", "pwd", "-w", "/new/place", image) == "/new/place\n"
    )
    assert ok(lab, "run", "--rm", "-e", "FROM=me", "-u", "0", image) == "me root /made/for/it\n"


def test_detached_containers_and_their_end(lab: Lab, tmp_path: Path) -> None:
    """-d prints the id and returns; with --rm the container goes by itself once it ends."""
    cidfile = tmp_path / "cid"
    name = ok(lab, "run", "-d", "--rm", "--cidfile", str(cidfile), IMAGE, "sleep", "0.5").strip()
    assert len(name) == 12
    assert cidfile.read_text() == name
    assert call(lab, "run", "--cidfile", str(cidfile), IMAGE, "true").returncode == 125
    eventually(lambda: lab.leftovers() == {}, 20)


def test_a_killed_caller_leaves_nothing(lab: Lab) -> None:
    """After kill -9 of a foreground run --rm the container runs on, and goes when it ends."""
    caller = subprocess.Popen(
        argv(lab, "run", "--rm", "--name", "orphan", IMAGE, "sh", "-c", "echo up; sleep 1.5"),
        stdout=subprocess.PIPE,
    )
    assert caller.stdout
    assert caller.stdout.readline() == b"up\n"
    caller.kill()
    caller.wait()
    assert states(lab) == {"orphan": "running"}
    eventually(lambda: lab.leftovers() == {}, 20)


def test_signals_are_handed_on(lab: Lab) -> None:
    """What the caller is sent reaches the program, unless --no-sig-proxy says otherwise."""
    script = "trap 'echo got; exit 3' TERM; echo up; while :; do sleep 0.01; done"
    caller = subprocess.Popen(
        argv(lab, "run", "--rm", IMAGE, "sh", "-c", script), stdout=subprocess.PIPE
    )
    assert caller.stdout
    assert caller.stdout.readline() == b"up\n"
    caller.terminate()
    assert caller.stdout.read() == b"got\n"
    assert caller.wait(20) == 3


# -- terminals ----------------------------------------------------------------------------------


def test_a_terminal_inside(lab: Lab) -> None:
    """-it: the program has a terminal of our size, follows its changes, and gets keys as pressed."""
    with terminal(lab, "run", "--rm", "-it", IMAGE, "sh", rows=33, columns=99) as shell:
        before = shell.modes()
        shell.expect("$ ")
        shell.type("stty size; echo TERM=$TERM; tty\n")
        shell.expect("33 99")
        shell.expect("TERM=xterm")
        shell.expect("/dev/pts/0")
        assert shell.modes() != before
        shell.resize(44, 111)
        shell.process.send_signal(signal.SIGWINCH)
        shell.type("sleep 0.2; stty size\n")
        shell.expect("44 111")
        shell.type("cat\nline\n")
        shell.expect("line")  # as typed
        shell.expect("line")  # from cat
        shell.type("\x03")
        shell.expect("^C")
        shell.expect("$ ")
        shell.type("exit 5\n")
        assert shell.wait() == 5
        assert shell.modes() == before
    assert states(lab) == {}


def test_detaching_and_attaching_again(lab: Lab) -> None:
    """ctrl-p ctrl-q leaves the container running and the terminal as it was; attach comes back."""
    with terminal(lab, "run", "-it", "--name", "tty", IMAGE, "sh") as shell:
        before = shell.modes()
        shell.expect("$ ")
        shell.type("X=remem; echo be''gun\n")
        shell.expect("begun")
        shell.type(DETACH)
        assert shell.wait() == 0
        assert shell.modes() == before
    assert states(lab) == {"tty": "running"}
    with terminal(lab, "attach", "tty") as shell:
        shell.type("echo ${X}bered\n")
        shell.expect("remembered")
        shell.type("exit 4\n")
        assert shell.wait() == 4
    with terminal(lab, "start", "-ai", "tty") as shell:
        shell.expect("$ ")
        shell.type("echo ag''ain; exit\n")
        shell.expect("again")
        assert shell.wait() == 0


def test_the_terminal_is_put_right_after_a_signal(lab: Lab) -> None:
    """A caller that is told to end in the middle leaves the terminal as it found it."""
    script = "trap 'exit 6' TERM; echo begun; while :; do sleep 0.01; done"
    with terminal(lab, "run", "--rm", "-it", IMAGE, "sh", "-c", script) as shell:
        before = shell.modes()
        shell.expect("begun")
        shell.process.send_signal(signal.SIGTERM)
        assert shell.wait() == 6
        assert shell.modes() == before


def test_a_terminal_needs_one(lab: Lab) -> None:
    """-it without a terminal is refused, before anything is made."""
    done = call(lab, "run", "-it", IMAGE, "sh")
    assert (done.returncode, "not a terminal" in done.stderr) == (125, True)
    assert states(lab) == {}


def test_exec_on_a_terminal(lab: Lab) -> None:
    """exec -it has a terminal of its own; detaching from it leaves the program running."""
    ok(lab, "run", "-d", "--name", "host", IMAGE, "sleep", "100")
    with terminal(lab, "exec", "-it", "host", "sh", rows=21, columns=61) as shell:
        shell.expect("$ ")
        shell.type("stty size; echo $$ > /tmp/pid; echo do''ne\n")
        shell.expect("21 61")
        shell.expect("done")
        shell.type(DETACH)
        assert shell.wait() == 0
    assert ok(lab, "exec", "host", "sh", "-c", "kill -0 $(cat /tmp/pid) && echo alive") == "alive\n"
    with terminal(lab, "exec", "-it", "host", "sh") as shell:
        shell.expect("$ ")
        shell.type("exit 9\n")
        assert shell.wait() == 9


# -- exec ---------------------------------------------------------------------------------------


def test_exec(lab: Lab) -> None:
    """exec passes environment, user, folder, input, output and exit code; 126 and 127 as run."""
    ok(lab, "run", "-d", "--name", "host", "-e", "A=1", IMAGE, "sleep", "100")
    script = "echo $A $B $(id -un) $(pwd); cat; echo err >&2; exit 3"
    done = call(
        lab,
        "exec",
        "-i",
        "-e",
        "B=2",
        "-u",
        "games",
        "-w",
        "/usr",
        "host",
        "sh",
        "-c",
        script,
        input="in",
    )
    assert (done.stdout, done.stderr, done.returncode) == ("1 2 games /usr\nin", "err\n", 3)
    assert call(lab, "exec", "host", "nope").returncode == 127
    assert call(lab, "exec", "host", "/etc/passwd").returncode == 126
    assert call(lab, "exec", "-w", "/proc/self/fd/7", "host", "pwd").returncode == 125
    assert call(lab, "exec", "nobody", "true").returncode == 125
    assert ok(lab, "exec", "-d", "host", "touch", "/tmp/done") == ""
    eventually((lab.engine.files("host").upper / "tmp/done").exists)
    ok(lab, "pause", "host")
    done = call(lab, "exec", "host", "true")
    assert (done.returncode, "paused" in done.stderr) == (125, True)


# -- the rest of a life -------------------------------------------------------------------------


def test_verbs_take_several_names(lab: Lab) -> None:
    """A name that fails is told, the others are done, and the exit code is 1."""
    for name in ("a", "b"):
        assert ok(lab, "create", "--name", name, IMAGE, "sleep", "100") == f"{name}\n"
    for verb, *options in (
        ["start"],
        ["pause"],
        ["unpause"],
        ["kill", "-s", "0"],
        ["kill", "-s", "usr1"],
        ["restart", "-t", "0"],
        ["stop", "-t", "0"],
        ["rm", "-v"],
    ):
        done = call(lab, verb, *options, "a", "nobody", "b")
        assert done.returncode == 1
        if options != ["-s", "0"]:
            assert done.stdout == "a\nb\n"
            assert "no container 'nobody'" in done.stderr
        else:
            assert "no signal '0'" in done.stderr
    assert states(lab) == {}


def test_wait_prints_exit_codes(lab: Lab) -> None:
    """wait waits for each and prints its code."""
    for code in ("0", "3"):
        ok(lab, "run", "-d", "--name", f"w{code}", IMAGE, "sh", "-c", f"sleep 0.3; exit {code}")
    assert ok(lab, "wait", "w3", "w0") == "3\n0\n"


def test_rm_refuses_what_runs(lab: Lab) -> None:
    """rm of a running container says what to do; -f kills it, and is content if there is none."""
    ok(lab, "run", "-d", "--name", "busy", IMAGE, "sleep", "100")
    done = call(lab, "rm", "busy")
    assert (done.returncode, "--force" in done.stderr) == (1, True)
    assert states(lab) == {"busy": "running"}
    assert ok(lab, "rm", "-f", "busy", "nobody") == "busy\n"


def test_a_container_that_ended_by_itself_is_removed_with_its_port(lab: Lab) -> None:
    """A published port stands in inspect while the container runs, and is no hindrance to rm."""
    port = str(support.free_port())
    ok(lab, "run", "-d", "--name", "web", "-p", f"127.0.0.1:{port}:80", IMAGE, "sleep", "100")
    [found] = json.loads(ok(lab, "inspect", "web"))
    assert found["NetworkSettings"]["Ports"] == {
        "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": port}]
    }
    os.kill(lab.engine.get("web").pid, signal.SIGKILL)  # by no verb, so that nobody notes its end
    eventually(lab.engine.files("web").exit.exists)
    assert ok(lab, "rm", "web") == "web\n"


# -- looking ------------------------------------------------------------------------------------


def test_ps(lab: Lab) -> None:
    """Docker's columns and words, its filters, its formats."""
    ok(lab, "run", "-d", "--name", "up", "-l", "app=x", IMAGE, "sleep", "100")
    ok(lab, "run", "-d", "--name", "still", IMAGE, "sleep", "100")
    ok(lab, "pause", "still")
    ok(lab, "create", "--name", "new", IMAGE, "sleep", "100")
    call(lab, "run", "--name", "over", IMAGE, "sh", "-c", "exit 137")
    lines = ok(lab, "ps", "-a").splitlines()
    assert lines[0].split("   ")[0] == "CONTAINER ID"
    assert lines[0].split() == [
        "CONTAINER",
        "ID",
        "IMAGE",
        "COMMAND",
        "CREATED",
        "STATUS",
        "PORTS",
        "NAMES",
    ]
    shown = {line.split()[-1]: line for line in lines[1:]}
    assert "Exited (137) " in shown["over"]
    assert " ago" in shown["over"]
    assert "Created" in shown["new"]
    assert "(Paused)" in shown["still"]
    assert " Up " in shown["up"]
    assert [line.split()[-1] for line in lines[1:]] == ["over", "new", "still", "up"]
    assert ok(lab, "ps", "-q").split() == ["still", "up"]
    assert ok(lab, "ps", "-n", "2", "-q").split() == ["over", "new"]
    assert ok(lab, "ps", "-q", "--filter", "status=exited").split() == ["over"]
    assert ok(lab, "ps", "-q", "-f", "label=app=x", "-f", "name=u").split() == ["up"]
    assert ok(lab, "ps", "--format", '{{.Names}}={{.State}} {{.Label "app"}}') == (
        "still=paused \nup=running x\n"
    )
    assert ok(lab, "ps", "--format", "table {{.Names}}\\t{{.Image}}").split("\n")[0].split() == [
        "NAMES",
        "IMAGE",
    ]
    rows = [json.loads(line) for line in ok(lab, "ps", "--format", "json").splitlines()]
    assert [row["ID"] for row in rows] == ["still", "up"]
    assert json.loads(ok(lab, "ps", "-a", "--json"))[0]["State"] == "exited"
    assert (
        ok(lab, "ps", "--no-trunc", "-f", "name=up", "--format", "{{.Command}}") == '"sleep 100"\n'
    )
    for wrong in (["-f", "colour=red"], ["--format", "{{.Nothing}}"]):
        done = call(lab, "ps", *wrong)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)


def test_inspect(lab: Lab) -> None:
    """Docker's fields, whole or by a template; one name that is wrong does not hide the others."""
    ok(lab, "run", "-d", "--name", "seen", "-e", "A=b", "-m", "64m", IMAGE, "sleep", "100")
    [found] = json.loads(ok(lab, "inspect", "seen"))
    pid = lab.engine.get("seen").pid
    assert (found["Id"], found["Name"], found["State"]["Pid"]) == ("seen", "/seen", pid)
    assert (found["State"]["Status"], found["State"]["Running"]) == ("running", True)
    assert found["NetworkSettings"]["IPAddress"] == lab.engine.get("seen").ip
    assert "A=b" in found["Config"]["Env"]
    assert found["HostConfig"]["Memory"] == 64 * 1024 * 1024
    assert found["Image"] == lab.engine.images.get(IMAGE).digest
    assert Path(found["LogPath"]).exists()
    form = "{{.State.Pid}} {{json .State.Paused}} {{.Config.Tty}}"
    assert ok(lab, "inspect", "-f", form, "seen") == f"{pid} false false\n"
    ok(lab, "kill", "seen")
    ok(lab, "wait", "seen")
    done = call(lab, "inspect", "-f", "{{.State.ExitCode}} {{.State.Status}}", "nobody", "seen")
    assert (done.returncode, done.stdout) == (1, "137 exited\n")


def test_events(lab: Lab) -> None:
    """What happened since a time, filtered; and what happens now, as it does."""
    began = str(time.time())
    ok(lab, "run", "-d", "--name", "told", "-l", "app=x", IMAGE, "sh", "-c", "sleep 0.3; exit 3")
    ok(lab, "wait", "told")
    ok(lab, "rm", "told")
    form = ["--format", "{{.Action}} {{.ID}}"]
    text = ok(lab, "events", "--since", began, "--until", "0s", *form)
    assert text.splitlines() == ["create told", "start told", "die told", "destroy told"]
    only = ["--filter", "event=die", "--filter", "label=app=x", "--json"]
    [line] = ok(lab, "events", "--since", began, "--until", "0s", *only).splitlines()
    assert json.loads(line)["Actor"]["Attributes"]["exitCode"] == "3"
    with contextlib.ExitStack() as stack:
        follower = stack.enter_context(
            subprocess.Popen(argv(lab, "events", "--since", began, *form), stdout=subprocess.PIPE)
        )
        stack.callback(follower.kill)
        assert follower.stdout
        assert [follower.stdout.readline() for _ in range(4)][-1] == b"destroy told\n"
        ok(lab, "create", "--name", "later", IMAGE, "true")
        assert follower.stdout.readline() == b"create later\n"
    assert call(lab, "events", "--since", "yesterday").returncode == 1


def test_every_verb_has_help_with_an_example(lab: Lab) -> None:
    """--help of each verb ends in an example."""
    from click.testing import CliRunner

    from shipway.runtime.cli.main import HIDDEN, VERBS, cli

    for verb in VERBS.keys() - HIDDEN:
        result = CliRunner().invoke(cli, [verb, "--help"])
        assert result.exit_code == 0
        assert "Example" in result.output, verb
