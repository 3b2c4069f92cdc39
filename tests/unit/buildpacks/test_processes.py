"""Process types as shell lines."""

import pytest

from shipway.buildpacks import processes
from shipway.buildpacks.result import ResultProcess


def process(*command: str, **changes: object) -> ResultProcess:
    values: dict[str, object] = {
        "type": "web",
        "buildpack": "x",
        "args": (),
        "direct": True,
        "default": False,
        "working_dir": "/workspace",
        "env": {},
    } | changes
    return ResultProcess(command=command, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (process("bash", "-c", "gunicorn $X"), "gunicorn $X"),
        (process("python", "a b.py", args=("$HOME",)), "python 'a b.py' '$HOME'"),
        (process("echo $X", direct=False), "echo $X"),
        (process("echo", direct=False, args=("a b",)), "echo 'a b'"),
        (process("x", working_dir="/workspace/a b"), "cd '/workspace/a b' && x"),
        (process("x", env={"A": "b c"}), "env 'A=b c' bash -c x"),
    ],
)
def test_command(given: ResultProcess, line: str) -> None:
    """Direct commands are quoted, shell lines stand as they are."""
    assert processes.command(given) == line


def test_default() -> None:
    """The last default process is what the image runs, else web."""
    web, job = process("w"), process("j", type="job", default=True)
    lines = processes.commands([web, job])
    assert lines == {"web": "w", "job": "j"}
    assert processes.default_command([web, job], lines) == "j"
    assert processes.default_command([web], lines) == "w"
    assert processes.default_command([], {}) is None
