"""Lines of a build's log, in the field's form."""

import sys


def step(text: str) -> None:
    """Something begins."""
    _line(f"-----> {text}")


def detail(text: str) -> None:
    """More about the step."""
    _line(f"       {text}")


def error(text: str) -> None:
    """What is wrong, or what to do about it."""
    _line(f" !     {text}")


def _line(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
