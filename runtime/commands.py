"""Short commands of the engine's tools, bounded in time."""

import subprocess

from shipway.runtime.errors import RuntimeFailure

COMMAND_TIMEOUT = 30.0
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def run_command(argv: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end, in a session of its own; the caller looks at the return code."""
    try:
        return subprocess.run(
            argv,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=COMMAND_TIMEOUT,
            stdin=subprocess.DEVNULL,
            env={"PATH": PATH},
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeFailure(f"{argv[0]} did not end within {COMMAND_TIMEOUT:.0f} s") from error
