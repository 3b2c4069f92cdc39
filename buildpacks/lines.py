"""From a build's raw output to lines that are safe to show: untrusted code wrote them."""

import re
from collections.abc import Callable

LONGEST_LINE = 10_000  # characters; the rest goes on the next line
MOST_LINES = 50_000
MOST_TEXT = 16 << 20  # characters
ERROR_MARK = " !     "

# Everything that moves the cursor or rings; colours (`ESC [ … m`) and tabs stay.
_UNSAFE = re.compile(
    r"\x1b\[[0-9;]*m|(?:\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b.?"
    r"|[\x00-\x08\x0b-\x1f\x7f-\x9f])",
    re.DOTALL,
)


def printable(text: str) -> str:
    """Remove control characters other than colours and tabs."""
    return _UNSAFE.sub(lambda match: match[0] if match[0].endswith("m") else "", text)


class LineWriter:
    """Cuts bytes into lines for `output`; remembers the first error line as `reason`."""

    def __init__(self, output: Callable[[str], None]) -> None:
        self.reason: str | None = None
        self._output = output
        self._rest = b""
        self._count = 0
        self._length = 0
        self._full = False

    def feed(self, data: bytes) -> None:
        """Take the next piece of output, cut anywhere."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._line(line)
        while len(self._rest) > 4 * LONGEST_LINE:
            self._line(self._rest[: 4 * LONGEST_LINE])
            self._rest = self._rest[4 * LONGEST_LINE :]

    def close(self) -> None:
        """Say what came after the last line end."""
        if self._rest:
            self._line(self._rest)
            self._rest = b""

    def _line(self, raw: bytes) -> None:
        # A progress bar overwrites its line: what stands there at the end counts.
        text = raw.decode(errors="backslashreplace").rstrip("\r").rpartition("\r")[2]
        text = printable(text)
        if self.reason is None and text.startswith(ERROR_MARK):
            self.reason = text.removeprefix(ERROR_MARK).strip().rstrip(".")
        for start in range(0, max(len(text), 1), LONGEST_LINE):
            self._say(text[start : start + LONGEST_LINE])

    def _say(self, text: str) -> None:
        self._count += 1
        self._length += len(text)
        if self._count <= MOST_LINES and self._length <= MOST_TEXT:
            self._output(text)
        elif not self._full:
            self._full = True
            what = f"{MOST_LINES} lines" if self._count > MOST_LINES else f"{MOST_TEXT >> 20} MB"
            self._output(f"{ERROR_MARK}The build wrote more than {what}; the rest is left out.")
