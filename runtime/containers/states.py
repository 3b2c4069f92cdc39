"""The states of a container, and which verb may be used in which: one table, asked before any change."""

from dataclasses import dataclass
from typing import Literal

from shipway.runtime.errors import IllegalMove

State = Literal["created", "running", "paused", "stopped", "lost"]

# What Docker calls them.
DOCKER_STATUS: dict[State, str] = {
    "created": "created",
    "running": "running",
    "paused": "paused",
    "stopped": "exited",
    "lost": "dead",
}


@dataclass(frozen=True)
class Move:
    """Where a verb may be used, and the state it leads to. `advice` is for who is elsewhere."""

    before: frozenset[State]
    after: State
    advice: str


def _move(before: tuple[State, ...], after: State, advice: str) -> Move:
    return Move(frozenset(before), after, advice)


# `stop`, `restart` and `wait` may be used in every state.
MOVES = {
    "start": _move(("created", "stopped", "lost"), "running", "stop it first, or use restart"),
    "kill": _move(("running", "paused", "lost"), "stopped", "only a running one takes a signal"),
    "pause": _move(("running",), "paused", "only a running one can be paused"),
    "unpause": _move(("paused",), "running", "only a paused one can be unpaused"),
    "exec": _move(("running",), "running", "start or unpause it first"),
    "top": _move(("running", "paused"), "running", "only a running one has processes"),
    "attach": _move(("running",), "running", "start or unpause it first"),
    "remove": _move(("created", "stopped", "lost"), "stopped", "stop it first, or use --force"),
}


def check_move(container_id: str, verb: str, state: State) -> None:
    """Raise IllegalMove if `verb` may not be used on a container in `state`."""
    move = MOVES[verb]
    if state not in move.before:
        raise IllegalMove(container_id, verb, state, move.after, move.advice)
