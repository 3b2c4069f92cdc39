"""How many instances of each process type run: showing, scaling, replacing one, waiting until it is so."""

import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from shipway.platform import applog, auth, events, formation, names, releases, shapes
from shipway.platform.errors import Conflict, InvalidInput, NotFound
from shipway.platform.formation import TASK_TYPES
from shipway.platform.models import App, Formation, Instance, User
from shipway.platform.shapes import View
from shipway.platform.states import Desired, InstanceState, ReleaseState
from shipway.platform.store import Store, signal

AMOUNT = re.compile(r"(?P<sign>[+-]?)(?P<number>\d{1,6})", re.ASCII)
LOOK = 2.0  # seconds after which a waiter looks into SQL without a signal


def instances(store: Store, user: User, name: str, *, stopping: bool = False) -> list[View]:
    """The app's instances that are wanted, by name; with `stopping` also those that have not ended yet."""
    with store.reading() as db:
        app = auth.app_for(db, user, name)
        query = (
            select(Instance)
            .where(Instance.app_id == app.id, Instance.state != InstanceState.STOPPED)
            .order_by(Instance.process_type, Instance.number, Instance.id)
        )
        if not stopping:
            query = query.where(Instance.desired == Desired.RUNNING)
        return [shapes.instance(row) for row in db.scalars(query)]


def quantities(store: Store, user: User, name: str) -> dict[str, int]:
    """Instances wanted by process type."""
    with store.reading() as db:
        return shapes.quantities(db, auth.app_for(db, user, name))


def scale(store: Store, user: User, name: str, changes: Mapping[str, str]) -> View:
    """Change how many run, touching only the difference; `changes` are like {"web": "3", "worker": "+1"}.

    Answers {"formation": {type: quantity}, "instances": [ids that start or stop], "release": the one it made or None}:
    `settle` waits for the instances. The first time that a process type is scaled is a release, as a change of what
    the app is. Without a release it is only stored. Raises InvalidInput, InvalidName, NotFound for a process type that there is none of.
    """
    if not changes:
        raise InvalidInput("Say what to scale: web=3, or worker+1.")
    with store.transaction() as db:
        app = auth.app_for(db, user, name)
        known = _known_types(db, app)
        first = {
            kind: quantity
            for kind, amount in changes.items()
            if (quantity := _set_quantity(db, app, _checked_type(kind, app, known), amount))
            is not None
        }
        db.flush()
        now = store.now(db)
        made = None
        if first:
            what = " ".join(f"{kind}={quantity}" for kind, quantity in first.items())
            made = releases.rescaled(db, app, user, now, f"Scale {what}")
        touched = _apply(db, app, now, changes)
        result = shapes.quantities(db, app)
        view = shapes.release(made, current=True) if made else None
    told = " ".join(f"{kind}@{result.get(kind, 0)}" for kind in changes)
    applog.append(store.settings, name, "app[api]", f"Scaled to {told} by user {user.name}")
    if view:
        applog.append_release(store.settings, name, view["version"], user.name)
    return {"formation": result, "instances": touched, "release": view}


def replace(store: Store, user: User, name: str, process: str) -> View:
    """Put a new instance in the place of one, such as `web.1`; answers like `scale`. Raises NotFound.

    The old one goes first, so the others take the requests meanwhile; `restart` is for an app that has but one.
    """
    with store.transaction() as db:
        app = auth.app_for(db, user, name)
        current = releases.current(db, app)
        running = formation.running(db, current) if current else []
        old = [row for row in running if row.name == process]
        if not old:
            there = ", ".join(row.name for row in running) or "none"
            raise NotFound(f"No instance {process!r} of {name} runs; there are: {there}.")
        formation.retire(db, app, old)
        db.flush()
        touched = _apply(db, app, store.now(db)) + [row.id for row in old]
        result = shapes.quantities(db, app)
    applog.append(store.settings, name, "app[api]", f"Restart {process} by user {user.name}")
    return {"formation": result, "instances": touched}


def restart(store: Store, user: User, name: str) -> View:
    """Replace all instances as a deploy does: new ones beside the old, a switch once all are healthy.

    It is a release of its own, "Restart", of what serves now: so it outlives whoever asked for it, is driven by the
    workers like any other deploy, and changes nothing if the new instances do not come up.
    """
    with store.transaction() as db:
        app = auth.app_for(db, user, name)
        base = releases.newest(db, app)
        if base is None:
            raise Conflict(f"{name} has no release yet: push some code first.")
        release = releases.again(db, app, user, store.now(db), base, "Restart", runs_release=False)
        view = shapes.release(release, current=False)
    applog.append(store.settings, name, "app[api]", f"Restart by user {user.name}")
    return view


# -- waiting ------------------------------------------------------------------------------------


def settle(store: Store, app: App, ids: Iterable[int], timeout: float = 180.0) -> Iterator[View]:
    """Wait until the app's instances `ids` are as they are wanted; what happens, as it happens.

    Yields {"instance": name, "state": state} for each move, {} now and then (to notice a client that is gone), and
    at last {"end": "done" | "failed" | "timeout", "message": …}.
    """
    wanted, seen = set(ids), dict[int, str]()
    deadline = time.monotonic() + timeout
    with store.signals.listen(events.app_topic(app.id)) as listener:
        while True:
            with store.reading() as db:
                rows = [
                    (row.id, row.name, row.state, row.desired, row.reason)
                    for row in db.scalars(select(Instance).where(Instance.id.in_(wanted)))
                    if row.app_id == app.id
                ]
            for number, label, state, _, _ in rows:
                if seen.get(number) != state:
                    seen[number] = state
                    yield {"instance": label, "state": state.value}
            end = _ended(rows)
            if end is None and time.monotonic() > deadline:
                end = {"end": "timeout", "message": f"Not done within {timeout:g} seconds."}
            if end is not None:
                yield end
                return
            listener.wait(LOOK)
            yield {}


Row = tuple[int, str, InstanceState, Desired, str | None]


def _ended(rows: list[Row]) -> View | None:
    for _, label, state, desired, reason in rows:
        if desired == Desired.RUNNING and state == InstanceState.CRASHED:
            message = f"{label} crashed: {reason or 'see its log'}"
            return {"end": "failed", "message": message.rstrip(".") + "."}
    goal = {Desired.RUNNING: InstanceState.UP, Desired.STOPPED: InstanceState.STOPPED}
    if all(state == goal[desired] for _, _, state, desired, _ in rows):
        return {"end": "done", "message": ""}
    return None


# -- the difference -----------------------------------------------------------------------------


def _known_types(db: Session, app: App) -> list[str]:
    """The process types of the newest release, [] without one."""
    newest = releases.newest(db, app)
    return [kind for kind in newest.processes if kind not in TASK_TYPES] if newest else []


def _checked_type(kind: str, app: App, known: list[str]) -> str:
    names.process_type(kind)
    if kind in TASK_TYPES:
        raise InvalidInput(f"{kind!r} is a task that runs once per release; it cannot be scaled.")
    if known and kind not in known:
        raise NotFound(
            f"{app.name} has no process type {kind!r}; its Procfile has: {', '.join(known)}."
        )
    return kind


def _set_quantity(db: Session, app: App, kind: str, amount: str) -> int | None:
    """Scale a type; to how many, if that was never done before and is another number than it had."""
    match = AMOUNT.fullmatch(amount)
    if not match:
        raise InvalidInput(
            f"{kind!r} is {amount[:40]!r}, which is no amount: use 3 for three, '+1' for one more,"
            " '-1' for one fewer."
        )
    row = db.scalar(
        select(Formation).where(Formation.app_id == app.id, Formation.process_type == kind)
    )
    before = row.quantity if row else (1 if kind == "web" else 0)
    step = {"": -before, "+": 0, "-": 0}[match["sign"]]
    number = int(match["number"]) * (-1 if match["sign"] == "-" else 1)
    quantity = names.quantity(before + step + number)
    first = formation.set_quantity(db, app, kind, quantity)
    return quantity if first and quantity != before else None


def _apply(db: Session, app: App, now: float, scaled: Collection[str] = ()) -> list[int]:
    """Fill what serves, and what is being deployed; ids of the instances that this starts or stops.

    The releases that serve or are on their way take over how many there are of the types `scaled`.
    """
    current = releases.current(db, app)
    ahead = releases.under_way(db, app)
    for release in (current, *ahead):
        if release:
            new = formation.planned(db, app, release)
            old = release.formation or new
            release.formation = {**new, **old, **{k: new[k] for k in scaled if k in new}}
    db.flush()
    deploying = [release for release in ahead if release.state == ReleaseState.DEPLOYING]
    targets = {release.id: release for release in (current, *deploying) if release}
    before = {row.id for release in targets.values() for row in formation.running(db, release)}
    for release in targets.values():
        formation.fill(db, app, release, now)
    db.flush()
    after = {row.id for release in targets.values() for row in formation.running(db, release)}
    # Also without a difference: who deploys looks again at what is wanted.
    signal(db, events.app_topic(app.id))
    return sorted(before ^ after)
