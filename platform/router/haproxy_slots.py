"""Which slot of HAProxy's serves whom: pure bookkeeping that turns wanted routes into commands.

HAProxy cannot add a backend while it runs, and servers are best not deleted in 2.6. So its configuration declares
backends with idle servers ahead, the slots; a slot is given an address and set ready when an instance needs one, and
set to maintenance when the instance is let go. There its running requests finish, and once there are none the slot is
idle again.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from shipway.platform.router import haproxy_options
from shipway.platform.router.haproxy_options import NETWORKS, OPTIONS, PAGES, Entries
from shipway.platform.router.routes import STATUS_CODES, Route, Server

IDLE_ADDRESS, IDLE_PORT = "127.0.0.1", 1
SIZES = (4, 16, 64, 256)  # servers of a backend; an app gets one of twice its instances or more
START = {4: 12, 16: 2}  # backends a new configuration has, by size
SPARE = {4: 4, 16: 1}  # fewer idle ones ask for more, ahead of need

H2 = "h2"

HOSTS, APPS, SERVERS = "hosts.map", "apps.map", "servers.map"  # host → app → backend; slot → label


@dataclass(frozen=True)
class Command:
    """A line for HAProxy's socket; only for a process that has all backends in `needs`, and has them up to date."""

    text: str
    needs: frozenset[str] = frozenset()


@dataclass(slots=True)
class Slot:
    """A server line; its name is unique in the whole configuration. Not ready but taken: it drains."""

    name: str
    server: Server | None = None
    ready: bool = False


@dataclass(slots=True)
class Backend:
    """A group of slots, for one app at a time; those whose name ends with H2 speak HTTP/2 to their servers."""

    name: str
    slots: list[Slot]
    app: str | None = None

    @property
    def kind(self) -> "Kind":
        """What makes it fit an app."""
        return len(self.slots), self.name.endswith(H2)

    @property
    def idle(self) -> bool:
        """No app has it, and no slot drains from an earlier one."""
        return self.app is None and all(slot.server is None for slot in self.slots)


Kind = tuple[int, bool]  # slots, and whether they speak HTTP/2


@dataclass
class Table:
    """All slots and the maps, as the files have them. `changed` names the files' parts that have changed."""

    backends: dict[str, Backend] = field(default_factory=dict)
    apps: dict[str, str] = field(default_factory=dict)  # app → backend or code
    hosts: dict[str, str] = field(default_factory=dict)  # host → app
    labels: dict[str, str] = field(default_factory=dict)  # slot → label
    options: Entries = field(default_factory=dict)  # these three as haproxy_options has them
    networks: Entries = field(default_factory=dict)
    pages: Entries = field(default_factory=dict)
    keys_of: dict[str, set[tuple[str, str]]] = field(default_factory=dict)  # app → in those three
    hosts_of: dict[str, set[str]] = field(default_factory=dict)  # app → hosts
    draining: dict[str, tuple[Backend, Slot]] = field(default_factory=dict)  # slot → where it is
    idle: dict[Kind, dict[str, Backend]] = field(default_factory=dict)  # by kind, by name
    changed: set[str] = field(default_factory=set)  # backends' and maps' names
    grown: bool = False  # has backends that the running HAProxy lacks

    @classmethod
    def new(cls) -> "Table":
        """The slots of a first start."""
        table = cls()
        for size, count in START.items():
            table.add((size, False), count)
        table.grown = False
        return table

    def add(self, kind: Kind, count: int) -> None:
        """Declare `count` more backends of a kind; they exist in HAProxy after its next reload."""
        size, speaks_h2 = kind
        slot = sum(len(backend.slots) for backend in self.backends.values())
        for number in range(len(self.backends) + 1, len(self.backends) + 1 + count):
            name = f"b{number}{H2 if speaks_h2 else ''}"
            backend = Backend(name, [Slot(str(slot + n)) for n in range(1, size + 1)])
            self.backends[name] = backend
            self.release(backend)
            self.changed.add(name)
            slot += size
        self.grown = True

    # -- what is wanted -------------------------------------------------------------------------

    def replace(self, routes: Iterable[Route]) -> list[Command]:
        """Route exactly `routes`: the commands that lead there."""
        wanted = list(routes)
        gone = self.apps.keys() - {route.app for route in wanted}
        commands = [command for app in sorted(gone) for command in self.remove(app)]
        return commands + self.update(wanted)

    def update(self, routes: Iterable[Route]) -> list[Command]:
        """Route `routes`, leaving other apps alone; new servers come before old ones go."""
        wanted = list(routes)
        commands = [command for route in wanted for command in self._options(route)]
        commands += [command for route in wanted for command in self._servers(route)]
        return commands + list(self._hosts(wanted))

    def remove(self, app: str) -> list[Command]:
        """Route `app` no more."""
        commands = [self._del_host(host) for host in sorted(self.hosts_of.get(app, ()))]
        backend = self.backends.get(self.apps.get(app, ""))
        if app in self.apps:
            commands.append(self._del(APPS, self.apps, app))
        commands += self._forget(app, self.keys_of.get(app, set()).copy())
        return commands + (self._leave(backend) if backend else [])

    def _options(self, route: Route) -> list[Command]:
        """An app's options: what its word in `options.map` speaks of is there before it, and gone after it."""
        wanted = {
            NETWORKS: haproxy_options.networks(route),
            PAGES: haproxy_options.pages(route),
            OPTIONS: haproxy_options.options(route),
        }
        keys = {(file, key) for file, entries in wanted.items() for key in entries}
        commands = [
            self._set(file, self._extra(file), key, value)
            for file, entries in wanted.items()
            for key, value in entries.items()
            if self._extra(file).get(key) != value
        ]
        gone = self.keys_of.get(route.app, set()) - keys
        if keys:
            self.keys_of.setdefault(route.app, set()).update(keys)
        return commands + self._forget(route.app, gone)

    def _forget(self, app: str, keys: set[tuple[str, str]]) -> list[Command]:
        """Remove entries of an app's options, its word first."""
        commands = [
            self._del(file, self._extra(file), key)
            for file, key in sorted(keys, key=lambda each: (each[1] != app, each))
        ]
        left = self.keys_of.get(app, set())
        left -= keys
        if not left:
            self.keys_of.pop(app, None)
        return commands

    def _extra(self, file: str) -> Entries:
        return {OPTIONS: self.options, NETWORKS: self.networks, PAGES: self.pages}[file]

    def _hosts(self, routes: list[Route]) -> Iterator[Command]:
        """Hosts that are new somewhere, then those that are gone: one that moves is never without an app."""
        owned = {route.app: set(self.hosts_of.get(route.app, ())) for route in routes}
        for route in routes:
            for host in sorted(set(route.hosts)):
                if self.hosts.get(host) != route.app:
                    yield self._set_host(host, route.app)
        for route in routes:
            for host in sorted(owned[route.app] - set(route.hosts)):
                if self.hosts.get(host) == route.app:
                    yield self._del_host(host)

    def _servers(self, route: Route) -> list[Command]:
        old = self.backends.get(self.apps.get(route.app, ""))
        target = self._place(route, old) if route.servers else None
        needs = frozenset({target.name} if target else ())
        commands = self._fill(target, route.servers) if target else []
        goal = target.name if target else STATUS_CODES[route.status]
        if self.apps.get(route.app) != goal:
            commands.append(self._set(APPS, self.apps, route.app, goal, needs))
        if old and old is target:
            commands += self._drain(old, route.servers)
        elif old:
            commands += self._leave(old, needs)
        return commands

    def _leave(self, backend: Backend, needs: frozenset[str] = frozenset()) -> list[Command]:
        """Take a backend from its app."""
        backend.app = None
        commands = self._drain(backend, (), needs)
        self.release(backend)
        return commands

    def _place(self, route: Route, old: Backend | None) -> Backend:
        """The backend for the route: the one it has if there is room, else an idle one, else a new one."""
        speaks_h2 = route.options.h2
        if old and old.kind[1] == speaks_h2:
            have = {slot.server for slot in old.slots}
            free = sum(slot.server is None for slot in old.slots)
            if sum(server not in have for server in route.servers) <= free:
                return old
        needed = 2 * len(route.servers)
        kind = next((size for size in SIZES if size >= needed), needed), speaks_h2
        if not self.idle.get(kind):
            ahead = 1 if speaks_h2 else START.get(kind[0], 1)
            self.add(kind, max(ahead, self._count(kind)))
        name = next(iter(self.idle[kind]))
        backend = self.idle[kind].pop(name)
        backend.app = route.app
        return backend

    def release(self, backend: Backend) -> None:
        """Offer a backend to the next app, if it is idle; the one that has been for longest goes first."""
        if backend.idle:
            self.idle.setdefault(backend.kind, {})[backend.name] = backend

    def _count(self, kind: Kind) -> int:
        return sum(backend.kind == kind for backend in self.backends.values())

    def grow_ahead(self) -> None:
        """Double the backends of a size of which few are idle."""
        for size, spare in SPARE.items():
            if len(self.idle.get((size, False), ())) < spare:
                self.add((size, False), self._count((size, False)))

    def _fill(self, backend: Backend, servers: Iterable[Server]) -> list[Command]:
        commands = []
        have = {slot.server: slot for slot in backend.slots if slot.server}
        free = (slot for slot in backend.slots if slot.server is None)
        for server in servers:
            slot = have.get(server)
            if slot is None:
                slot = next(free)
                slot.server = server
                here = frozenset({backend.name})
                commands.append(self._set(SERVERS, self.labels, slot.name, server.label, here))
                commands.append(_address(backend, slot, server.address, server.port))
            if not slot.ready:
                slot.ready = True
                self.draining.pop(slot.name, None)
                self.changed.add(backend.name)
                commands.append(_state(backend, slot, "ready"))
        return commands

    def _drain(
        self, backend: Backend, keep: Iterable[Server], needs: frozenset[str] = frozenset()
    ) -> list[Command]:
        """Let go of all but `keep`; where the app moves to a backend it `needs`, only once that is there."""
        kept = set(keep)
        commands = []
        for slot in backend.slots:
            if slot.ready and slot.server not in kept:
                slot.ready = False
                self.draining[slot.name] = backend, slot
                self.changed.add(backend.name)
                commands.append(_state(backend, slot, "maint", needs))
        return commands

    # -- slots that drain -----------------------------------------------------------------------

    def holders(self, server_id: str) -> list[tuple[Backend, Slot]]:
        """The slots an instance has, in all states: two for a while when its app has moved."""
        return [
            (backend, slot)
            for backend in self.backends.values()
            for slot in backend.slots
            if slot.server and slot.server.id == server_id
        ]

    def free(self, backend: Backend, slot: Slot) -> list[Command]:
        """Make a slot without requests idle. A new address closes kept connections to the old one."""
        slot.server = None
        self.draining.pop(slot.name, None)
        self.release(backend)
        self.changed.add(backend.name)
        return [
            _address(backend, slot, IDLE_ADDRESS, IDLE_PORT),
            self._del(SERVERS, self.labels, slot.name, frozenset({backend.name})),
        ]

    # -- maps -----------------------------------------------------------------------------------

    def _set(
        self,
        file: str,
        entries: dict[str, str],
        key: str,
        value: str,
        needs: frozenset[str] = frozenset(),
    ) -> Command:
        verb = "set" if key in entries else "add"
        entries[key] = value
        self.changed.add(file)
        return Command(f"{verb} map {file} {key} {value}", needs)

    def _del(
        self, file: str, entries: dict[str, str], key: str, needs: frozenset[str] = frozenset()
    ) -> Command:
        del entries[key]
        self.changed.add(file)
        return Command(f"del map {file} {key}", needs)

    def _own(self, host: str, app: str | None) -> None:
        """Keep `hosts_of` right for a host that goes to `app`."""
        if owner := self.hosts.get(host):
            self.hosts_of[owner].discard(host)
            if not self.hosts_of[owner]:
                del self.hosts_of[owner]
        if app:
            self.hosts_of.setdefault(app, set()).add(host)

    def _set_host(self, host: str, app: str) -> Command:
        self._own(host, app)
        return self._set(HOSTS, self.hosts, host, app)

    def _del_host(self, host: str) -> Command:
        self._own(host, None)
        return self._del(HOSTS, self.hosts, host)

    def maps(self) -> Mapping[str, Mapping[str, str]]:
        """The maps by file name."""
        return {
            HOSTS: self.hosts,
            APPS: self.apps,
            SERVERS: self.labels,
            OPTIONS: self.options,
            NETWORKS: self.networks,
            PAGES: self.pages,
        }


def _address(backend: Backend, slot: Slot, address: str, port: int) -> Command:
    text = f"set server {backend.name}/{slot.name} addr {address} port {port}"
    return Command(text, frozenset({backend.name}))


def _state(
    backend: Backend, slot: Slot, state: str, needs: frozenset[str] = frozenset()
) -> Command:
    text = f"set server {backend.name}/{slot.name} state {state}"
    return Command(text, needs | {backend.name})
