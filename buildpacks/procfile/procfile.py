"""The Procfile: one `<type>: <command>` a line. Imports nothing, so that a build starts fast."""

LARGEST = 64 * 1024  # bytes
LONGEST_TYPE = 63
TYPE_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
EXPECTED = "expected `<type>: <command>`, such as `web: gunicorn --bind 0.0.0.0:$PORT app:app`"


class InvalidProcfile(Exception):
    """The message names the line and what was expected there."""


def parse(data: bytes) -> dict[str, str]:
    """Commands by process type, in the order of the file.

    A byte order mark, CRLF and CR line ends, tabs and spaces around either part, empty lines and
    lines that begin with `#` are taken in stride. Raises InvalidProcfile for everything else.
    """
    if len(data) > LARGEST:
        raise InvalidProcfile(f"Procfile is larger than {LARGEST // 1024} KB")
    processes: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(_text(data).split("\n"), start=1):
        line = line.strip(" \t\f\v")
        if not line or line.startswith("#"):
            continue
        type_, command = _line(line, number)
        if type_ in lines:
            raise InvalidProcfile(
                f"Procfile line {number}: {type_!r} is already declared on line {lines[type_]},"
                " expected each process type once"
            )
        lines[type_] = number
        processes[type_] = command
    if not processes:
        raise InvalidProcfile(f"Procfile declares no process types, {EXPECTED}")
    return processes


def toml_string(text: str) -> str:
    """`text` as a basic string of TOML."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if " " <= c != "\x7f" else f"\\u{ord(c):04X}" for c in escaped) + '"'


def _text(data: bytes) -> str:
    data = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InvalidProcfile("Procfile is UTF-16 text, expected UTF-8")
    for number, line in enumerate(data.split(b"\n"), start=1):
        if b"\0" in line:
            raise InvalidProcfile(f"Procfile line {number}: has a NUL byte, expected plain text")
        try:
            line.decode()
        except UnicodeDecodeError:
            raise InvalidProcfile(
                f"Procfile line {number}: has bytes that are not UTF-8, expected plain text"
            ) from None
    return data.decode()


def _line(line: str, number: int) -> tuple[str, str]:
    type_, colon, command = line.partition(":")
    type_, command = type_.rstrip(" \t"), command.strip(" \t")
    if not colon:
        raise InvalidProcfile(f"Procfile line {number}: has no colon, {EXPECTED}")
    if not type_ or not TYPE_CHARACTERS.issuperset(type_):
        raise InvalidProcfile(
            f"Procfile line {number}: {_short(type_)} is no process type,"
            " expected letters, digits, '-' and '_' before the colon"
        )
    if len(type_) > LONGEST_TYPE:
        raise InvalidProcfile(
            f"Procfile line {number}: the process type is {len(type_)} characters long,"
            f" expected at most {LONGEST_TYPE}"
        )
    if not command:
        raise InvalidProcfile(f"Procfile line {number}: {type_!r} has no command, {EXPECTED}")
    return type_, command


def _short(text: str) -> str:
    return ascii(text if len(text) <= 40 else text[:40] + "…")
