"""How an app's requests are treated: its owner's settings, maintenance, metrics. What is set is in force without a deploy or a reload."""

import time
from collections.abc import Callable

from shipway.platform import applog, auth, formation, metrics, routeoptions
from shipway.platform.errors import InvalidInput
from shipway.platform.models import User
from shipway.platform.routeoptions import MAINTENANCE, Texts
from shipway.platform.shapes import View
from shipway.platform.store import Store


def get(store: Store, user: User, name: str) -> View:
    """{"settings": what is set, "maintenance": bool}."""
    with store.reading() as db:
        return _view(auth.app_for(db, user, name).routing)


def change(store: Store, user: User, name: str, changes: Texts) -> View:
    """Set, or with "" take back. Answers as `get`. Raises InvalidInput."""
    told = f"Set {', '.join(sorted(changes))} of requests by user {user.name}"
    return _change(store, user, name, lambda old: routeoptions.changed(name, old, changes), told)


def maintain(store: Store, user: User, name: str, *, on: bool) -> View:
    """Turn maintenance on or off: the app runs, and every request is answered by a page. Answers as `get`."""

    def turned(old: Texts) -> Texts:
        rest = {key: value for key, value in old.items() if key != MAINTENANCE}
        return {**rest, MAINTENANCE: "on"} if on else rest

    told = f"Maintenance {'on' if on else 'off'} by user {user.name}"
    return _change(store, user, name, turned, told)


def measured(store: Store, user: User, name: str, minutes: int) -> View:
    """The app's request metrics of the last so many minutes: see metrics.summary. Raises InvalidInput."""
    if not 1 <= minutes <= metrics.MINUTES:
        raise InvalidInput(f"minutes is {minutes}, expected 1 to {metrics.MINUTES}.")
    with store.reading() as db:
        app = auth.app_for(db, user, name)
    now = time.time()  # requests are timed by the router, on this machine
    tallies = metrics.read(applog.folder(store.settings, app.name), now, minutes)
    return metrics.summary(tallies, now)


def _change(
    store: Store, user: User, name: str, change: Callable[[Texts], Texts], told: str
) -> View:
    with store.transaction() as db:
        app = auth.app_for(db, user, name)
        old = app.routing or {}
        new = change(old)
        if new != old:
            app.routing = dict(new) or None
            formation.routes_changed(db, app)
    if new != old:
        applog.append(store.settings, name, "app[api]", told)
    return _view(new)


def _view(texts: Texts | None) -> View:
    return {
        "settings": routeoptions.shown(texts),
        "maintenance": routeoptions.in_maintenance(texts),
    }
