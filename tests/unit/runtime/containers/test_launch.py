"""What the OCI runtimes say when a container does not start, in the words of each."""

import pytest

from shipway.runtime.containers.launch import start_error
from shipway.runtime.errors import ProgramNotExecutable, ProgramNotFound, StartFailed


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("executable file `nope` not found in $PATH: No such file or directory", ProgramNotFound),
        ('exec: "nope": executable file not found in $PATH', ProgramNotFound),
        ("the path `/etc` is not a regular file: Operation not permitted", ProgramNotExecutable),
        ('exec: "/etc/passwd": permission denied', ProgramNotExecutable),
        ("mount `proc` to `proc`: Operation not permitted", StartFailed),
    ],
)
def test_a_program_that_cannot_start_is_told_from_other_failures(
    words: str, kind: type[StartFailed]
) -> None:
    """Missing, not to be executed, or something else that is not the program's fault."""
    assert type(start_error(f"container x could not be created: {words}")) is kind
