"""Apps: making, showing, destroying; who is let in.

Like all operations, these take the store and the user who asks, do one transaction, and return plain dicts (shapes.py).
"""

import secrets

from sqlalchemy import select
from sqlalchemy.orm import Session

from shipway.platform import applog, auth, formation, shapes
from shipway.platform.builds import cancel_all
from shipway.platform.errors import Conflict, Forbidden, InvalidInput, NotFound
from shipway.platform.models import Access, App, Instance, Release, User
from shipway.platform.names import app_name
from shipway.platform.shapes import View
from shipway.platform.states import Desired, ReleaseState
from shipway.platform.store import Store, move

ADJECTIVES = "amber bold brisk calm clear deep fair fresh grand keen mild quiet swift tidal warm"
NOUNS = "anchor bay beacon breeze buoy coast dock gull harbor isle keel reef sail shore wave"


def all_of(store: Store, user: User) -> list[View]:
    """The apps that the user may work on, by name."""
    with store.reading() as db:
        return [shapes.app(db, store.settings, app) for app in auth.apps_of(db, user)]


def create(store: Store, user: User, name: str | None = None) -> View:
    """Make an app, under a name of our own if none is given. Raises InvalidName, Conflict."""
    with store.transaction() as db:
        chosen = app_name(name) if name else _free_name(db)
        taken = db.scalar(select(App).where(App.name == chosen))
        if taken is not None:
            raise Conflict(
                f"The name {chosen!r} is taken."
                if taken.destroyed_at is None
                else f"The app {chosen!r} is still being destroyed: try again in a moment."
            )
        app = App(name=chosen, owner_id=user.id, created_at=store.now(db))
        db.add(app)
        db.flush()
        formation.routes_changed(db, app)  # the router knows it from now on: no such app, no page
        view = shapes.app_details(db, store.settings, app)
    applog.append(store.settings, chosen, "app[api]", f"App created by user {user.name}")
    return view


def info(store: Store, user: User, name: str) -> View:
    """All about an app. Raises NotFound, Forbidden."""
    with store.reading() as db:
        return shapes.app_details(db, store.settings, auth.app_for(db, user, name))


def destroy(store: Store, user: User, name: str) -> View:
    """Take an app down: its owner and admins may. It is gone once its last instance has stopped."""
    with store.transaction() as db:
        app = auth.app_for(db, user, name)
        _require_owner(user, app, "destroy it")
        view = shapes.app(db, store.settings, app)
        now = store.now(db)
        app.destroyed_at = now
        cancel_all(db, app, now, f"The app was destroyed by {user.name}.")
        pending = select(Release).where(
            Release.app_id == app.id, Release.state == ReleaseState.PENDING
        )
        for release in db.scalars(pending):
            move(db, release, ReleaseState.FAILED, reason="The app was destroyed.", ended_at=now)
        running = select(Instance).where(
            Instance.app_id == app.id, Instance.desired == Desired.RUNNING
        )
        formation.retire(db, app, db.scalars(running))
        formation.routes_changed(db, app)
    return view


# -- access -------------------------------------------------------------------------------------


def access(store: Store, user: User, name: str) -> list[View]:
    """Who may work on the app: its owner, then those let in. Admins always may, and are not listed."""
    with store.reading() as db:
        app = auth.app_for(db, user, name)
        let_in = select(User.name).join(Access).where(Access.app_id == app.id).order_by(User.name)
        rest = [{"user": other, "role": "member"} for other in db.scalars(let_in)]
        return [{"user": app.owner.name, "role": "owner"}, *rest]


def add_access(store: Store, user: User, name: str, other: str) -> View:
    """Let another user into the app: its owner and admins may. Letting in twice changes nothing."""
    with store.transaction() as db:
        app = auth.app_for(db, user, name)
        _require_owner(user, app, "let somebody in")
        found = auth.user_named(db, other)
        if not auth.may_use(db, found, app):
            db.add(Access(app_id=app.id, user_id=found.id))
    applog.append(store.settings, name, "app[api]", f"Add {other} to access by user {user.name}")
    return {"user": other, "app": name}


def remove_access(store: Store, user: User, name: str, other: str) -> View:
    """Take a user's access to the app back. Raises NotFound."""
    with store.transaction() as db:
        app = auth.app_for(db, user, name)
        _require_owner(user, app, "take access back")
        found = auth.user_named(db, other)
        row = db.scalar(select(Access).where(Access.app_id == app.id, Access.user_id == found.id))
        if row is None:
            raise NotFound(f"The user {other!r} was not let into the app {name!r}.")
        db.delete(row)
    applog.append(store.settings, name, "app[api]", f"Remove {other} from access by {user.name}")
    return {"user": other, "app": name}


def _require_owner(user: User, app: App, what: str) -> None:
    if not user.is_admin and app.owner_id != user.id:
        raise Forbidden(f"Only the owner of {app.name!r}, {app.owner.name}, may {what}.")


def _free_name(db: Session) -> str:
    for _ in range(10):
        name = (
            f"{secrets.choice(ADJECTIVES.split())}-{secrets.choice(NOUNS.split())}"
            f"-{secrets.randbelow(9000) + 1000}"
        )
        if db.scalar(select(App.id).where(App.name == name)) is None:
            return name
    raise InvalidInput("No free name was found: give one.")
