"""How a process type's command is run."""

import subprocess

import pytest

from shipway.workers.command import PROFILE, RELAY, as_exec, process_args


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("gunicorn app:app", "exec gunicorn app:app"),
        ("gunicorn -b 0.0.0.0:$PORT app:app", "exec gunicorn -b 0.0.0.0:$PORT app:app"),
        ("node 'my server.js'", "exec node 'my server.js'"),
        ("python -c 'a; b'", "exec python -c 'a; b'"),
        ("WORKERS=2 gunicorn app:app", "exec env WORKERS=2 gunicorn app:app"),
        ("cd web && node .", None),
        ("a | b", None),
        ("a; b", None),
        ("a > log", None),
        ("(a)", None),
        ("if x; then y; fi", None),
        ("exec gunicorn", None),
        ("source env.sh", None),
        ("echo $(date)", None),
        ("echo `date`", None),
        ("say 'open", None),
        ("a\nb", None),
    ],
)
def test_only_a_simple_command_is_execed(command: str, expected: str | None) -> None:
    """`exec` is put before one simple command; what needs the shell to stay keeps it."""
    assert as_exec(command) == expected


def test_args() -> None:
    """The profile comes first; a command that needs the shell is handed to it as an argument, never pasted."""
    assert process_args("node .") == ("/bin/bash", "-c", f"{PROFILE}exec node .")
    assert process_args("a && b") == ("/bin/bash", "-c", PROFILE + RELAY, "a && b")


@pytest.mark.parametrize(
    ("command", "code", "output"),
    [
        ("true && exit 3", 3, ""),
        ("A=1 sh -c 'echo $A'", 0, "1\n"),
        ("echo a; echo b", 0, "a\nb\n"),
        ("say 'open", 2, ""),
    ],
)
def test_exit_codes_and_output_come_through(command: str, code: int, output: str) -> None:
    """What the command prints and ends with is what the instance does."""
    argv = list(process_args(command))
    done = subprocess.run(argv, capture_output=True, text=True, cwd="/", check=False)
    assert (done.returncode, done.stdout) == (code, output)
