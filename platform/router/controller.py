"""`shipway router`: keeps HAProxy routing what SQL says, and deals its log out to the apps' logs.

A change in SQL is signalled; then the routes of the apps that are owed one (`routes_done < routes_wanted`) are read,
put in force and acknowledged. Signals may be lost: every few seconds it looks whether any are owed. Killed at any moment,
HAProxy goes on without it; the next controller adopts it and finds what is still to do in the same two columns.
"""

import contextlib
import logging
import os
import selectors
import signal
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Select, select, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from shipway.platform import events, routeoptions
from shipway.platform.models import App, Domain, Instance
from shipway.platform.router import routerlog
from shipway.platform.router.haproxy import HAProxy
from shipway.platform.router.haproxy_config import Config
from shipway.platform.router.haproxy_worker import HAProxyFailed
from shipway.platform.router.routes import InvalidRoute, Route, Server
from shipway.platform.settings import Settings
from shipway.platform.states import Desired, InstanceState
from shipway.platform.store import Store
from shipway.platform.store import signal as tell

log = logging.getLogger(__name__)

BACKSTOP = 5.0  # s between two looks at what is owed
LOOK_AT_ALL = 60.0  # s between two looks at all routes, in case of a mistake
RETRY = (0.05, 0.1, 0.2, 0.5, 1.0)  # s until the next try when HAProxy does not start
WEB = "web"
STOP_GRACE = 3.0  # s that requests under way have when the platform is ended


@dataclass(frozen=True)
class Wanted:
    """What SQL wants of some apps at one moment."""

    routes: list[Route]
    gone: list[str]  # apps that are being taken down
    generations: dict[int, int]  # app id → the generation of routes this is


class WebInstance(NamedTuple):
    """What the router needs of an instance's row."""

    id: int
    number: int
    state: InstanceState
    address: str | None
    port: int | None


def config(settings: Settings) -> Config:
    """HAProxy's part of the settings."""
    return Config(
        run=settings.run / "haproxy",
        log=settings.data / "router" / "requests.log",
        address=settings.listen,
        port=settings.router_port,
        threads=settings.router_threads,
        trusted=settings.trusted_proxies,
    )


def read_wanted(db: Session, settings: Settings, *, owed_only: bool) -> Wanted:
    """The routes of all apps, or only of those the router owes a change."""
    apps = select(
        *(App.id, App.name, App.release_id, App.routes_wanted, App.destroyed_at, App.routing)
    )
    chosen: Select[tuple[int]] = select(App.id)
    if owed_only:
        apps = apps.where(App.routes_done < App.routes_wanted)
        chosen = chosen.where(App.routes_done < App.routes_wanted)
    rows = db.execute(apps).all()
    if not rows:
        return Wanted([], [], {})
    hosts: dict[int, list[str]] = {}
    for app_id, name in db.execute(
        select(Domain.app_id, Domain.name).where(Domain.app_id.in_(chosen))
    ):
        hosts.setdefault(app_id, []).append(name)
    instances: dict[int, list[WebInstance]] = {}
    found = (
        select(
            Instance.app_id,
            Instance.id,
            Instance.number,
            Instance.state,
            Instance.address,
            Instance.port,
        )
        .join(App, (App.id == Instance.app_id) & (App.release_id == Instance.release_id))
        .where(
            Instance.process_type == WEB,
            Instance.desired == Desired.RUNNING,
            Instance.ready,
            App.id.in_(chosen),
        )
        .order_by(Instance.number)
    )
    for one in db.execute(found):
        instance = WebInstance(one.id, one.number, one.state, one.address, one.port)
        instances.setdefault(one.app_id, []).append(instance)
    wanted = Wanted([], [], {})
    for row in rows:
        wanted.generations[row.id] = row.routes_wanted
        if row.destroyed_at is not None:
            wanted.gone.append(row.name)
            continue
        names = (settings.app_host(row.name), *sorted(hosts.get(row.id, ())))
        try:
            mine = instances.get(row.id, [])
            released = row.release_id is not None
            wanted.routes.append(route(row.name, names, mine, row.routing, released=released))
        except (InvalidRoute, ValueError) as error:  # one app's bad route is its own affair
            log.error("The route of %s stays as it was: %s", row.name, error)
    return wanted


def route(
    app: str,
    hosts: tuple[str, ...],
    instances: Collection[WebInstance],
    settings: Mapping[str, str] | None,
    *,
    released: bool,
) -> Route:
    """The route of an app with its settings, whose serving release wants these web instances to run."""
    options = routeoptions.of(settings)
    if routeoptions.in_maintenance(settings):
        return Route(app, hosts, (), "maintenance", options)
    servers = tuple(
        Server(f"{WEB}.{instance.number}", str(instance.id), instance.address, instance.port)
        for instance in instances
        if instance.state == InstanceState.UP and instance.address and instance.port
    )
    if servers:
        return Route(app, hosts, servers, "ok", options)
    if not released:
        return Route(app, hosts, (), "blank", options)
    crashed = any(instance.state == InstanceState.CRASHED for instance in instances)
    return Route(app, hosts, (), "crashed" if crashed else "none", options)


class Controller:
    """Brings HAProxy to what SQL says."""

    def __init__(self, store: Store, haproxy: HAProxy) -> None:
        self._store = store
        self._haproxy = haproxy

    def catch_up(self) -> None:
        """Put in force what is owed. Raises HAProxyFailed, DBAPIError."""
        while self._put_in_force(owed_only=True):
            pass

    def look_at_all(self) -> None:
        """Put all routes in force, whether owed or not. Raises HAProxyFailed, DBAPIError."""
        self._put_in_force(owed_only=False)

    def _put_in_force(self, *, owed_only: bool) -> bool:
        with self._store.reading() as db:
            wanted = read_wanted(db, self._store.settings, owed_only=owed_only)
        if not wanted.generations and owed_only:
            return False
        if owed_only:
            self._haproxy.update(wanted.routes, wanted.gone)
        else:
            self._haproxy.apply(wanted.routes)
        self._acknowledge(wanted.generations)
        return True

    def _acknowledge(self, generations: dict[int, int]) -> None:
        with self._store.reading() as db:
            owed = set(db.scalars(select(App.id).where(App.routes_done < App.routes_wanted)))
        done = {app: generation for app, generation in generations.items() if app in owed}
        if not done:
            return
        with self._store.transaction() as db:
            for app, generation in done.items():
                db.execute(
                    update(App)
                    .where(App.id == app, App.routes_done < generation)
                    .values(routes_done=generation)
                )
            tell(db, events.ROUTED, *map(events.app_topic, done))


class Wakeup:
    """A file descriptor that another thread makes readable."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        """For a selector."""
        return self._fd

    def set(self) -> None:
        """Wake whoever waits."""
        os.eventfd_write(self._fd, 1)

    def clear(self) -> None:
        """Wait for the next `set`."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._fd)


def serve(settings: Settings, stop: threading.Event, wakeup: Wakeup) -> None:
    """Route until `stop` is set (and `wakeup` after it), which ends HAProxy; anything else leaves it running."""
    store = Store(settings)
    haproxy = HAProxy(config(settings))
    haproxy.start()
    threads = [
        threading.Thread(target=_listen, args=(store, wakeup, stop), daemon=True),
        threading.Thread(
            target=routerlog.run, args=(haproxy.config.log, settings.logs, stop), daemon=True
        ),
    ]
    for thread in threads:
        thread.start()
    try:
        _loop(Controller(store, haproxy), haproxy, stop, wakeup)
        haproxy.stop(STOP_GRACE)
    finally:
        haproxy.close()
    threads[1].join()  # it ends when it has dealt out all there is
    store.engine.dispose()


def _listen(store: Store, wakeup: Wakeup, stop: threading.Event) -> None:
    with store.signals.listen(events.ROUTES) as listener:
        wakeup.set()  # for what was signalled before
        while not stop.is_set():
            if listener.wait(BACKSTOP):
                wakeup.set()


def _loop(controller: Controller, haproxy: HAProxy, stop: threading.Event, wakeup: Wakeup) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(haproxy, selectors.EVENT_READ)
        selector.register(wakeup, selectors.EVENT_READ)
        failures = 0
        look_at_all = 0.0  # monotonic time when all routes are due again
        while not stop.is_set():
            try:
                if time.monotonic() >= look_at_all:
                    controller.look_at_all()
                    look_at_all = time.monotonic() + LOOK_AT_ALL
                controller.catch_up()
                pause = min(haproxy.tend() or BACKSTOP, BACKSTOP)
                failures = 0
            except (HAProxyFailed, DBAPIError, OSError) as error:
                log.error("Routes are as they were; the next try follows: %s", error)
                pause = RETRY[min(failures, len(RETRY) - 1)]
                failures += 1
            selector.select(pause)
            wakeup.clear()


def main(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT, which end HAProxy, too. Raises ShipwayError if HAProxy cannot start at all."""
    stop = threading.Event()
    wakeup = Wakeup()

    def end(*_: object) -> None:
        stop.set()
        wakeup.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    serve(settings, stop, wakeup)
