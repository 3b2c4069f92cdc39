"""Gemfile.lock files: the gems and the Ruby."""

from shipway.buildpacks.ruby import lockfile

TEXT = """GEM
  remote: x
  specs:
    rails (8.0.1)
      railties (= 8.0.1)
    puma (6.4.2)

RUBY VERSION
   ruby 3.3.5p100

BUNDLED WITH
   2.5.11
"""


def test_parse() -> None:
    """Locked gems count, what they depend on is listed with them anyway."""
    assert lockfile.parse(TEXT) == lockfile.Lock(frozenset({"rails", "puma"}), "3.3.5")
    assert lockfile.parse("") == lockfile.Lock(frozenset(), "")


def test_line() -> None:
    """Versions are compared by their line."""
    assert lockfile.line_of("ruby-3.3.5") == "3.3"
    assert lockfile.line_of("3.3.5p100") == "3.3"
    assert lockfile.line_of("jruby") is None
