"""Process types as shell lines, and as what the launcher reads."""

import pytest

from shipway.buildpacks import processes
from shipway.buildpacks.result import ResultProcess
from shipway.runtime.images.store import ImageConfig


def process(*command: str, **changes: object) -> ResultProcess:
    values: dict[str, object] = {
        "type": "web",
        "buildpack": "x/y",
        "args": (),
        "direct": True,
        "default": False,
        "working_dir": "/workspace",
    } | changes
    return ResultProcess(command=command, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (process("bash", "-c", "gunicorn $X"), "gunicorn $X"),
        (process("python", "a b.py", args=("$HOME",)), "python 'a b.py' '$HOME'"),
        (process("echo $X", direct=False), "/cnb/process/web"),
        (process("x", working_dir="/workspace/a b"), "cd '/workspace/a b' && x"),
    ],
)
def test_command(given: ResultProcess, line: str) -> None:
    """Direct commands are quoted, shell lines stand as they are, the launcher starts the rest."""
    assert processes.command(given) == line


def test_commands_are_those_of_production() -> None:
    """A process for another execution environment is none of the platform's."""
    given = [process("a"), process("t", type="t", exec_env=("test",))]
    given += [process("p", type="p", exec_env=("test", "production"))]
    given += [process("all", type="all", exec_env=("*",))]
    assert processes.commands(given) == {"web": "a", "p": "p", "all": "all"}


@pytest.mark.parametrize(
    ("default", "wanted", "entrypoint"),
    [
        (None, None, "/cnb/process/web"),
        ("job", None, "/cnb/process/job"),
        ("job", "web", "/cnb/process/web"),
        ("gone", None, "/cnb/process/web"),
    ],
)
def test_entrypoint(default: str | None, wanted: str | None, entrypoint: str) -> None:
    """What is wanted comes before the buildpacks' default, and that before web."""
    given = [process("w"), process("j", type="job")]
    assert processes.entrypoint(given, default, wanted) == entrypoint


def test_entrypoint_without_a_process() -> None:
    """Without a process to start the launcher waits for a command; an unknown one is an error."""
    assert processes.entrypoint([process("j", type="job")], None, None) == processes.LAUNCHER
    with pytest.raises(KeyError):
        processes.entrypoint([process("w")], None, "job")


def test_started() -> None:
    """Commands go through an image's launcher, if it has one."""
    plain, made = ImageConfig(), ImageConfig(entrypoint=("/cnb/process/web",))
    assert processes.started(plain, ("bash", "-c", "x"), "x") == ("bash", "-c", "x")
    assert processes.started(made, ("bash", "-c", "x"), "x")[:2] == (processes.LAUNCHER, "--")
    line = "/cnb/process/web"
    assert processes.started(made, ("bash", "-c", line), line) == (line,)


def test_launch_list() -> None:
    """The launcher's list names each process's buildpack by its place in the group."""
    given = [process("a", "", args=("b",), exec_env=("test",))]
    words = processes.launch_list(given, [("z", (0, 8)), ("x_y", (0, 9))]).split(b"\0")
    assert b" ".join(words).split() == (
        b"buildpack z 0 buildpack x_y 1 process web 1 1 /workspace 1 test 2 a 1 b".split()
    )
