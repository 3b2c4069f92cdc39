"""What a deploy says while it waits: seldom, and the more seldom the longer it takes. No input or output."""

from collections.abc import Sequence
from dataclasses import dataclass

from shipway.platform.formation import PORT
from shipway.platform.models import Instance
from shipway.platform.states import InstanceState

FIRST = 5.0  # seconds until something is said: most apps are up by then


@dataclass
class Patience:
    """When to say something: after 5 s, 10 s, 20 s, 40 s and so on."""

    due: float = FIRST

    def is_over(self, waited: float) -> bool:
        """Whether it is time to say something after `waited` seconds; True once for each time."""
        over = waited >= self.due
        while self.due <= waited:  # several at once, where another worker has waited before
            self.due *= 2
        return over


def waited_for(late: Sequence[Instance], now: float) -> float:
    """For how many seconds the first of the instances that are not up has kept the deploy waiting."""
    return now - (late[0].started_at or late[0].created_at)


def waiting_line(late: Sequence[Instance], waited: float) -> str:
    """What the deploy waits for, by the rows of the instances that are not up."""
    others = f" (and {len(late) - 1} more)" if len(late) > 1 else ""
    return f"       Waiting for {_what(late[0])}{others}... {waited:.0f} s"


def _what(instance: Instance) -> str:
    if instance.state == InstanceState.PENDING:
        return f"its host to start {instance.name}"
    if instance.process_type == "web":
        return f"{instance.name} to answer on port {PORT}"
    return f"{instance.name} to stay up"
