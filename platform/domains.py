"""An app's domains: the host names that lead to it, beside its own under the platform's domain.

A domain belongs to one app. A wildcard, *.example.com, takes what nobody named more exactly; so that nobody gets hold
of names under somebody else's domain, all names a wildcard covers belong to apps of one owner.
"""

import time
from collections.abc import Iterator

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from shipway.platform import applog, auth, events, formation, hostnames, shapes
from shipway.platform.errors import Conflict, InvalidInput, NotFound
from shipway.platform.hostnames import WILDCARD
from shipway.platform.models import App, Domain, User
from shipway.platform.shapes import View
from shipway.platform.store import Store

MOST = 1000  # domains of one app
LOOK = 5.0  # s between two looks at what may have been signalled


def of(store: Store, user: User, name: str) -> list[str]:
    """The app's host names, its own under the platform's domain first."""
    with store.reading() as db:
        app = auth.app_for(db, user, name)
        return [store.settings.app_host(app.name), *shapes.domains(db, app)]


def add(store: Store, user: User, name: str, host: str) -> str:
    """Lead a host name to the app; returns it as it is kept. Raises InvalidName, Conflict."""
    host = hostnames.normal(host)
    hostnames.refuse_platforms(host, store.settings)
    with store.transaction() as db:
        app = auth.app_for(db, user, name)
        _check_free(db, app, host)
        if len(shapes.domains(db, app)) >= MOST:
            raise InvalidInput(f"{app.name} has {MOST} domains, the most an app may have.")
        db.add(Domain(app_id=app.id, name=host))
        formation.routes_changed(db, app)
    _note(store, user, name, f"Add domain {host}")
    return host


def remove(store: Store, user: User, name: str, host: str) -> str:
    """Lead a host name to the app no more. Raises NotFound."""
    host = hostnames.normal(host)
    with store.transaction() as db:
        app = auth.app_for(db, user, name)
        db.delete(_row(db, app, host))
        formation.routes_changed(db, app)
    _note(store, user, name, f"Remove domain {host}")
    return host


def clear(store: Store, user: User, name: str) -> list[str]:
    """Remove all of the app's domains; returns those there were. Its name under the platform's domain stays."""
    with store.transaction() as db:
        app = auth.app_for(db, user, name)
        rows = list(db.scalars(select(Domain).where(Domain.app_id == app.id).order_by(Domain.name)))
        gone = [row.name for row in rows]
        for row in rows:
            db.delete(row)
        if gone:
            formation.routes_changed(db, app)
    if gone:
        _note(store, user, name, f"Remove domains {', '.join(gone)}")
    return gone


def check(store: Store, user: User, name: str, host: str) -> App:
    """The app, which must have the domain `host` unless that is "". Raises NotFound, InvalidName."""
    with store.reading() as db:
        app = auth.app_for(db, user, name)
        if host and hostnames.normal(host) != store.settings.app_host(app.name):
            _row(db, app, hostnames.normal(host))
        return app


def routed(store: Store, app: App, timeout: float = 60.0) -> Iterator[View]:
    """Wait until the router has done what was wanted of the app's routes when this was asked.

    Yields {} now and then (to notice a client that is gone), and at last {"end": "done" | "timeout", "message": …}.
    """
    deadline = time.monotonic() + timeout
    goal: int | None = None
    with store.signals.listen(events.app_topic(app.id)) as listener:
        while True:
            with store.reading() as db:
                row = db.get(App, app.id)
                done = row.routes_done if row else 0
                goal = goal if goal is not None else row.routes_wanted if row else 0
            if done >= goal:
                yield {"end": "done", "message": ""}
                return
            if time.monotonic() > deadline:
                text = f"The router has not taken it up within {timeout:g} seconds: is it up?"
                yield {"end": "timeout", "message": text}
                return
            listener.wait(min(LOOK, timeout))
            yield {}


def _row(db: Session, app: App, host: str) -> Domain:
    row = db.scalar(select(Domain).where(Domain.name == host, Domain.app_id == app.id))
    if row is None:
        raise NotFound(f"{host} is no domain of the app {app.name!r}.")
    return row


def _check_free(db: Session, app: App, host: str) -> None:
    """Raise Conflict if the name is somebody's, or is covered by a wildcard of another owner, or covers such names."""
    taken = db.scalar(select(Domain).where(Domain.name == host))
    if taken is not None and taken.app_id == app.id:
        raise Conflict(f"{host} leads to {app.name} already.")
    if taken is not None:
        raise Conflict(f"{host} is taken: a domain belongs to one app only.")
    related: ColumnElement[bool] = Domain.name.in_(hostnames.covering(host))
    if host.startswith(WILDCARD):
        related = or_(related, Domain.name.endswith(host[1:], autoescape=True))
    others = (
        select(Domain.id)
        .join(App, App.id == Domain.app_id)
        .where(related, App.owner_id != app.owner_id)
    )
    if db.scalar(others.limit(1)) is not None:
        raise Conflict(
            f"{host} is taken: a wildcard and the domains under it belong to apps of one owner."
        )


def _note(store: Store, user: User, app: str, what: str) -> None:
    applog.append(store.settings, app, "app[api]", f"{what} by user {user.name}")
