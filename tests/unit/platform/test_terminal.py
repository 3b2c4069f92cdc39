"""What may reach a terminal."""

from shipway.platform.terminal import plain, printable


def test_colours_stay_and_commands_are_written_out() -> None:
    """A terminal is coloured, and told nothing else."""
    assert printable("\x1b[1;31mred\x1b[0m\ttab\n") == "\x1b[1;31mred\x1b[0m\ttab\n"
    assert printable("\x1b[2Jgone") == "^[[2Jgone"
    assert printable("\x1b]0;title\x07") == "^[]0;title^G"
    assert printable("a\rb\x9b2J\x7f") == "a^Mb\\x9b2J^?"


def test_a_name_has_no_control_character_at_all() -> None:
    """Not even a colour or a line break."""
    assert plain("a\n\x1b[31mb") == "a^J^[[31mb"
