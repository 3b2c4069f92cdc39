"""Order resolution."""

import pytest

from shipway.buildpacks.lifecycle.order import Group, Member, Order, expand


def group(text: str) -> Group:
    return tuple(Member(id_.rstrip("?"), id_.endswith("?")) for id_ in text.split())


def order(*groups: str) -> Order:
    return tuple(group(text) for text in groups)


COMPOSITES = {"O": order("A B", "C D"), "P": order("E F", "G H"), "Q": order("O X")}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (order("E O F"), order("E A B F", "E C D F")),
        (order("O P"), order("A B E F", "A B G H", "C D E F", "C D G H")),
        (order("Q"), order("A B X", "C D X")),
        (order("A O"), order("A B", "A C D")),
        (order("O? E"), order("A B E", "C D E", "E")),
        (order("A?", "B"), order("A?", "B")),
    ],
)
def test_expands(given: Order, expected: Order) -> None:
    """Nested orders become groups depth first, left to right; an id stands once in a group."""
    assert expand(given, COMPOSITES) == expected


def test_circle() -> None:
    """A composite that contains itself is an error and no endless loop."""
    with pytest.raises(ValueError, match="R contains itself"):
        expand(order("R"), {"R": order("S"), "S": order("R")})
