"""skopeo and buildah, which talk to registries and read Dockerfiles: found, run, and what they say."""

import re
import shutil
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from shipway.runtime.errors import HostUnfit

Output = Callable[[str], None]

LAST_LINES = 20
HELPERS = (  # where containers-common has its programs
    "/usr/local/libexec/podman",
    "/usr/local/lib/podman",
    "/usr/libexec/podman",
    "/usr/lib/podman",
)
# A tool must not go on when whoever wanted its work was killed.
ENDS_WITH_US = ("setpriv", "--pdeathsig", "TERM", "--")
_FATAL = re.compile(r'level=(?:fatal|error) msg="((?:[^"\\]|\\.)*)"')
_NOISE = re.compile(r"^(?:Error|error|FATA\[\d+\]|ERRO\[\d+\]):?\s*")


class ToolFailed(Exception):
    """A tool ended with an error; the message is what it said of it, `lines` its last output."""

    def __init__(self, reason: str, lines: Sequence[str]) -> None:
        super().__init__(reason)
        self.lines = list(lines)


def find(name: str) -> str:
    """The path of a tool. Raises HostUnfit, which says how to get it."""
    path = shutil.which(name)
    if path is None:
        raise HostUnfit(f"{name} is not installed", f"install it: apt-get install {name}")
    return path


def netavark() -> Path | None:
    """What newer buildahs look for whatever network a build has, where they look for it."""
    places = (Path(folder, "netavark") for folder in HELPERS)
    return next((path for path in places if path.exists()), None)


def run(argv: Sequence[str], output: Output, stdin: bytes | None = None) -> None:
    """Run a tool, handing on each line it says. Raises ToolFailed.

    It has the caller's environment, since that holds the proxies that a network may need.
    """
    last: deque[str] = deque(maxlen=LAST_LINES)
    process = subprocess.Popen(
        [*ENDS_WITH_US, *argv],
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    with process:
        try:
            assert process.stdout
            if stdin is not None:
                assert process.stdin
                process.stdin.write(stdin)
                process.stdin.close()
            for raw in process.stdout:
                line = raw.decode(errors="replace").rstrip("\n")
                last.append(line)
                output(line)
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        raise ToolFailed(_reason(last) or f"it ended with code {process.returncode}", last)


def read(argv: Sequence[str]) -> bytes:
    """What a tool writes to its standard output. Raises ToolFailed."""
    done = subprocess.run(
        list(argv), stdin=subprocess.DEVNULL, capture_output=True, start_new_session=True
    )
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").splitlines()
        raise ToolFailed(_reason(lines) or f"it ended with code {done.returncode}", lines)
    return done.stdout


def _reason(lines: Sequence[str]) -> str:
    """What a tool says last, without its own dress."""
    for line in reversed(lines):
        if match := _FATAL.search(line):
            return match[1].replace('\\"', '"')
    return next((_NOISE.sub("", line) for line in reversed(lines) if line.strip()), "")
