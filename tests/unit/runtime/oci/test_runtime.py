"""The OCI runtime's program, and the copy of it that is executed."""

import os
import subprocess
from pathlib import Path

import pytest

from shipway.runtime.oci.runtime import OciRuntime


def program(tmp_path: Path, name: str, says: str) -> OciRuntime:
    """A runtime that is `cat`, so that a word of ours tells which one ran."""
    path = tmp_path / name
    path.unlink(missing_ok=True)
    path.write_bytes(Path("/bin/cat").read_bytes() + says.encode())
    path.chmod(0o755)
    return OciRuntime(name, path, tmp_path)


def test_what_is_executed_is_a_copy_that_cannot_be_changed(tmp_path: Path) -> None:
    """The copy is the program, runs, and takes no write, not even root's."""
    runtime = program(tmp_path, "crun", "one")
    copy = runtime.program
    assert copy != runtime.path
    assert copy.read_bytes() == runtime.path.read_bytes()
    done = subprocess.run([copy], input="hello", capture_output=True, text=True, check=True)
    assert done.stdout == "hello"
    fd = os.open(copy, os.O_RDWR)
    try:
        with pytest.raises(PermissionError):
            os.write(fd, b"x")
        with pytest.raises(PermissionError):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def test_a_new_version_is_copied_anew(tmp_path: Path) -> None:
    """One copy serves all calls, until the program on the disk is another."""
    runtime = program(tmp_path, "runc", "one")
    first = runtime.program
    assert runtime.program == first
    program(tmp_path, "runc", "two")
    assert runtime.program.read_bytes().endswith(b"two")


def test_a_forked_process_has_a_copy_of_its_own(tmp_path: Path) -> None:
    """It works where a child has closed all that it inherited."""
    runtime = program(tmp_path, "crun", "one")
    inherited = runtime.program
    pid = os.fork()
    if not pid:
        os.closerange(3, 256)
        good = runtime.program != inherited and runtime.program.read_bytes().endswith(b"one")
        os._exit(0 if good else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_runtime_that_knows_no_copies_is_executed_itself(tmp_path: Path) -> None:
    """runsc makes no copy of itself, so it gets none."""
    runtime = program(tmp_path, "runsc", "one")
    assert runtime.program == runtime.path
