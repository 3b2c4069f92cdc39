"""What programs print, made safe to show."""

import time
import unicodedata

import pytest

from shipway.platform.ansi import Piece, pieces, plain


def test_text_without_escapes_is_one_piece_without_a_look():
    """Text without escapes comes back as it is, tabs and other scripts included."""
    assert pieces("a\tb ✓ ä 漢字 🚢") == [Piece("", "a\tb ✓ ä 漢字 🚢")]


def test_an_empty_line_has_no_pieces():
    """An empty line has no pieces, and neither has one of colours only."""
    assert pieces("") == []
    assert pieces("\x1b[31m\x1b[0m") == []


def test_colours_and_styles_become_classes_until_they_are_reset():
    """Colours and styles become names of classes, and end where they are reset."""
    assert pieces("\x1b[1;31mred\x1b[22m thin\x1b[0m plain") == [
        Piece("bold fg-1", "red"),
        Piece("fg-1", " thin"),
        Piece("", " plain"),
    ]
    assert pieces("\x1b[97;44mx\x1b[39my\x1b[49mz") == [
        Piece("fg-15 bg-4", "x"),
        Piece("bg-4", "y"),
        Piece("", "z"),
    ]


@pytest.mark.parametrize(
    ("codes", "look"),
    [
        ("38;5;1", "fg-1"),
        ("38;5;196", "fg-9"),
        ("38;5;46;1", "bold fg-10"),
        ("48;5;21", "bg-12"),
        ("38;5;240", "fg-8"),
        ("38;2;255;128;0", "fg-11"),
        ("38;2;10;10;10", "fg-0"),
        ("38;5;999", "fg-15"),
        ("38;5", ""),
        ("38", ""),
        ("38;2;1", ""),
        ("", ""),
        ("5;6;53;73", ""),
        ("99999999999999999999", ""),
    ],
)
def test_extended_and_unknown_codes(codes, look):
    """Extended colours become the nearest of sixteen; incomplete and unknown codes change nothing."""
    assert pieces(f"\x1b[{codes}mx") == [Piece(look, "x")]


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("\x1b]0;owned\x07", "^[]0;owned^G"),
        ("\x1b[2J\x1b[H", "^[[2J^[[H"),
        ("\x1b[?1049h", "^[[?1049h"),
        ("\x1bP1$r\x1b\\", "^[P1$r^[\\"),
        ("50%\r100%", "50%^M100%"),
        ("nul\x00 bs\x08 del\x7f", "nul^@ bs^H del^?"),
        ("\x9b31m csi", "\\x9b31m csi"),
        ("user\u202egpj.exe", "user<U+202E>gpj.exe"),
        ("zero\u200bwidth", "zero<U+200B>width"),
        ("<script>alert(1)</script>", "<script>alert(1)</script>"),
        ("\x1b[" + "1;" * 60 + "31m", "^[[" + "1;" * 60 + "31m"),
        ("\x1b", "^["),
    ],
)
def test_whatever_is_no_colour_is_shown_and_not_done(line, shown):
    """Escapes that move, title or clear, control bytes and signs that turn the text are shown as text."""
    assert plain(line) == shown


def test_no_steering_sign_survives():
    """No control byte and no sign that turns the direction of writing survives, whatever the input."""
    shown = plain("".join(map(chr, range(0x3000))) + "\ufeff")
    turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    assert not [char for char in shown if unicodedata.category(char) == "Cc" and char != "\t"]
    assert not [char for char in shown if unicodedata.bidirectional(char) in turning]


def test_a_long_hostile_line_takes_no_time():
    """Half a million bytes of nothing but escapes are read in well under a second."""
    start = time.process_time()
    pieces("\x1b[31m\x1b[" * 60_000)
    assert time.process_time() - start < 30  # quadratic, it would take many minutes
