"""The build plan: which of the buildpacks that passed detection take part, and what each provides.

Follows "Phase #1: Detection" of the buildpack specification. A candidate may offer several
options (its plan and the `[[or]]` alternatives); trials go through their product, the first
candidate varying slowest.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice, product
from typing import Any, NamedTuple

TRIALS = 10_000  # a product of alternatives grows without bound


class Require(NamedTuple):
    """A need for `name`; `metadata` is passed on to the provider as it is."""

    name: str
    metadata: Mapping[str, Any]


class Option(NamedTuple):
    """One possible plan of a buildpack."""

    provides: tuple[str, ...]
    requires: tuple[Require, ...]


class Candidate(NamedTuple):
    """A buildpack that passed detection, with at least one option."""

    id: str
    optional: bool
    options: tuple[Option, ...]
    is_extension: bool = False


class Entry(NamedTuple):
    """A dependency with all that provide it and all that was required of it, in group order."""

    name: str
    providers: tuple[str, ...]
    requires: tuple[Require, ...]


def document(entries: Iterable[Entry]) -> dict[str, Any]:
    """The buildpack plan that tells a provider what is asked of it."""
    return {
        "entries": [
            {"name": need.name, "metadata": need.metadata}
            for entry in entries
            for need in entry.requires
        ]
    }


class Resolution(NamedTuple):
    """The ids that take part, in order, and the plan for them."""

    group: tuple[str, ...]
    entries: tuple[Entry, ...]


class Unresolved(Exception):
    """No trial succeeded; the message says why the last one did not."""


class _Choice(NamedTuple):
    id: str
    optional: bool
    option: Option
    is_extension: bool


class _Unmet(NamedTuple):
    id: str
    problem: str


def resolve(candidates: Sequence[Candidate]) -> Resolution:
    """The first trial that works. Raises Unresolved."""
    problem = "no buildpack of the group takes part"
    for trial in islice(product(*map(_choices, candidates)), TRIALS):
        try:
            return _try(list(trial))
        except Unresolved as error:
            problem = str(error)
    raise Unresolved(problem)


def _choices(candidate: Candidate) -> Iterator[_Choice]:
    """An optional buildpack may only be dropped when none of its alternatives worked."""
    last = len(candidate.options) - 1
    for number, option in enumerate(candidate.options):
        yield _Choice(
            candidate.id, candidate.optional and number == last, option, candidate.is_extension
        )


def _try(trial: list[_Choice]) -> Resolution:
    while any(not choice.is_extension for choice in trial):
        entries, unmet = _match(trial)
        if not unmet:
            return Resolution(tuple(choice.id for choice in trial), entries)
        optional = {choice.id for choice in trial if choice.optional}
        for id_, problem in unmet:
            if id_ not in optional:
                raise Unresolved(f"{id_} {problem}")
        dropped = {id_ for id_, _ in unmet}
        trial = [choice for choice in trial if choice.id not in dropped]
    raise Unresolved("no buildpack of the group takes part")


def _match(trial: Sequence[_Choice]) -> tuple[tuple[Entry, ...], list[_Unmet]]:
    """Requires are met by the same or an earlier buildpack, provides used by the same or a later."""
    providers: dict[str, list[str]] = {}
    requires: dict[str, list[Require]] = {}
    unused: dict[str, list[str]] = {}
    unmet: list[_Unmet] = []
    for choice in trial:
        for name in choice.option.provides:
            unused.setdefault(name, []).append(choice.id)
        for need in choice.option.requires:
            if need.name not in providers and need.name not in unused:
                unmet.append(_Unmet(choice.id, f"requires {need.name}"))
                continue
            providers.setdefault(need.name, []).extend(unused.pop(need.name, ()))
            requires.setdefault(need.name, []).append(need)
    for name, ids in unused.items():
        unmet.extend(_Unmet(id_, f"provides unused {name}") for id_ in ids)
    entries = tuple(
        Entry(name, tuple(providers[name]), tuple(requires[name])) for name in providers
    )
    return entries, unmet
