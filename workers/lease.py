"""Keeping claimed work: renewing its lease in time, and stopping oneself when that fails."""

import time
from typing import Generic

from sqlalchemy.exc import SQLAlchemyError

from shipway.platform.errors import LeaseLost
from shipway.platform.store import RENEW, Store, Work

# Seconds of this machine's own clock without a renewal after which the work stops itself: well before anybody else
# may believe the lease to have run out, whatever the clocks do.
FENCE_SELF = 20.0


class LeaseKeeper(Generic[Work]):
    """Renews the lease of `work`; `tend` is to be called about once a second while it lasts."""

    def __init__(self, store: Store, work: Work) -> None:
        self._store = store
        self._work: Work = work
        self._renewed = self._tried = time.monotonic()

    def tend(self) -> None:
        """Renew if it is time. Raises LeaseLost if the work was taken over or could not be renewed for 20 s."""
        now = time.monotonic()
        if now - self._tried >= (RENEW if self._tried == self._renewed else 1.0):
            self._tried = now
            self._renew(now)
        if time.monotonic() - self._renewed > FENCE_SELF:
            raise LeaseLost(
                "The database did not answer for 20 seconds: the lease may be another's."
            )

    def _renew(self, now: float) -> None:
        try:
            self._store.renew(self._work)
        except SQLAlchemyError:
            return
        self._renewed = now
