"""Who somebody is and what they may do: passwords, tokens, SSH keys, sessions, access to apps.

Secrets are shown once and kept as hashes: tokens and sessions, being random, as SHA-256; passwords by scrypt.
"""

import hashlib
import secrets
from functools import cache
from pathlib import Path

from sqlalchemy import delete, or_, select
from sqlalchemy.orm import Session

from shipway.platform import sshkeys
from shipway.platform.errors import Conflict, Forbidden, InvalidInput, NotFound
from shipway.platform.files import atomic_write
from shipway.platform.models import Access, App, SshKey, Token, User, WebSession
from shipway.platform.names import app_name, user_name
from shipway.platform.store import Store

ADMIN = "admin"
TOKEN_PREFIX = "shw_"  # lets people and secret scanners tell what it is
SESSION = 14 * 86400.0  # seconds a browser's login holds
MIN_PASSWORD = 8  # characters
MAX_PASSWORD = 1024


# -- who ----------------------------------------------------------------------------------------


def by_token(db: Session, secret: str, now: float) -> User | None:
    """The user of a token that has not expired."""
    token = find_token(db, secret, now)
    return token.user if token is not None else None


def find_token(db: Session, secret: str, now: float) -> Token | None:
    """The token with this secret, if it has not expired."""
    token = db.scalar(select(Token).where(Token.hash == _hash(secret)))
    if token is None or (token.expires_at is not None and token.expires_at <= now):
        return None
    return token


def by_key(db: Session, fingerprint: str) -> User | None:
    """The user of an SSH key; `fingerprint` is in the form of `ssh-keygen -l`: SHA256 and base64."""
    return db.scalar(select(User).join(SshKey).where(SshKey.fingerprint == fingerprint))


def by_password(db: Session, name: str, password: str) -> User | None:
    """The user who has this name and password. Takes the same time whether the name is known or not."""
    from werkzeug.security import check_password_hash  # 0.1 s that only logins need

    user = db.scalar(select(User).where(User.name == name))
    known = user.password_hash if user is not None else None
    matches = check_password_hash(known or _nobodys_hash(), password[:MAX_PASSWORD])
    return user if known and matches else None


def user_named(db: Session, name: str) -> User:
    """The user of this name. Raises NotFound."""
    found = db.scalar(select(User).where(User.name == name))
    if found is None:
        raise NotFound(f"There is no user {name!r}.")
    return found


def by_session(db: Session, secret: str, now: float) -> User | None:
    """The user of a browser's session that has not expired."""
    session = db.scalar(select(WebSession).where(WebSession.hash == _hash(secret)))
    return session.user if session is not None and session.expires_at > now else None


# -- what they may do ---------------------------------------------------------------------------


def app_for(db: Session, user: User, name: str) -> App:
    """The app `name` if the user may work on it. Raises InvalidName, NotFound, Forbidden."""
    app = db.scalar(select(App).where(App.name == app_name(name), App.destroyed_at.is_(None)))
    if app is None:
        raise NotFound(f"There is no app {name!r}.")
    if not may_use(db, user, app):
        raise Forbidden(
            f"You have no access to the app {name!r}: ask its owner to run"
            f" `shipway access:add {user.name} -a {name}`."
        )
    return app


def may_use(db: Session, user: User, app: App) -> bool:
    """Whether the user may work on the app: an admin, its owner, or somebody let in."""
    if user.is_admin or app.owner_id == user.id:
        return True
    let_in = select(Access.id).where(Access.app_id == app.id, Access.user_id == user.id)
    return db.scalar(let_in) is not None


def apps_of(db: Session, user: User) -> list[App]:
    """The apps that the user may work on, by name."""
    query = select(App).where(App.destroyed_at.is_(None)).order_by(App.name)
    if not user.is_admin:
        let_in = select(Access.app_id).where(Access.user_id == user.id)
        query = query.where(or_(App.owner_id == user.id, App.id.in_(let_in)))
    return list(db.scalars(query))


def require_admin(user: User) -> None:
    """Raise Forbidden unless the user is an admin."""
    if not user.is_admin:
        raise Forbidden(f"Only an admin may do this, and {user.name} is none.")


# -- making and ending --------------------------------------------------------------------------


def make_user(
    db: Session, name: str, password: str | None, now: float, *, is_admin: bool = False
) -> User:
    """Add a user; without a password they come in by keys and tokens only. Raises Conflict."""
    if db.scalar(select(User.id).where(User.name == user_name(name))) is not None:
        raise Conflict(f"There is a user {name!r} already.")
    hashed = hash_password(password) if password is not None else None
    user = User(name=name, password_hash=hashed, is_admin=is_admin, created_at=now)
    db.add(user)
    db.flush()
    return user


def hash_password(password: str) -> str:
    """The form a password is kept in. Raises InvalidInput for one that is too short or too long."""
    from werkzeug.security import generate_password_hash

    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise InvalidInput(f"A password has {MIN_PASSWORD} to {MAX_PASSWORD} characters.")
    return generate_password_hash(password, method="scrypt")


def make_token(
    db: Session, user: User, name: str, now: float, expires_at: float | None = None
) -> str:
    """Add a token and return its secret: the only time that it can be seen."""
    secret = TOKEN_PREFIX + secrets.token_urlsafe(32)
    _keep_token(db, user, name, secret, now, expires_at)
    return secret


def make_session(db: Session, user: User, now: float) -> str:
    """Add a browser's session, drop those that have expired, and return its secret."""
    db.execute(delete(WebSession).where(WebSession.expires_at <= now))
    secret = secrets.token_urlsafe(32)
    db.add(
        WebSession(user_id=user.id, hash=_hash(secret), created_at=now, expires_at=now + SESSION)
    )
    db.flush()
    return secret


def end_session(db: Session, secret: str) -> None:
    """Log a browser out."""
    db.execute(delete(WebSession).where(WebSession.hash == _hash(secret)))


def end_other_sessions(db: Session, user: User, secret: str) -> None:
    """Log the user out in every browser but the one that holds `secret`."""
    others = (WebSession.user_id == user.id) & (WebSession.hash != _hash(secret))
    db.execute(delete(WebSession).where(others))


def add_key(db: Session, user: User, line: str, name: str = "", *, now: float) -> SshKey:
    """Register a public key, one line in OpenSSH's form. Raises InvalidInput, Conflict."""
    parsed = sshkeys.parse(line)
    taken = db.scalar(select(SshKey).where(SshKey.fingerprint == parsed.fingerprint))
    if taken is not None:
        whose = f"as {taken.name!r}" if taken.user_id == user.id else "by another user"
        raise Conflict(f"The key {parsed.fingerprint} is registered already, {whose}.")
    key = SshKey(
        user_id=user.id,
        name=(name or parsed.comment or parsed.fingerprint)[:100],
        fingerprint=parsed.fingerprint,
        public_key=parsed.line,
        created_at=now,
    )
    db.add(key)
    db.flush()
    return key


# -- the first start ----------------------------------------------------------------------------


def ensure_admin(store: Store) -> None:
    """Make the user `admin` unless there is an admin; the password is kept in <data>/secrets/admin-password."""
    with store.reading() as db:
        if _first_admin(db) is not None:
            return
    # The file comes first: a crash before the row is written finds it at the next start.
    password = _secret_text(store.settings.secrets / "admin-password", secrets.token_urlsafe(12))
    hashed = hash_password(password)
    with store.transaction() as db:
        if _first_admin(db) is None:
            db.add(User(name=ADMIN, password_hash=hashed, is_admin=True, created_at=store.now(db)))


def local_token(store: Store) -> str:
    """The admin's token in <data>/secrets/local-token, made if missing: root here needs no login."""
    path = store.settings.secrets / "local-token"
    secret = _secret_text(path, TOKEN_PREFIX + secrets.token_urlsafe(32))
    with store.reading() as db:
        if by_token(db, secret, store.now(db)) is not None:
            return secret
    with store.transaction() as db:
        admin = _first_admin(db)
        if admin is None:
            raise NotFound("There is no admin yet: start Shipway with `shipway up`.")
        now = store.now(db)
        if by_token(db, secret, now) is None:
            _keep_token(db, admin, "this machine", secret, now, None)
    return secret


def _first_admin(db: Session) -> User | None:
    return db.scalar(select(User).where(User.is_admin).order_by(User.id).limit(1))


def _secret_text(path: Path, fresh: str) -> str:
    """The text kept in `path` (0600); `fresh` is put there if it is missing."""
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        atomic_write(path, fresh + "\n", 0o600)
    return path.read_text().strip()


def _keep_token(
    db: Session, user: User, name: str, secret: str, now: float, expires_at: float | None
) -> None:
    db.add(
        Token(
            user_id=user.id,
            name=name[:100],
            hash=_hash(secret),
            created_at=now,
            expires_at=expires_at,
        )
    )
    db.flush()


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


@cache
def _nobodys_hash() -> str:
    return hash_password(secrets.token_urlsafe(16))
