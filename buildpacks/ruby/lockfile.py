"""What a Gemfile.lock says: which gems there are, and which Ruby it was made with."""

import re
from typing import NamedTuple

_GEM = re.compile(r" {4}([A-Za-z0-9_.-]+) \(")
_RUBY = re.compile(r"\s+ruby (\d+\.\d+)\.(\d+)")
_VERSION = re.compile(r"(?:ruby-)?(\d+\.\d+)(?:\.(\d+))?\S*")


class Lock(NamedTuple):
    """Names of the gems that are locked, and the Ruby (`3.3.5`), empty where none is named."""

    gems: frozenset[str]
    ruby: str


def parse(text: str) -> Lock:
    """Read a Gemfile.lock; bundler says what is wrong with one."""
    gems = frozenset(match[1] for match in map(_GEM.match, text.splitlines()) if match)
    ruby = ""
    lines = text.splitlines()
    for number, line in enumerate(lines[:-1]):
        match = _RUBY.match(lines[number + 1])
        if line == "RUBY VERSION" and match:
            ruby = f"{match[1]}.{match[2]}"
    return Lock(gems, ruby)


def line_of(version: str) -> str | None:
    """`3.3` of `3.3.5`, `ruby-3.3.5`; None for what is no version of Ruby."""
    match = _VERSION.fullmatch(version.strip())
    return match[1] if match else None
