"""Who somebody is and what they may do, on a real database."""

import stat
from collections.abc import Iterator

import pytest

from shipway.platform import auth, database
from shipway.platform.errors import Conflict, Forbidden, InvalidInput, InvalidName, NotFound
from shipway.platform.models import Access, App
from shipway.platform.settings import load
from shipway.platform.store import Store
from support import scratch


@pytest.fixture
def store() -> Iterator[Store]:
    """An empty database."""
    with scratch() as folder:
        settings = load({"SHIPWAY_DATA": str(folder / "data")})
        database.prepare(settings)
        found = Store(settings)
        yield found
        found.engine.dispose()


def test_the_first_start(store: Store) -> None:
    """The first start makes one admin whose password and token are in files for root alone; the next changes nothing."""
    auth.ensure_admin(store)
    token = auth.local_token(store)
    auth.ensure_admin(store)
    assert auth.local_token(store) == token
    secrets = store.settings.secrets
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    for name in ("admin-password", "local-token"):
        assert stat.S_IMODE((secrets / name).stat().st_mode) == 0o600
    password = (secrets / "admin-password").read_text().strip()
    with store.reading() as db:
        now = store.now(db)
        user = auth.by_password(db, "admin", password)
        assert user is not None
        assert user.is_admin
        assert auth.by_token(db, token, now) == user
        assert auth.by_password(db, "admin", password + "x") is None
        assert auth.by_password(db, "nobody", password) is None
    assert token.encode() not in (store.settings.data / "shipway.db").read_bytes()


def test_a_start_that_was_cut_short(store: Store) -> None:
    """A password file without its user is the password of the user that is then made."""
    store.settings.secrets.mkdir(exist_ok=True)
    (store.settings.secrets / "admin-password").write_text("left behind\n")
    auth.ensure_admin(store)
    with store.reading() as db:
        assert auth.by_password(db, "admin", "left behind") is not None


def test_a_user_without_a_password(store: Store) -> None:
    """Who has no password cannot log in with any."""
    with store.transaction() as db:
        auth.make_user(db, "keys-only", None, store.now(db))
        for guess in ("", "None", "x" * 5000):
            assert auth.by_password(db, "keys-only", guess) is None
        with pytest.raises(Conflict):
            auth.make_user(db, "keys-only", None, 0)
        with pytest.raises(InvalidName):
            auth.make_user(db, "Bad Name", None, 0)
        for password in ("short", "x" * 2000):
            with pytest.raises(InvalidInput):
                auth.make_user(db, "other", password, 0)


def test_tokens_and_sessions_end(store: Store) -> None:
    """Tokens and sessions hold until their time is over or they are ended."""
    with store.transaction() as db:
        user = auth.make_user(db, "mary", None, 0)
        forever = auth.make_token(db, user, "a", 1000)
        limited = auth.make_token(db, user, "b", 1000, 2000)
        session = auth.make_session(db, user, 1000)
        assert auth.by_token(db, forever, 1e12) == user
        assert auth.by_token(db, limited, 1999) == user
        assert auth.by_token(db, limited, 2000) is None
        assert auth.by_session(db, session, 1000 + auth.SESSION - 1) == user
        assert auth.by_session(db, session, 1000 + auth.SESSION) is None
        auth.end_session(db, session)
        assert auth.by_session(db, session, 1001) is None
        assert auth.by_token(db, session, 1001) is None
        assert auth.by_token(db, "\udcff", 1001) is None


def test_access(store: Store) -> None:
    """An app is for its owner, those let in, and admins; a destroyed one for nobody."""
    with store.transaction() as db:
        owner, friend, other = (auth.make_user(db, name, None, 0) for name in ("o", "f", "x"))
        admin = auth.make_user(db, "root", None, 0, is_admin=True)
        app = App(name="hello", owner_id=owner.id, created_at=0)
        db.add(app)
        db.flush()
        db.add(Access(app_id=app.id, user_id=friend.id))
        db.flush()
        for user in (owner, friend, admin):
            assert auth.app_for(db, user, "hello") is app
            assert auth.apps_of(db, user) == [app]
        with pytest.raises(Forbidden, match="no access to the app 'hello'"):
            auth.app_for(db, other, "hello")
        assert auth.apps_of(db, other) == []
        with pytest.raises(NotFound, match="There is no app 'nosuch'"):
            auth.app_for(db, owner, "nosuch")
        with pytest.raises(InvalidName):
            auth.app_for(db, owner, "../hello")
        app.destroyed_at = 1.0
        db.flush()
        with pytest.raises(NotFound):
            auth.app_for(db, admin, "hello")
