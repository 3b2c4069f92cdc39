"""What may reach a person's terminal: text and colours, never a command to the terminal."""

import re

# All control characters but tab and newline. A colour sequence (SGR, `ESC [ 1;31 m`) is matched first, and kept.
_COLOUR_OR_CONTROL = re.compile(r"(\x1b\[[0-9;]{0,32}m)|([\x00-\x08\x0b-\x1f\x7f-\x9f])")


def printable(text: str) -> str:
    r"""The text with control characters written out (ESC as ^[, 0x9b as \x9b); colours, tabs and newlines stay."""
    return _COLOUR_OR_CONTROL.sub(lambda found: found[1] or _written_out(found[2]), text)


def plain(text: str) -> str:
    """One line of text without any control character at all, for a name that somebody else chose."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", lambda found: _written_out(found[0]), text)


def _written_out(char: str) -> str:
    code = ord(char)
    if code < 0x20:
        return "^" + chr(code + 0x40)
    return "^?" if code == 0x7F else f"\\x{code:02x}"
