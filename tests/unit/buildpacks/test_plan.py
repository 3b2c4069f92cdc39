"""The build plan: cases that any lifecycle of the specification must agree on."""

import pytest

from shipway.buildpacks.lifecycle.plan import Candidate, Option, Require, Unresolved, resolve


def option(provides: str = "", requires: str = "") -> Option:
    return Option(tuple(provides.split()), tuple(Require(name, {}) for name in requires.split()))


def candidate(id_: str, *options: Option) -> Candidate:
    """`A?` is an optional buildpack A."""
    return Candidate(id_.rstrip("?"), id_.endswith("?"), options or (option(),))


CASES = {
    "matched dependencies": (
        [
            candidate("A", option("dep1 dep2", "dep2")),
            candidate("C", option("dep1 dep2")),
            candidate("D", option("dep2", "dep1 dep2")),
            candidate("B", option("", "dep1 dep2")),
        ],
        "A C D B",
        {"dep1": ("A C", 2), "dep2": ("A C D", 3)},
    ),
    "unmet provides and requires of optional buildpacks": (
        [
            candidate("A?", option("", "dep-missing")),
            candidate("B", option("dep-present", "dep-present")),
            candidate("C?", option("dep-missing")),
        ],
        "B",
        {"dep-present": ("B", 1)},
    ),
    "alternatives": (
        [
            candidate("A?", option("dep2-missing"), option("dep1-present")),
            candidate("B?", option("", "dep3-missing"), option("", "dep1-present")),
            candidate(
                "C", option("dep5-missing", "dep4-missing"), option("dep6-present", "dep6-present")
            ),
            candidate(
                "D?",
                option("dep8-missing", "dep7-missing"),
                option("dep10-missing", "dep9-missing"),
            ),
        ],
        "A B C",
        {"dep1-present": ("A", 1), "dep6-present": ("C", 1)},
    ),
    "no demands at all": ([candidate("A"), candidate("B?")], "A B", {}),
    "a dropped provider makes its user's need unmet": (
        [
            candidate("A?", option("x unused")),
            candidate("B?", option("", "x")),
            candidate("C"),
        ],
        "C",
        {},
    ),
    "the first alternative that works wins": (
        [candidate("A", option("x", "x"), option("y", "y"))],
        "A",
        {"x": ("A", 1)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_resolves(case: str) -> None:
    """A group whose provides and requires match is taken, less the optional ones that do not."""
    candidates, group, expected = CASES[case]
    resolution = resolve(candidates)
    assert " ".join(resolution.group) == group
    found = {
        entry.name: (" ".join(entry.providers), len(entry.requires)) for entry in resolution.entries
    }
    assert found == expected


@pytest.mark.parametrize(
    ("candidates", "reason"),
    [
        (
            [candidate("B", option("", "dep1")), candidate("C", option("dep1", "dep1"))],
            "B requires dep1",
        ),
        (
            [candidate("A", option("dep1", "dep1")), candidate("B", option("dep1"))],
            "B provides unused dep1",
        ),
        ([candidate("A?", option("", "x"))], "no buildpack of the group takes part"),
        ([], "no buildpack of the group takes part"),
        (
            [candidate("A", *[option("", "x")] * 20), candidate("B", *[option("", "y")] * 2000)],
            "A requires x",
        ),
    ],
)
def test_fails(candidates: list[Candidate], reason: str) -> None:
    """Requires must be provided first and provides required after; the reason names who and what."""
    with pytest.raises(Unresolved, match=reason):
        resolve(candidates)


def test_metadata() -> None:
    """What a requirement says about itself reaches the provider as it is."""
    need = Require("x", {"version": "3.*", "build": True})
    resolution = resolve([candidate("A", Option(("x",), (need,)))])
    assert resolution.entries[0].requires == (need,)
