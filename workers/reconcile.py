"""The resident thread of the worker process: every few seconds, puts right what a lost message or a death left.

Every worker looks for work that nobody has claimed, so builds run with Redis dead as well, only later. The rest is
the duty of one worker at a time, which holds the lease `reconciler`. All of it may be done twice, or half.
"""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy.exc import SQLAlchemyError

from shipway.platform import branches
from shipway.platform.errors import ShipwayError
from shipway.platform.models import Lease
from shipway.platform.repos import Repos
from shipway.runtime.errors import RuntimeFailure
from shipway.workers import claims, destroy, owner, retention
from shipway.workers.builds import run_builds
from shipway.workers.context import Context
from shipway.workers.deploys import run_deploys

log = logging.getLogger(__name__)

DUTY = "reconciler"
PERIOD = 3.0  # seconds between two passes
BLIND_PERIOD = 1.0  # with Redis down, when this is the only way that work is found
HOLD = 15.0  # seconds the duty is held without being renewed
RETENTION_PERIOD = 600.0
THREADS = 16


class Reconciler:
    """One per worker process."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._store = ctx.store
        self._repos = Repos(ctx.settings)
        self._pool = ThreadPoolExecutor(THREADS + ctx.settings.builds, "found")
        self._next_retention = time.monotonic() + PERIOD

    def run(self) -> None:
        """Work until the process ends, then lay the duty down."""
        while not self._ctx.stopping.is_set():
            for step in (self._take_duty, self._find_work, self._do_duty):
                self._guarded(step)
            alive = self._store.signals.alive()
            self._ctx.stopping.wait(PERIOD if alive else BLIND_PERIOD)
        self._guarded(self._lay_down)

    # -- each worker -----------------------------------------------------------------------------

    def _find_work(self) -> None:
        claims.release_dead(self._store)
        build, release = claims.anything_claimable(self._store)
        if build:
            self._pool.submit(self._guarded, lambda: run_builds(self._ctx))
        if release:
            self._pool.submit(self._guarded, lambda: run_deploys(self._ctx))

    # -- one worker ------------------------------------------------------------------------------

    def _take_duty(self) -> None:
        self._leads = self._store.hold(DUTY, self._ctx.owner, HOLD) or self._take_from_dead()

    def _take_from_dead(self) -> bool:
        """Take the duty from a process of this machine that is no more."""
        with self._store.transaction() as db:
            lease = db.get(Lease, DUTY)
            if lease is None or not owner.has_died(lease.owner, self._ctx.settings.host_name):
                return False
            lease.until = 0.0
        return self._store.hold(DUTY, self._ctx.owner, HOLD)

    def _do_duty(self) -> None:
        if not self._leads:
            return
        self._guarded(self._flush_outbox)
        self._guarded(self._move_branches)
        self._guarded(lambda: destroy.take_down(self._ctx, self._repos))
        if time.monotonic() >= self._next_retention:
            self._next_retention = time.monotonic() + RETENTION_PERIOD
            # It may take long; the duty must be renewed meanwhile.
            self._pool.submit(self._guarded, lambda: retention.clean(self._ctx))

    def _flush_outbox(self) -> None:
        self._store.flush_outbox()

    def _move_branches(self) -> None:
        with self._store.reading() as db:
            builds = branches.behind(db, self._store.now(db))
        for build_id in builds:
            branches.settle(self._store, self._repos, build_id)

    def _lay_down(self) -> None:
        with self._store.transaction() as db:
            lease = db.get(Lease, DUTY)
            if lease and lease.owner == self._ctx.owner:
                lease.until = 0.0

    def _guarded(self, step: Callable[[], None]) -> None:
        """Run a step; whatever goes wrong is looked at again next time."""
        try:
            step()
        except (SQLAlchemyError, ShipwayError, RuntimeFailure, OSError) as error:
            log.warning("%s: %s", step.__qualname__, error)
        except Exception:  # one step's fault must not keep the others from being done
            log.exception("%s", step.__qualname__)
