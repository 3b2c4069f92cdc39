"""Build secrets in a log: their values are not shown, whatever a build prints."""

from collections.abc import Iterable

SHOWN = "••••••"
SHORTEST = 4  # characters; shorter values would hide half of the log


class Mask:
    """Knows the values. A value of several lines is masked line by line."""

    def __init__(self, values: Iterable[str]) -> None:
        parts = {part.strip() for value in values for part in (value, *value.splitlines())}
        # The longest first: a value may begin with another.
        self._values = sorted((each for each in parts if len(each) >= SHORTEST), key=len)[::-1]

    def __call__(self, text: str) -> str:
        """The text without the values."""
        for value in self._values:
            text = text.replace(value, SHOWN)
        return text
