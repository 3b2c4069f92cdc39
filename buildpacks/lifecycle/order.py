"""Order resolution: nested orders become a flat list of groups, depth first, left to right."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import NamedTuple


class Member(NamedTuple):
    """A place in a group. Each id is known in one version only, so the id names it."""

    id: str
    optional: bool = False


Group = tuple[Member, ...]
Order = tuple[Group, ...]


def expand(order: Sequence[Group], composites: Mapping[str, Order]) -> Order:
    """Replace each composite buildpack by the groups of its own order.

    An optional composite may also be left out. A second place for the same id in one group is
    dropped. Raises ValueError when a composite contains itself.
    """
    return tuple(
        _distinct(group) for members in order for group in _expand_group(members, composites, ())
    )


def _expand_group(
    group: Group, composites: Mapping[str, Order], above: tuple[str, ...]
) -> list[Group]:
    choices: list[list[Group]] = []
    for member in group:
        if member.id not in composites:
            choices.append([(member,)])
            continue
        if member.id in above:
            raise ValueError(f"buildpack {member.id} contains itself")
        nested = [
            expanded
            for inner in composites[member.id]
            for expanded in _expand_group(inner, composites, (*above, member.id))
        ]
        choices.append([*nested, ()] if member.optional else nested)
    return [sum(combination, ()) for combination in product(*choices)]


def _distinct(group: Group) -> Group:
    seen: dict[str, Member] = {}
    for member in group:
        seen.setdefault(member.id, member)
    return tuple(seen.values())
