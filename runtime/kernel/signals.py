"""Signals by name and number."""

import signal

from shipway.runtime.errors import InvalidSpec


def signal_number(text: str) -> int:
    """The number of "SIGTERM", "term" or "15". Raises InvalidSpec."""
    if text.isdigit() and 1 <= int(text) <= 64:
        return int(text)
    name = "SIG" + text.upper().removeprefix("SIG")
    base, plus, offset = name.partition("+")
    if base == "SIGRTMIN" and plus and offset.isdigit() and int(offset) <= 30:
        return signal.SIGRTMIN + int(offset)
    if hasattr(signal, name) and not name.startswith("SIG_"):
        return int(getattr(signal, name))
    raise InvalidSpec(f"there is no signal {text!r}; use a name like TERM or a number from 1 to 64")
