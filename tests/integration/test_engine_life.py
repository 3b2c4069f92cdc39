"""Containers that are kept: created, started, paused, stopped and started again."""

import dataclasses
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from enginelab import IDS, IMAGE, Lab, eventually, open_lab
from shipway.runtime.containers import savedspec
from shipway.runtime.containers.attach import STDERR, STDOUT
from shipway.runtime.containers.container import wait_for_end
from shipway.runtime.containers.execution import Program
from shipway.runtime.engine import Engine
from shipway.runtime.errors import (
    AmbiguousName,
    ContainerExists,
    IllegalMove,
    NameInUse,
    NoSuchContainer,
    NoSuchImage,
    NotKept,
    ProgramNotExecutable,
    ProgramNotFound,
)
from shipway.runtime.observability import events
from shipway.runtime.spec import ALLOT, ContainerSpec, Limits, Mount


@pytest.fixture(scope="module")
def module_lab() -> Iterator[Lab]:
    """One engine for all tests of this file."""
    with open_lab(__name__) as lab:
        yield lab


@pytest.fixture
def lab(module_lab: Lab) -> Iterator[Lab]:
    """The engine, and a check that each test's containers leave nothing when removed."""
    yield module_lab
    module_lab.clear()
    assert [name for name in os.listdir(module_lab.config.root / "ids") if name != "lock"] == []


def kept(lab: Lab, name: str, *args: str, **changes: object) -> ContainerSpec:
    """A specification with ids of the engine's, and the log inside the container's folder."""
    return lab.spec(name, *args, **{"ids": ALLOT, "log_path": lab.engine.log_path(name)} | changes)


def logged(lab: Lab, name: str) -> list[str]:
    """The lines a kept container said."""
    path = lab.engine.log_path(name)
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split(" ", 3)[3] for line in lines]


def test_a_container_keeps_what_it_wrote(lab: Lab) -> None:
    """create, start, stop, start, restart: one writable layer, one log, a new process each time."""
    script = "echo again >> /tmp/runs; wc -l < /tmp/runs; exec sleep 60"
    made = lab.engine.create(kept(lab, "keeper", "sh", "-c", script))
    assert (made.state, made.pid, made.ip, made.started_at) == ("created", 0, "", 0.0)
    first = lab.engine.start("keeper")
    eventually(lambda: logged(lab, "keeper") == ["1"])
    assert lab.engine.stop("keeper", 0.0).code == 137
    assert lab.engine.get("keeper").state == "stopped"
    second = Engine(lab.config).start("keeper")
    eventually(lambda: logged(lab, "keeper") == ["1", "2"])
    assert second.pid != first.pid
    assert second.created_at == first.created_at
    third = lab.engine.restart("keeper", 0.0)
    eventually(lambda: logged(lab, "keeper") == ["1", "2", "3"])
    assert third.state == "running"


def test_a_container_outlives_a_reboot(lab: Lab) -> None:
    """When all that a reboot takes is gone, a kept container is lost, and starts with what it wrote."""
    lab.engine.create(kept(lab, "old", "sh", "-c", "echo x >> /tmp/f; cat /tmp/f; exec sleep 60"))
    lab.engine.start("old")
    eventually(lambda: logged(lab, "old") == ["x"])
    init, monitor = lab.engine.pidfds("old")
    for fd in (monitor, init):  # the monitor first: it can note nothing, as in a power cut
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        assert wait_for_end([fd], 10)
        os.close(fd)
    shutil.rmtree(lab.config.run)
    assert lab.engine.get("old").state == "lost"
    lab.engine.setup()
    lab.engine.start("old")
    eventually(lambda: logged(lab, "old") == ["x", "x", "x"])


def test_a_name_is_taken_until_it_is_removed(lab: Lab) -> None:
    """A name in use is refused whatever the state, saying what to do; run() replaces what ended."""
    lab.engine.create(kept(lab, "one", "true"))
    for state in ("created", "stopped"):
        with pytest.raises(NameInUse, match=f"'one' is in use by a container that is {state}.*rm"):
            lab.engine.create(kept(lab, "one", "true"))
        lab.engine.start("one")
        lab.engine.wait("one", 10)
    lab.engine.run(lab.spec("one", "sleep", "60"))
    with pytest.raises(ContainerExists):
        lab.engine.run(lab.spec("one", "true"))


ILLEGAL = {
    "created": ("kill", "pause", "unpause", "exec", "attach"),
    "running": ("start", "unpause", "remove"),
    "paused": ("start", "pause", "exec", "attach", "remove"),
    "stopped": ("kill", "pause", "unpause", "exec", "attach"),
}


def use(lab: Lab, verb: str, name: str) -> object:
    """Use a verb of the table."""
    engine = lab.engine
    verbs = {
        "start": lambda: engine.start(name),
        "kill": lambda: engine.kill(name, signal.SIGUSR1),
        "pause": lambda: engine.pause(name),
        "unpause": lambda: engine.unpause(name),
        "exec": lambda: engine.begin(name, Program(("true",), {})),
        "attach": lambda: engine.attach(name),
        "remove": lambda: engine.remove(name, force=False),
    }
    return verbs[verb]()


def test_illegal_moves_are_named(lab: Lab) -> None:
    """Every move that the table forbids is refused with its verb and state, and changes nothing."""
    lab.engine.create(kept(lab, "moves", "sleep", "60"))
    steps = {
        "created": lambda: None,
        "running": lambda: lab.engine.start("moves"),
        "paused": lambda: lab.engine.pause("moves"),
        "stopped": lambda: lab.engine.stop("moves", 0.0),
    }
    for state, step in steps.items():
        step()
        assert lab.engine.get("moves").state == state
        for verb in ILLEGAL[state]:
            with pytest.raises(IllegalMove) as caught:
                use(lab, verb, "moves")
            assert (caught.value.verb, caught.value.from_state) == (verb, state)
            assert lab.engine.get("moves").state == state
    for verb in ("start", "kill", "pause", "unpause", "exec", "attach", "remove"):
        with pytest.raises(NoSuchContainer):
            use(lab, verb, "nobody")


def test_a_paused_container_stands_still_and_goes_on(lab: Lab) -> None:
    """Paused, no process runs; unpaused, all go on; stop and kill end a paused one at once."""
    script = "while :; do date +%N > /tmp/t; sleep 0.005; done"
    lab.engine.create(kept(lab, "clock", "sh", "-c", script))
    lab.engine.start("clock")
    ticks = lab.engine.files("clock").upper / "tmp/t"
    eventually(ticks.exists)
    lab.engine.pause("clock")
    before = ticks.stat().st_mtime_ns
    assert lab.engine.wait("clock", 0.1) is None
    assert ticks.stat().st_mtime_ns == before
    lab.engine.unpause("clock")
    eventually(lambda: ticks.stat().st_mtime_ns > before)
    lab.engine.pause("clock")
    assert lab.engine.stop("clock", 0.2).code == 137
    lab.engine.start("clock")
    lab.engine.pause("clock")
    lab.engine.kill("clock", signal.SIGKILL)
    ended = lab.engine.wait("clock", 10)
    assert ended is not None
    assert ended.code == 137


def test_stop_sends_what_the_specification_says(lab: Lab) -> None:
    """The container's own stop signal and grace are used."""
    script = "trap 'exit 9' INT; echo ready; while :; do sleep 0.01; done"
    lab.engine.create(kept(lab, "int", "sh", "-c", script, stop_signal=signal.SIGINT))
    lab.engine.start("int")
    eventually(lambda: logged(lab, "int") == ["ready"])
    assert lab.engine.stop("int").code == 9


def test_a_start_that_fails_can_be_tried_again(lab: Lab) -> None:
    """A missing program is told apart from one that cannot be run; the container stays as created."""
    for name, program, error in (
        ("missing", "nope", ProgramNotFound),
        ("folder", "/etc", ProgramNotExecutable),
        ("text", "/etc/passwd", ProgramNotExecutable),
    ):
        lab.engine.create(kept(lab, name, program))
        for _ in range(2):
            with pytest.raises(error):
                lab.engine.start(name)
            assert lab.engine.get(name).state == "created"
    with pytest.raises(NoSuchImage):
        lab.engine.create(dataclasses.replace(kept(lab, "x", "true"), image="no/such:image"))
    assert lab.leftovers().keys() == {"states", "bundles"}


def test_containers_of_run_are_not_started_again(lab: Lab) -> None:
    """run() keeps no specification, and says so."""
    lab.engine.run(lab.spec("once", "true"))
    lab.engine.wait("once", 10)
    with pytest.raises(NotKept, match="create"):
        lab.engine.start("once")


def test_each_has_host_ids_of_its_own(lab: Lab) -> None:
    """Containers without a range get one each, which is free again once they are removed."""
    specs = []
    for name in ("a", "b"):
        lab.engine.create(kept(lab, name, "sleep", "60"))
        specs.append(lab.engine.spec(name))
    bases = [spec.ids.base for spec in specs]
    assert bases == [lab.config.ids, lab.config.ids + 65536]
    pid = lab.engine.start("b").pid
    uids = next(
        line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "Uid" in line
    )
    assert uids.split()[1] == str(bases[1] + 1000)
    lab.engine.remove("a")
    lab.engine.create(kept(lab, "c", "true"))
    assert lab.engine.spec("c").ids.base == bases[0]


def test_a_second_start_follows_no_link_of_the_containers(lab: Lab) -> None:
    """Whatever a container made of its /etc, the engine writes to no other place at the next start."""
    target = lab.folder / "outside"
    target.mkdir()

    def folder(etc: Path) -> None:
        shutil.rmtree(etc)
        etc.symlink_to(target)

    def file(etc: Path) -> None:
        (etc / "hosts").unlink()
        (etc / "hosts").symlink_to(target / "hosts")

    def directory(etc: Path) -> None:
        (etc / "hosts").unlink()
        (etc / "hosts/x").mkdir(parents=True)

    for change in (folder, file, directory, shutil.rmtree):
        lab.engine.create(kept(lab, "odd", "true"))
        lab.engine.start("odd")
        lab.engine.wait("odd", 10)
        change(lab.engine.files("odd").upper / "etc")
        lab.engine.start("odd")
        ended = lab.engine.wait("odd", 10)
        assert ended is not None
        assert ended.code == 0
        assert os.listdir(target) == []
        lab.engine.remove("odd")


def test_streams_can_be_attached_to(lab: Lab) -> None:
    """Input goes in, stdout and stderr come apart, half-closing ends the input, all is logged too."""
    script = "echo err >&2; cat; echo over"
    lab.engine.create(kept(lab, "pipe", "sh", "-c", script, stdin=True, stdin_once=True))
    attached = []
    lab.engine.start("pipe", lambda: attached.append(lab.engine.attach("pipe")))
    [streams] = attached
    sent = bytes(range(256)) * 64
    rest, got = sent, {STDOUT: b"", STDERR: b""}

    def collect() -> bool:
        nonlocal rest
        if rest:
            rest = rest[streams.send(rest) :]
            if not rest:
                streams.end_input()
        try:
            found = streams.receive()
        except BlockingIOError:
            return False
        if found is None:
            return True
        got[found[0]] += found[1]
        return False

    eventually(collect)
    streams.close()
    assert got == {STDOUT: sent + b"over\n", STDERR: b"err\n"}
    assert lab.engine.log_path("pipe").read_bytes().endswith(b"over\n")


def test_programs_run_beside(lab: Lab) -> None:
    """begin() runs a program with its own user, folder, environment and exit code."""
    lab.engine.create(kept(lab, "host", "sleep", "60", env={"A": "1"}))
    lab.engine.start("host")
    lines = "id -u; id -g; pwd; echo $A $B $HOME; exit 6"
    program = Program(("sh", "-c", lines), {"B": "2"}, user="www-data", cwd="/usr")
    begun = lab.engine.begin("host", program)
    output = b""
    assert begun.attachment is not None

    def collect() -> bool:
        nonlocal output
        try:
            found = begun.attachment.receive()
        except BlockingIOError:
            return False
        output += found[1] if found else b""
        return found is None

    eventually(collect)
    assert begun.wait() == 6
    begun.close()
    assert output.decode().split("\n")[:4] == ["33", "33", "/usr", "1 2 /var/www"]
    for program, error in (("nope", ProgramNotFound), ("/etc/passwd", ProgramNotExecutable)):
        with pytest.raises(error):
            lab.engine.begin("host", Program((program,), {}))
    bundle = lab.engine.files("host").bundle
    eventually(lambda: [name for name in os.listdir(bundle) if name.startswith("exec-")] == [])


def test_two_at_once(lab: Lab) -> None:
    """Of many who start, create or remove one container at once, one succeeds; the rest are told."""
    spec = kept(lab, "contended", "sleep", "60")

    def attempt(verb: str) -> str:
        engine = Engine(lab.config)
        try:
            {
                "create": lambda: engine.create(spec),
                "start": lambda: engine.start("contended"),
                "pause": lambda: engine.pause("contended"),
            }[verb]()
        except (NameInUse, IllegalMove) as error:
            return type(error).__name__
        return "done"

    with ThreadPoolExecutor(4) as pool:
        for verb, told in (
            ("create", "NameInUse"),
            ("start", "IllegalMove"),
            ("pause", "IllegalMove"),
        ):
            answers = sorted(pool.map(attempt, [verb] * 4))
            assert answers == [told] * 3 + ["done"]


def test_ids_can_be_shortened(lab: Lab) -> None:
    """The beginning of a made-up id is enough if it fits one; a given name must be whole."""
    for name in ("abc000000001", "abc000000002", "abcdef"):
        lab.engine.create(kept(lab, name, "true"))
    assert lab.engine.resolve("abc000000001") == "abc000000001"
    with pytest.raises(AmbiguousName, match="abc000000001, abc000000002"):
        lab.engine.resolve("abc0")
    with pytest.raises(NoSuchContainer):
        lab.engine.resolve("abcd")
    lab.engine.remove("abc000000002")
    assert lab.engine.resolve("abc0") == "abc000000001"


def test_what_happened_is_noted_once(lab: Lab) -> None:
    """Each event is there once and in order, however many processes see a container's end."""
    lab.engine.create(kept(lab, "story", "sh", "-c", "exit 3", labels={"app": "x"}))
    lab.engine.start("story")
    lab.engine.wait("story", 10)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: Engine(lab.config).wait("story"), range(8)))
    lab.engine.remove("story")
    told = [event for event in events.read(lab.config.root) if event.id == "story"]
    assert [event.action for event in told] == ["create", "start", "die", "destroy"]
    [died] = [event for event in told if event.action == "die"]
    assert died.attributes["exitCode"] == "3"
    assert died.attributes["app"] == "x"


def test_a_follower_sees_an_end_that_nobody_waits_for(lab: Lab) -> None:
    """Who follows the events is told of a container that died, with no verb used on it."""
    from shipway.runtime.watching import follow

    seen: list[tuple[str, str]] = []
    began = time.time()

    def watch() -> None:
        for event in follow(Engine(lab.config), began, began + 30):
            seen.append((event.id, event.action))
            if event.action == "die":
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    lab.engine.create(kept(lab, "brief", "sh", "-c", "sleep 0.3; exit 4"))
    lab.engine.start("brief")
    watcher.join(20)
    assert seen == [("brief", "create"), ("brief", "start"), ("brief", "die")]


def test_events_are_rotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of events stays small; the one before it is kept, and half a line breaks nothing."""
    monkeypatch.setattr(events, "MOST_BYTES", 2000)
    for number in range(100):
        events.note(tmp_path, "image", "pull", f"i{number}")
    names = [event.id for event in events.read(tmp_path)]
    assert 20 < len(names) < 100
    assert names[-1] == "i99"
    with (tmp_path / "events/log").open("a") as file:
        file.write('[1,"image"')
    assert [event.id for event in events.read(tmp_path)] == names


def test_a_specification_comes_back_as_it_was(lab: Lab) -> None:
    """Every field of a specification survives being written down."""
    spec = ContainerSpec(
        id="full",
        image=IMAGE,
        args=("a", "b\n"),
        env={"X": "é"},
        ids=IDS,
        groups=(5, 6),
        limits=Limits(memory=1 << 30, cpus=0.5),
        mounts=(
            Mount("/tmp", "/mnt", True),
            Mount("tmpfs", "/t", options=("size=1",), kind="tmpfs"),
        ),
        capabilities=frozenset({"CAP_KILL", "CAP_CHOWN"}),
        labels={"a": "b"},
        log_path=Path("/x/y"),
        stop_timeout=1.5,
    )
    assert savedspec.load(savedspec.dump(spec)) == spec
