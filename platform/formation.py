"""From how many instances are wanted to rows of instances: only the difference is touched."""

from collections.abc import Iterable, Mapping

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from shipway.platform import events
from shipway.platform.errors import Unavailable
from shipway.platform.models import App, Formation, Host, Instance, Release
from shipway.platform.states import Desired, ReleaseState
from shipway.platform.store import enqueue, signal

PORT = 5000  # every instance has a network of its own, so all may listen on the same port
# Types that are tasks and never run as services.
TASK_TYPES = frozenset({"release"})
AHEAD = frozenset({ReleaseState.PENDING, ReleaseState.DEPLOYING})


def wanted(db: Session, app: App, release: Release) -> dict[str, int]:
    """Instances wanted by process type of `release`.

    Until it is live it has a scale of its own, and the app's from then on.
    """
    own = release.formation if release.state in AHEAD else None
    return planned(db, app, release, own)


def planned(
    db: Session, app: App, release: Release, own: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Instances by process type: `own`, else what the app is scaled to, else web=1 and the rest 0."""
    rows = db.execute(
        select(Formation.process_type, Formation.quantity).where(Formation.app_id == app.id)
    )
    scaled = {kind: quantity for kind, quantity in rows}  # noqa: C416 -- dict() takes a Result for a mapping
    scaled.update(own or {})
    return {
        kind: scaled.get(kind, 1 if kind == "web" else 0)
        for kind in release.processes
        if kind not in TASK_TYPES
    }


def set_quantity(db: Session, app: App, kind: str, quantity: int) -> bool:
    """Scale a process type; whether that was never done before."""
    row = db.scalar(
        select(Formation).where(Formation.app_id == app.id, Formation.process_type == kind)
    )
    if row is not None:
        row.quantity = quantity
        return False
    db.add(Formation(app_id=app.id, process_type=kind, quantity=quantity))
    db.flush()
    return True


def adopt(db: Session, app: App, release: Release) -> None:
    """Scale the app as `release` is, which is live now; what nobody has ever scaled stays so."""
    before = planned(db, app, release)
    for kind, quantity in (release.formation or {}).items():
        if before.get(kind) != quantity:
            set_quantity(db, app, kind, quantity)


def running(db: Session, release: Release) -> list[Instance]:
    """The release's instances that are wanted to run, in order of number."""
    return list(
        db.scalars(
            select(Instance)
            .where(Instance.release_id == release.id, Instance.desired == Desired.RUNNING)
            .order_by(Instance.process_type, Instance.number)
        )
    )


def fill(db: Session, app: App, release: Release, now: float) -> None:
    """Add the instances that `release` lacks and retire those it has too many of."""
    have = running(db, release)
    for kind, quantity in wanted(db, app, release).items():
        mine = [instance for instance in have if instance.process_type == kind]
        retire(db, app, mine[quantity:])
        taken = {instance.number for instance in mine}
        free = (number for number in range(1, quantity + 1) if number not in taken)
        for number in list(free)[: max(0, quantity - len(mine))]:
            _add(db, app, release, kind, number, now)


def retire(db: Session, app: App, instances: Iterable[Instance]) -> None:
    """Want `instances` stopped; each may go once the router has let go of it."""
    gone = list(instances)
    if not gone:
        return
    routes_changed(db, app)
    for instance in gone:
        instance.desired = Desired.STOPPED
        instance.drain_generation = app.routes_wanted if instance.process_type == "web" else 0
    poke_hosts(db, {instance.host_id for instance in gone})


def routes_changed(db: Session, app: App) -> None:
    """Ask the router to look at the app's routes again."""
    app.routes_wanted = App.routes_wanted + 1  # in SQL, so that two who do so at once both count
    db.flush()
    db.refresh(app, ["routes_wanted"])
    signal(db, events.ROUTES, events.app_topic(app.id))


def poke_hosts(db: Session, host_ids: Iterable[int]) -> None:
    """Tell hosts that what is wanted of them has changed."""
    for name in db.scalars(select(Host.name).where(Host.id.in_(set(host_ids)))):
        enqueue(db, f"host.{name}", "shipway.converge")
        signal(db, events.host_topic(name))


def _add(db: Session, app: App, release: Release, kind: str, number: int, now: float) -> None:
    host = _place(db, now)
    db.add(
        Instance(
            app_id=app.id,
            release_id=release.id,
            host_id=host.id,
            process_type=kind,
            number=number,
            created_at=now,
        )
    )
    db.flush()
    poke_hosts(db, {host.id})
    signal(db, events.app_topic(app.id))


def _place(db: Session, now: float) -> Host:
    """The live host with the fewest instances; one that is late beats none at all."""
    load = func.count(Instance.id)
    found = db.scalars(
        select(Host)
        .outerjoin(
            Instance,
            (Instance.host_id == Host.id) & (Instance.desired == Desired.RUNNING),
        )
        .group_by(Host.id)
        .order_by((Host.alive_until < now), load, Host.id)
        .limit(1)
    ).first()
    if found is None:
        raise Unavailable("No worker host has ever reported: start one with `shipway host`.")
    return found
