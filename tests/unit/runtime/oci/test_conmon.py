"""What conmon is told and what it answers."""

import os
from pathlib import Path

import pytest

from shipway.runtime.errors import StartFailed
from shipway.runtime.oci import conmon
from shipway.runtime.oci.runtime import OciRuntime

MONITOR = conmon.Monitor(
    container_id="web.1",
    bundle=Path("/r/web.1"),
    persist=Path("/d/monitor"),
    pid_file=Path("/d/monitor.pid"),
    init_pid_file=Path("/d/init.pid"),
    log=conmon.log_argument(Path("/logs/web.log")),
    runtime_log=Path("/r/web.1/log"),
)
RUNTIME = OciRuntime("crun", Path("/usr/bin/crun"), Path("/r/.oci/crun"))


def test_the_command_line_names_everything() -> None:
    """The container, the bundle, the runtime with its own folder, the log in k8s-file format."""
    argv = conmon.conmon_argv(Path("/usr/bin/conmon"), RUNTIME, MONITOR)
    assert argv[0] == "/usr/bin/conmon"
    for option, value in {
        "--cid": "web.1",
        "--bundle": "/r/web.1",
        "--runtime": str(RUNTIME.program),
        "--persist-dir": "/d/monitor",
        "--log-path": "k8s-file:/logs/web.log",
    }.items():
        assert argv[argv.index(option) + 1] == value
    assert "--runtime-arg=/r/.oci/crun" in argv


def test_without_a_log_output_is_dropped() -> None:
    """No log path means no log."""
    assert conmon.log_argument(None) == "k8s-file:/dev/null"


def script(tmp_path: Path, body: str) -> list[str]:
    """A stand-in for conmon; fd 9 is its sync pipe."""
    path = tmp_path / "conmon"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return [str(path)]


def create(argv: list[str], tmp_path: Path) -> int:
    """Let the stand-in create a container."""
    null = os.open(os.devnull, os.O_RDWR)
    try:
        return conmon.create_container(argv, tmp_path, null, lambda _pid: None)
    finally:
        os.close(null)


def test_the_pid_is_read_from_the_sync_pipe(tmp_path: Path) -> None:
    """A good answer holds the pid of init."""
    body = """echo '{"data": 4711}' >/proc/self/fd/$_OCI_SYNCPIPE"""
    assert create(script(tmp_path, body), tmp_path) == 4711


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            """echo '{"data": -1, "message": "no such program"}' >/proc/self/fd/$_OCI_SYNCPIPE""",
            "no such program",
        ),
        ("exit 1", "conmon ended"),
        ("echo garbage >/proc/self/fd/$_OCI_SYNCPIPE", "conmon ended"),
    ],
)
def test_a_bad_answer_is_a_failed_start(tmp_path: Path, body: str, reason: str) -> None:
    """A refusal, an early end and garbage each say why."""
    with pytest.raises(StartFailed, match=reason):
        create(script(tmp_path, body), tmp_path)
