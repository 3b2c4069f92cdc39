"""The state machines."""

import pytest

from shipway.platform.errors import IllegalMove
from shipway.platform.states import (
    MOVES,
    BuildState,
    InstanceState,
    ReleaseState,
    State,
    check_move,
)


@pytest.mark.parametrize("machine", [BuildState, ReleaseState, InstanceState])
def test_a_machine_keeps_to_itself(machine: type[State]) -> None:
    """Every state of a machine has its moves, and they lead to states of the same machine."""
    assert set(MOVES[machine]) == set(machine)
    assert {type(to) for moves in MOVES[machine].values() for to in moves} == {machine}


def test_states_of_the_same_name_have_their_own_moves() -> None:
    """A pending release deploys; a pending instance starts; neither does what the other may."""
    check_move("Release 1", ReleaseState.PENDING, ReleaseState.DEPLOYING)
    check_move("Instance 1", InstanceState.PENDING, InstanceState.STARTING)
    with pytest.raises(IllegalMove, match="Instance 1 cannot go from up to pending"):
        check_move("Instance 1", InstanceState.UP, InstanceState.PENDING)
