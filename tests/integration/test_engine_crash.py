"""Whoever starts or removes a container is killed at each step: nothing stays that is not found."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from enginelab import DEADLY, IMAGE, STARTING, Lab, open_lab
from shipway.runtime.errors import NameInUse
from shipway.runtime.spec import ContainerSpec

CREATING = [
    "ids.ranges:IdRanges.lease",
    "containers.container:Files.create",
    "containers.savedspec:dump",
    "containers.container:Files.write_record",
    "observability.events:note",
]
# Of a start again: what clears the last run, too.
STARTING_AGAIN = [
    "kernel.cgroups:Cgroups.kill_all",
    "containers.removal:clear_run",
    "containers.container:Files.reset",
    *STARTING[1:],
]
REMOVING = [
    "kernel.cgroups:Cgroups.kill_all",
    "containers.removal:kill_processes",
    "kernel.cgroups:Cgroups.remove",
    "containers.removal:delete_tree",
    "network.addresses:AddressPool.release",
]

SCRIPT = (
    DEADLY
    + """
engine = Engine(EngineConfig(**eval(config)))
spec = ContainerSpec("victim", image, ("sleep", "60"), {}, IdRange(300000))
kept = ContainerSpec("victim", image, ("sleep", "60"), {})
if verb == "remove":
    engine.run(spec)
if verb in ("start", "restart"):
    engine.create(kept)
if verb == "restart":
    engine.start("victim")
    (engine.files("victim").upper / "kept").touch()
arm()
{
    "run": lambda: engine.run(spec),
    "remove": lambda: engine.remove("victim"),
    "create": lambda: engine.create(kept),
    "start": lambda: engine.start("victim"),
    "restart": lambda: engine.restart("victim", 0.0),
}[verb]()
"""
)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One engine for all tests of this file."""
    with open_lab(__name__) as lab:
        yield lab


def die_at(lab: Lab, step: str, when: str, verb: str) -> None:
    """Have a process start (or remove) the container "victim" and be killed at a step."""
    config = repr(vars(lab.config)).replace("PosixPath", "Path")
    argv = [sys.executable, "-c", SCRIPT, step, when, verb, config, IMAGE]
    done = subprocess.run(argv, timeout=60, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", STARTING)
def test_remove_clears_what_a_killed_start_left(lab: Lab, step: str, when: str) -> None:
    """After kill -9 around any step of a start, remove() leaves nothing at all."""
    die_at(lab, step, when, "run")
    assert [container.state for container in lab.engine.list()] in (
        [],
        ["created"],
        ["lost"],
        ["running"],
    )
    lab.engine.remove("victim")
    assert lab.leftovers() == {}


@pytest.mark.parametrize("step", STARTING[:-2])
def test_the_next_start_replaces_what_a_killed_one_left(lab: Lab, step: str) -> None:
    """After kill -9 at any step of a start, a start with the same id simply works."""
    die_at(lab, step, "after", "run")
    lab.run("victim", "sleep", "60")
    assert lab.engine.get("victim").state == "running"
    lab.engine.remove("victim")
    assert lab.leftovers() == {}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", CREATING)
def test_a_killed_create_made_it_or_did_not(lab: Lab, step: str, when: str) -> None:
    """After kill -9 around any step of create(), it can be created, or is there and can be started."""
    die_at(lab, step, when, "create")
    try:
        lab.engine.create(ContainerSpec("victim", IMAGE, ("sleep", "60"), {}))
    except NameInUse:
        assert (step, when) in [
            ("containers.container:Files.write_record", "after"),
            ("observability.events:note", "before"),
            ("observability.events:note", "after"),
        ]
    assert lab.engine.start("victim").state == "running"
    lab.engine.remove("victim")
    assert lab.leftovers() == {}
    assert [name for name in os.listdir(lab.config.root / "ids") if name != "lock"] == []


@pytest.mark.parametrize("step", STARTING[1:])
def test_a_killed_first_start_can_be_done_again(lab: Lab, step: str) -> None:
    """After kill -9 at any step of start(), a container that does not run yet can be started."""
    die_at(lab, step, "after", "start")
    if lab.engine.get("victim").state != "running":
        lab.engine.start("victim")
    assert lab.engine.get("victim").state == "running"
    lab.engine.remove("victim")
    assert lab.leftovers() == {}


@pytest.mark.parametrize("step", STARTING_AGAIN)
def test_a_killed_restart_can_be_done_again(lab: Lab, step: str) -> None:
    """After kill -9 at any step of restart(), another works, with all that the container wrote."""
    die_at(lab, step, "after", "restart")
    lab.engine.restart("victim", 0.0)
    assert lab.engine.get("victim").state == "running"
    assert (lab.engine.files("victim").upper / "kept").exists()
    lab.engine.remove("victim")
    assert lab.leftovers() == {}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", REMOVING)
def test_remove_goes_on_where_a_killed_one_ended(lab: Lab, step: str, when: str) -> None:
    """After kill -9 around any step of a removal, another removal leaves nothing at all."""
    die_at(lab, step, when, "remove")
    lab.engine.remove("victim")
    assert lab.leftovers() == {}
