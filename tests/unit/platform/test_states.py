"""The state machines."""

import pytest

from shipway.platform.errors import IllegalMove
from shipway.platform.states import (
    MOVES,
    BuildState,
    InstanceState,
    Outcome,
    ReleaseState,
    State,
    check_move,
    outcome,
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


def test_a_push_succeeds_only_with_its_release() -> None:
    """Once a build has led to a release, what became of the push is what became of that; each pair has an outcome."""
    done = BuildState.SUCCEEDED
    assert outcome(done, ReleaseState.FAILED) == Outcome.DEPLOY_FAILED
    assert outcome(done, ReleaseState.PENDING) == Outcome.DEPLOYING
    assert outcome(done, ReleaseState.LIVE) == outcome(done, ReleaseState.RETIRED)
    assert outcome(done, ReleaseState.LIVE) == Outcome.SUCCEEDED
    found = {outcome(state, None) for state in BuildState}
    found |= {outcome(done, state) for state in ReleaseState}
    assert found == set(Outcome)
