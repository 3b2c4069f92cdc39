"""The database: transactions, the outbox, claims with a lease and a fence, moves of the state machines."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

import redis
from sqlalchemy import (
    ColumnElement,
    Engine,
    Float,
    create_engine,
    event,
    func,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, sessionmaker

from shipway.platform import events
from shipway.platform.errors import LeaseLost, Unavailable
from shipway.platform.models import Build, Lease, Outbox, Output, Release
from shipway.platform.settings import Settings
from shipway.platform.states import State, check_move

log = logging.getLogger(__name__)

LEASE = 30.0  # seconds a claim holds without being renewed
RENEW = 10.0  # how often its owner renews it
SQLITE_BUSY = 10_000  # ms a writer waits for another


class Stateful(Protocol):
    """A row of a state machine."""

    id: Any
    state: Any


Work = TypeVar("Work", Build, Release)


class Store:
    """One process's door to the database and to what is signalled after a commit."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.signals = events.Signals(settings.redis)
        self.engine = _engine(settings.sql)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Session]:
        """A read-write transaction: commits at the end, then sends its tasks and signals."""
        with self._sessions() as db:
            with db.begin():
                if self.engine.dialect.name == "sqlite":
                    db.connection(execution_options={"shipway_write": True})
                yield db
            self._after_commit(db)

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        """A session for reading: sees one moment, changes nothing."""
        with self._sessions() as db:
            yield db
            db.expunge_all()  # rows that were read stay readable; a rollback would empty them
            db.rollback()

    def _after_commit(self, db: Session) -> None:
        if topics := db.info.pop("topics", None):
            self.signals.send(sorted(topics))
        if rows := db.info.pop("outbox", None):
            self._send(rows)

    def _send(self, rows: list[Outbox]) -> int:
        sent = []
        try:
            for row in rows:
                self.signals.push_task(row.queue, row.task, row.args)
                sent.append(row.id)
        except redis.RedisError as error:
            log.debug("outbox waits for redis: %s", error)
        if sent:
            with self._sessions() as db, db.begin():
                if self.engine.dialect.name == "sqlite":
                    db.connection(execution_options={"shipway_write": True})
                db.query(Outbox).filter(Outbox.id.in_(sent)).delete(synchronize_session=False)
        return len(sent)

    def flush_outbox(self) -> int:
        """Send what stayed behind (Redis was down, the sender died); the number sent. Doubles do no harm."""
        with self.reading() as db:
            rows = list(db.scalars(select(Outbox).order_by(Outbox.id).limit(200)))
        return self._send(rows) if rows else 0

    def wait_ready(self) -> None:
        """Raise Unavailable if the database does not answer."""
        try:
            with self.reading() as db:
                db.execute(text("select 1"))
        except OperationalError as error:
            raise Unavailable(f"The database does not answer: {error.orig}.") from None

    # -- time -----------------------------------------------------------------------------------

    def clock(self) -> ColumnElement[float]:
        """The database's clock as an expression: the only one that leases are measured by."""
        if self.engine.dialect.name == "sqlite":
            return literal_column("((julianday('now') - 2440587.5) * 86400.0)")
        return func.extract("epoch", func.clock_timestamp()).cast(Float)

    def now(self, db: Session) -> float:
        """The database's clock, in seconds since the epoch."""
        return float(db.execute(select(self.clock())).scalar_one())

    # -- claims ---------------------------------------------------------------------------------

    def renew(self, work: Work) -> None:
        """Extend the lease of claimed work; raise LeaseLost if somebody took it over."""
        kind = type(work)
        with self.transaction() as db:
            done = db.execute(
                update(kind)
                .where(
                    kind.id == work.id,
                    kind.fence == work.fence,
                    kind.owner == work.owner,
                )
                .values(lease_until=self.clock() + LEASE)
            )
            if done.rowcount != 1:  # type: ignore[attr-defined]
                raise LeaseLost(f"{kind.__name__} {work.id} was taken over by another worker.")

    def hold(self, name: str, owner: str, seconds: float) -> bool:
        """Take or keep the duty `name` for `seconds`; False while somebody else has it."""
        with self.transaction() as db:
            now = self.now(db)
            lease = db.get(Lease, name)
            if lease is None:
                db.add(Lease(name=name, owner=owner, until=now + seconds))
                return True
            if lease.owner != owner and lease.until > now:
                return False
            lease.fence += lease.owner != owner
            lease.owner, lease.until = owner, now + seconds
            return True

    # -- reading what was said ------------------------------------------------------------------

    def output_after(self, stream: str, last: int) -> list[Output]:
        """The pieces of a stream behind the id `last`, in order."""
        with self.reading() as db:
            found = db.scalars(
                select(Output).where(Output.stream == stream, Output.id > last).order_by(Output.id)
            )
            return list(found)


def enqueue(db: Session, queue: str, task: str, *args: Any) -> None:
    """Send a task (by name, with ids as arguments) once this transaction is committed."""
    row = Outbox(queue=queue, task=task, args=list(args))
    db.add(row)
    db.flush()
    db.info.setdefault("outbox", []).append(row)


def signal(db: Session, *topics: str) -> None:
    """Send signals once this transaction is committed."""
    db.info.setdefault("topics", set()).update(topics)


def move(db: Session, row: Stateful, target: State, **values: Any) -> None:
    """Move `row` to the state `target` and set `values`; IllegalMove unless the machine has that move.

    A compare-and-swap on the state (and the fence, where the row has one) that this session read: whoever lost a
    race gets LeaseLost and changes nothing.
    """
    kind = type(row)
    name = f"{kind.__name__} {row.id}"
    check_move(name, row.state, target)
    where = [kind.id == row.id, kind.state == row.state]
    if hasattr(kind, "fence"):
        where.append(kind.fence == row.fence)  # type: ignore[attr-defined]
    done = db.execute(
        update(kind).where(*where).values(state=target, **values),
        execution_options={"synchronize_session": False},
    )
    if done.rowcount != 1:  # type: ignore[attr-defined]
        raise LeaseLost(f"{name} has been changed by somebody else meanwhile.")
    db.refresh(row)


def say(db: Session, stream: str, *lines: str) -> None:
    """Add lines to the output of a build or deploy, and tell those who follow it."""
    db.add(Output(stream=stream, text="".join(line + "\n" for line in lines)))
    signal(db, events.output_topic(stream))


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True, pool_size=5, max_overflow=20)
    engine = create_engine(
        url, connect_args={"timeout": SQLITE_BUSY / 1000}, pool_size=5, max_overflow=50
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",  # a confirmed change survives a power cut, too
            "foreign_keys=ON",
            f"busy_timeout={SQLITE_BUSY}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:
        # IMMEDIATE: a writer queues up for the lock at once instead of failing half-way (SQLITE_BUSY_SNAPSHOT).
        writing = connection.get_execution_options().get("shipway_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine
