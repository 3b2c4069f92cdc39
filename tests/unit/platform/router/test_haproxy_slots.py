"""The bookkeeping of slots: which commands a change of routes needs, and in which order."""

import random

import pytest

from shipway.platform.router.haproxy_slots import START, Command, Table
from shipway.platform.router.routes import Route, Server


def server(number: int) -> Server:
    """An instance."""
    return Server(f"web.{number}", f"i{number}", f"10.0.{number // 250}.{number % 250 + 1}", 5000)


def route(app: str, *numbers: int) -> Route:
    """An app's route to some instances, or to none."""
    servers = tuple(map(server, numbers))
    return Route(app, (f"{app}.localhost",), servers, status="ok" if servers else "none")


def texts(commands: list[Command]) -> list[str]:
    """The commands as they are sent."""
    return [command.text for command in commands]


def sweep(table: Table) -> None:
    """Free every slot that drains."""
    for where in list(table.draining.values()):
        table.free(*where)


def test_a_new_app() -> None:
    """An app's instance is ready before the app is known, and the app before its host."""
    assert texts(Table.new().update([route("one", 7)])) == [
        "add map servers.map 1 web.7/i7",
        "set server b1/1 addr 10.0.0.8 port 5000",
        "set server b1/1 state ready",
        "add map apps.map one b1",
        "add map hosts.map one.localhost one",
    ]


def test_a_switch() -> None:
    """The new instance takes requests before the old one stops to."""
    table = Table.new()
    table.update([route("one", 1)])
    assert texts(table.update([route("one", 2)])) == [
        "add map servers.map 2 web.2/i2",
        "set server b1/2 addr 10.0.0.3 port 5000",
        "set server b1/2 state ready",
        "set server b1/1 state maint",
    ]
    assert [slot.server for _, slot in table.draining.values()] == [server(1)]


def test_only_the_difference() -> None:
    """The same routes again need nothing; one instance more touches no other."""
    table = Table.new()
    routes = [route("one", 1), route("two", 2, 3), route("off")]
    table.replace(routes)
    assert table.replace(routes) == []
    assert all("b1/1" not in text for text in texts(table.update([route("one", 1, 9)])))


def test_a_drained_instance_that_is_wanted_again() -> None:
    """It gets its own slot back."""
    table = Table.new()
    table.update([route("one", 1)])
    table.update([route("one", 2)])
    commands = texts(table.update([route("one", 2, 1)]))
    assert commands == ["set server b1/1 state ready"]
    assert table.draining == {}


def test_an_instance_that_came_back_elsewhere() -> None:
    """The same instance at another address is another server."""
    table = Table.new()
    table.update([route("one", 1)])
    moved = Server("web.1", "i1", "10.9.9.9", 5000)
    commands = texts(table.update([Route("one", ("one.localhost",), (moved,))]))
    assert "set server b1/2 addr 10.9.9.9 port 5000" in commands
    assert commands[-1] == "set server b1/1 state maint"


def test_a_slot_that_drains_is_not_given_away() -> None:
    """Neither to the same app nor to another."""
    table = Table.new()
    table.update([route("one", 1)])
    table.update([route("one")])
    table.update([route("two", 2)])
    assert table.apps == {"one": "H14", "two": "b2"}
    assert "b1" not in table.idle[4, False]
    sweep(table)
    assert list(table.idle[4, False])[-1] == "b1"


def test_out_of_room_in_a_backend() -> None:
    """With all slots of its backend taken an app moves to a larger one, and only then leaves the old one."""
    table = Table.new()
    table.update([route("one", 1, 2)])
    table.update([route("one", 3, 4)])
    commands = table.update([route("one", 5, 6, 7)])
    large = table.apps["one"]
    assert len(table.backends[large].slots) == 16
    switch = texts(commands).index(f"set map apps.map one {large}")
    assert "set server b1/3 state maint" in texts(commands)[switch:]
    assert all(large in c.needs for c in commands[switch:] if "maint" in c.text)
    assert not table.grown


def test_growing() -> None:
    """More apps than backends declare as many again; what needs them says so."""
    table = Table.new()
    count = START[4]
    commands = table.replace([route(f"a{n}", n) for n in range(count + 1)])
    assert table.grown
    assert len(table.backends) == sum(START.values()) + count
    newest = table.apps[f"a{count}"]
    assert newest not in Table.new().backends
    assert f"add map apps.map a{count} {newest}" in texts(
        [c for c in commands if newest in c.needs]
    )


def test_growing_ahead() -> None:
    """With few idle backends left more are declared before anybody needs them."""
    table = Table.new()
    table.grow_ahead()
    assert not table.grown
    table.replace([route(f"a{n}", n) for n in range(START[4] - 2)])
    assert not table.grown
    table.grow_ahead()
    assert table.grown


def test_hosts_that_move() -> None:
    """A host that goes to another app in the same breath is set, never deleted."""
    for order in (1, -1):
        table = Table.new()
        table.replace(
            [Route("one", ("a.x", "b.x"), status="none"), Route("two", ("c.x",), status="none")]
        )
        one, two = (
            Route("one", ("a.x",), status="none"),
            Route("two", ("b.x", "c.x"), status="none"),
        )
        assert texts(table.replace([one, two][::order])) == ["set map hosts.map b.x two"]
        assert table.hosts == {"a.x": "one", "b.x": "two", "c.x": "two"}
        assert table.hosts_of == {"one": {"a.x"}, "two": {"b.x", "c.x"}}


def test_a_huge_app() -> None:
    """An app larger than all sizes gets a backend of its own size."""
    table = Table.new()
    table.update([route("one", *range(200))])
    assert len(table.backends[table.apps["one"]].slots) == 400


@pytest.mark.parametrize("seed", range(20))
def test_any_history_leads_to_the_wanted(seed: int) -> None:
    """Whatever changes came before: each app's ready slots are its instances, no slot has two, names are unique."""
    dice = random.Random(seed)
    table = Table.new()
    for _ in range(40):
        apps = [f"a{n}" for n in range(dice.randrange(1, 30))]
        routes = [
            route(app, *dice.sample(range(40 * n, 40 * n + 40), dice.choice([0, 1, 1, 2, 5, 12])))
            for n, app in enumerate(apps)
            if dice.random() < 0.8
        ]
        table.replace(routes)
        if dice.random() < 0.5:
            sweep(table)
        assert set(table.apps) == {r.app for r in routes}
        for one in routes:
            backend = table.backends.get(table.apps[one.app])
            ready = {slot.server for slot in backend.slots if slot.ready} if backend else set()
            assert ready == set(one.servers)
        slots = [slot for backend in table.backends.values() for slot in backend.slots]
        assert len({slot.name for slot in slots}) == len(slots)
        assert {s.name for s in slots if s.ready} == {
            s.name
            for r in routes
            if (b := table.backends.get(table.apps[r.app]))
            for s in b.slots
            if s.ready
        }
        assert set(table.labels) == {slot.name for slot in slots if slot.server}
        assert table.hosts == {f"{r.app}.localhost": r.app for r in routes}
