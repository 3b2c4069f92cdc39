"""Who a worker process is."""

import subprocess

from shipway.workers import owner


def test_this_process_lives() -> None:
    """A process that runs has not died."""
    assert not owner.has_died(owner.process("local"), "local")


def test_an_ended_process_has_died() -> None:
    """One that has ended has, at once and also while nobody has waited for it."""
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        name = f"{owner.machine('local')}/{sleeper.pid}.{owner._start_time(sleeper.pid)}"
        assert not owner.has_died(name, "local")
        sleeper.kill()
        while owner._start_time(sleeper.pid):
            pass
        assert owner.has_died(name, "local")


def test_a_reused_pid_is_another_process() -> None:
    """A pid with another start time is somebody else."""
    name = owner.process("local").rpartition(".")[0]
    assert owner.has_died(f"{name}.1", "local")


def test_other_machines_are_not_judged() -> None:
    """Of a process on another machine, boot or pid namespace nothing is known."""
    assert not owner.has_died("other/0.0/1.1", "local")
    assert not owner.has_died(owner.machine("other") + "/999999.1", "local")
    assert not owner.has_died("", "local")
