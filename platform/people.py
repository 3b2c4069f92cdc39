"""Users, and what they come in with: SSH keys and API tokens."""

import secrets

from sqlalchemy import select

from shipway.platform import auth, shapes
from shipway.platform.errors import InvalidInput, NotFound
from shipway.platform.models import SshKey, Token, User
from shipway.platform.shapes import View
from shipway.platform.store import Store

DAY = 86400.0
MAX_TOKEN_DAYS = 3650


def users(store: Store, user: User) -> list[View]:
    """All users; for admins."""
    auth.require_admin(user)
    with store.reading() as db:
        return [shapes.user(row) for row in db.scalars(select(User).order_by(User.name))]


def create_user(
    store: Store, user: User, name: str, password: str | None = None, *, is_admin: bool = False
) -> View:
    """Add a user; for admins. Without a password one is made, and is part of the answer: the only time it is seen."""
    auth.require_admin(user)
    chosen = password if password is not None else secrets.token_urlsafe(12)
    with store.transaction() as db:
        row = auth.make_user(db, name, chosen, store.now(db), is_admin=is_admin)
        view = shapes.user(row)
    return view if password is not None else {**view, "password": chosen}


# -- SSH keys -----------------------------------------------------------------------------------


def keys(store: Store, user: User) -> list[View]:
    """The user's own keys."""
    with store.reading() as db:
        mine = select(SshKey).where(SshKey.user_id == user.id).order_by(SshKey.id)
        return [shapes.key(row) for row in db.scalars(mine)]


def add_key(store: Store, user: User, line: str, name: str = "", owner: str | None = None) -> View:
    """Register a public key, for another user only as an admin. Raises InvalidInput, Conflict, NotFound."""
    with store.transaction() as db:
        whose = user
        if owner is not None and owner != user.name:
            auth.require_admin(user)
            whose = auth.user_named(db, owner)
        return shapes.key(auth.add_key(db, whose, line, name, now=store.now(db)))


def remove_key(store: Store, user: User, which: str) -> View:
    """Remove a key, given by its name or fingerprint. Raises NotFound, InvalidInput if it is several."""
    with store.transaction() as db:
        found = list(
            db.scalars(
                select(SshKey).where(
                    SshKey.user_id == user.id,
                    (SshKey.name == which) | (SshKey.fingerprint == which),
                )
            )
        )
        if not found:
            raise NotFound(f"You have no key {which!r}: see `shipway keys`.")
        if len(found) > 1:
            raise InvalidInput(f"{len(found)} keys are named {which!r}: give the fingerprint.")
        view = shapes.key(found[0])
        db.delete(found[0])
    return view


# -- tokens -------------------------------------------------------------------------------------


def tokens(store: Store, user: User) -> list[View]:
    """The user's own tokens, without their secrets."""
    with store.reading() as db:
        mine = select(Token).where(Token.user_id == user.id).order_by(Token.id)
        return [shapes.token(row) for row in db.scalars(mine)]


def create_token(store: Store, user: User, name: str, days: float | None = None) -> View:
    """Make a token that ends after `days`, never without; its secret is part of the answer, this once."""
    if not name.strip() or not name.isprintable():
        raise InvalidInput("A token needs a name that says where it is used, such as `laptop`.")
    if days is not None and not 0 < days <= MAX_TOKEN_DAYS:
        raise InvalidInput(f"A token lasts more than 0 and at most {MAX_TOKEN_DAYS} days.")
    with store.transaction() as db:
        now = store.now(db)
        secret = auth.make_token(db, user, name.strip(), now, now + days * DAY if days else None)
        row = db.scalars(
            select(Token).where(Token.user_id == user.id).order_by(Token.id.desc()).limit(1)
        ).one()
        return {**shapes.token(row), "token": secret}


def end_token(store: Store, secret: str) -> View:
    """End the token that has this secret. Raises NotFound."""
    with store.transaction() as db:
        row = auth.find_token(db, secret, store.now(db))
        if row is None:
            raise NotFound("This token is not valid any more.")
        view = shapes.token(row)
        db.delete(row)
    return view


def revoke_token(store: Store, user: User, number: int) -> View:
    """End a token at once. Raises NotFound."""
    with store.transaction() as db:
        row = db.get(Token, number)
        if row is None or row.user_id != user.id:
            raise NotFound(f"You have no token {number}: see `shipway tokens`.")
        view = shapes.token(row)
        db.delete(row)
    return view
