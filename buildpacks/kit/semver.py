"""Version ranges as npm reads them: `^1.2`, `>=18 <21`, `20.x || 22`, `1.2 - 2.3`, `*`."""

import re
from collections.abc import Iterable
from functools import total_ordering
from typing import NamedTuple

_PART = r"(?:0|[1-9]\d*|[xX*])"
_VERSION = re.compile(
    rf"[v=\s]*({_PART})(?:\.({_PART})(?:\.({_PART})(?:-([0-9A-Za-z.-]+))?(?:\+[0-9A-Za-z.-]+)?)?)?"
)
_COMPARATOR = re.compile(r"(>=|<=|>|<|=|~>|~|\^)?\s*(\S+)")
_SPACES = re.compile(r"(>=|<=|>|<|=|~>|~|\^)\s+")
_HYPHEN = re.compile(r"\s*(\S+)\s+-\s+(\S+)\s*")


class InvalidRange(ValueError):
    """No range that npm would read."""


@total_ordering
class Version(NamedTuple):
    """A full version. `pre` are the parts of a pre-release, empty for a release."""

    major: int
    minor: int
    patch: int
    pre: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}" + (
            f"-{'.'.join(self.pre)}" if self.pre else ""
        )

    def __lt__(self, other: tuple[object, ...]) -> bool:
        assert isinstance(other, Version)
        return self._key() < other._key()

    def _key(self) -> tuple[object, ...]:
        # A release comes after its pre-releases; numbers come before words.
        pre = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in self.pre]
        return (*self[:3], not self.pre, pre)


class Comparator(NamedTuple):
    """One bound of a range: `sign` is `>=`, `<`, `>`, `<=` or `=`."""

    sign: str
    version: Version

    def allows(self, version: Version) -> bool:
        """Whether the version is on the right side."""
        key, own = version._key(), self.version._key()
        return {
            ">=": key >= own,
            "<=": key <= own,
            ">": key > own,
            "<": key < own,
            "=": key == own,
        }[self.sign]


class Range:
    """A range; `str()` of it is the text it came from."""

    def __init__(self, text: str) -> None:
        """Raises InvalidRange."""
        self.text = text
        self._sets = [_alternative(part) for part in text.split("||")]

    def __str__(self) -> str:
        return self.text

    def allows(self, version: Version) -> bool:
        """Whether the version is in the range. A pre-release must be asked for by its own number."""
        return any(_satisfies(bounds, version) for bounds in self._sets)

    def best(self, versions: Iterable[Version]) -> Version | None:
        """The newest version of the range."""
        fitting = [version for version in versions if self.allows(version)]
        return max(fitting, key=Version._key) if fitting else None


def version(text: str) -> Version | None:
    """A full version, or None when the text is none."""
    match = _VERSION.fullmatch(text.strip())
    if match is None or any(part is None or part in "xX*" for part in match.groups()[:3]):
        return None
    return _full(match)


def _full(match: "re.Match[str]") -> Version:
    numbers = [0 if part in (None, "x", "X", "*") else int(part) for part in match.groups()[:3]]
    pre = tuple((match.group(4) or "").split(".")) if match.group(4) else ()
    return Version(numbers[0], numbers[1], numbers[2], pre)


def _satisfies(bounds: list[Comparator], version: Version) -> bool:
    if not all(bound.allows(version) for bound in bounds):
        return False
    return not version.pre or any(
        bound.version.pre and bound.version[:3] == version[:3] for bound in bounds
    )


def _alternative(text: str) -> list[Comparator]:
    hyphen = _HYPHEN.fullmatch(text)
    if hyphen:
        return [*_partial(">=", hyphen.group(1)), *_partial("<=", hyphen.group(2))]
    bounds: list[Comparator] = []
    for word in _SPACES.sub(r"\1", text.strip()).split():
        match = _COMPARATOR.fullmatch(word)
        assert match is not None
        bounds += _partial(match.group(1) or "=", match.group(2))
    return bounds


def _partial(sign: str, text: str) -> list[Comparator]:
    """The bounds that a sign before a version comes to, where parts of it may be missing."""
    match = _VERSION.fullmatch(text)
    if match is None:
        raise InvalidRange(text)
    given = 0
    for part in match.groups()[:3]:
        if part is None or part in "xX*":
            break
        given += 1
    if any(part is not None and part not in "xX*" for part in match.groups()[given:3]):
        raise InvalidRange(text)  # a number after an `x`
    low = _full(match) if given == 3 else _full(match)._replace(pre=())
    if given == 0:
        return [Comparator("<", Version(0, 0, 0))] if sign in "<>" else []
    if sign in ("~", "~>"):
        return _between(low, min(given, 2))
    if sign == "^":
        zeros = next((i for i, part in enumerate(low[:3]) if part), 2)
        return _between(low, min(zeros + 1, given))
    if given == 3:
        return [Comparator(sign, low)]
    above = _next(low, given)
    return {
        "=": _between(low, given),
        ">": [Comparator(">=", above._replace(pre=()))],
        ">=": [Comparator(">=", low)],
        "<": [Comparator("<", low._replace(pre=("0",)))],
        "<=": [Comparator("<", above)],
    }[sign]


def _between(low: Version, kept: int) -> list[Comparator]:
    """From `low` to the next version that differs in its first `kept` parts."""
    return [Comparator(">=", low), Comparator("<", _next(low, kept))]


def _next(low: Version, kept: int) -> Version:
    numbers = [*(low.major, low.minor, low.patch)[:kept], 0, 0]
    numbers[kept - 1] += 1
    # `-0` is before every pre-release of the next version: none of them slips in.
    return Version(numbers[0], numbers[1], numbers[2], ("0",))
