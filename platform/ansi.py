"""What programs print, made safe to show: colours become names of classes, all else that steers a terminal becomes text.

The text of an app's log is its author's, not ours: an escape sequence in it must neither reach the reader's terminal nor
hide what stands beside it, so whatever is no colour is shown as the sign of its byte (ESC is ^[).
"""

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from shipway.platform.terminal import plain as written_out

SGR = re.compile(r"\x1b\[([0-9;]{0,64})m")
# C0 but tab, DEL, C1, and the signs that turn the direction of writing or break lines unseen.
HIDDEN = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)

FLAGS = {1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse", 9: "strike"}
ENDS = {
    22: ("bold", "dim"),
    23: ("italic",),
    24: ("underline",),
    27: ("inverse",),
    29: ("strike",),
}
CUBE = (0, 95, 135, 175, 215, 255)  # levels of xterm's 6x6x6 colours


class Piece(NamedTuple):
    """A run of text of one look: `look` is a list of class names, such as `bold fg-1`, or empty."""

    look: str
    text: str


@dataclass
class _Pen:
    """The look that the text so far has asked for."""

    flags: set[str] = field(default_factory=set)
    ink: str = ""
    paper: str = ""

    @property
    def look(self) -> str:
        return " ".join(filter(None, (*sorted(self.flags), self.ink, self.paper)))


def pieces(line: str) -> list[Piece]:
    """The line as runs of safe text with their looks; a look does not carry over to the next line."""
    pen, end = _Pen(), 0
    found: list[Piece] = []
    for match in SGR.finditer(line):
        _add(found, pen.look, line[end : match.start()])
        _apply(pen, [int(code or 0) for code in match[1].split(";")])
        end = match.end()
    _add(found, pen.look, line[end:])
    return found


def plain(line: str) -> str:
    """The line as safe text without colours."""
    return "".join(piece.text for piece in pieces(line))


def visible(text: str) -> str:
    """The text with every sign that would act instead of show replaced by one that shows."""
    return HIDDEN.sub(lambda match: _sign(match[0]), text)


def _sign(char: str) -> str:
    return written_out(char) if ord(char) < 0xA0 else f"<U+{ord(char):04X}>"


def _add(found: list[Piece], look: str, text: str) -> None:
    if not text:
        return
    if found and found[-1].look == look:
        text = found.pop().text + visible(text)
        found.append(Piece(look, text))
    else:
        found.append(Piece(look, visible(text)))


def _apply(pen: _Pen, codes: list[int]) -> None:
    """Change the pen as a terminal would; codes that are not known change nothing."""
    rest = iter(codes)
    for code in rest:
        if code == 0:
            pen.flags, pen.ink, pen.paper = set(), "", ""
        elif code in FLAGS:
            pen.flags.add(FLAGS[code])
        elif code in ENDS:
            pen.flags.difference_update(ENDS[code])
        elif code in (38, 48):
            _colour(pen, "ink" if code == 38 else "paper", list(rest))
            return
        else:
            _basic(pen, code)


def _basic(pen: _Pen, code: int) -> None:
    tens, ones = divmod(code, 10)
    if ones == 9 and tens in (3, 4):
        setattr(pen, "ink" if tens == 3 else "paper", "")
    elif ones < 8 and tens in (3, 9):
        pen.ink = f"fg-{ones + (8 if tens == 9 else 0)}"
    elif ones < 8 and tens in (4, 10):
        pen.paper = f"bg-{ones + (8 if tens == 10 else 0)}"


def _colour(pen: _Pen, side: str, rest: list[int]) -> None:
    """An extended colour (5;n or 2;r;g;b), shown as the nearest of the sixteen; then what follows it."""
    if rest[:1] == [5] and len(rest) > 1:
        number, rest = _sixteen(rest[1]), rest[2:]
    elif rest[:1] == [2] and len(rest) > 3:
        number, rest = _nearest(*rest[1:4]), rest[4:]
    else:
        return
    setattr(pen, side, f"{'fg' if side == 'ink' else 'bg'}-{number}")
    if rest:
        _apply(pen, rest)


def _sixteen(number: int) -> int:
    if number < 16:
        return number
    if number < 232:
        red, rest = divmod(number - 16, 36)
        green, blue = divmod(rest, 6)
        return _nearest(CUBE[red % 6], CUBE[green], CUBE[blue])
    grey = 8 + 10 * (number - 232)
    return _nearest(grey, grey, grey)


def _nearest(red: int, green: int, blue: int) -> int:
    """The one of the sixteen colours that is nearest in hue and brightness."""
    top = max(red, green, blue)
    if top < 48:
        return 0
    number = sum(
        bit for bit, level in ((1, red), (2, green), (4, blue)) if level * 2 > top and level >= 48
    )
    if number == 7 and top < 160:
        return 8
    return number + (8 if top > 200 else 0)
