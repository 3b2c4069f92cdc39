"""The API, /api/v1: JSON in and out, bearer tokens, errors as {"error": {"message", "kind"}} with a fitting status.

Each address is an operation of apps.py, scaling.py, config_vars.py, history.py or people.py; what it answers is in
shapes.py. Whatever goes on for longer is a stream: see api_streams.py.
"""

import logging
import re
from typing import Any

from flask import Blueprint, g, request
from sqlalchemy.exc import OperationalError
from werkzeug.exceptions import HTTPException

from shipway.platform import (
    apps,
    auth,
    config_vars,
    deployconfig,
    history,
    names,
    people,
    scaling,
    shapes,
)
from shipway.platform.browser import TooManyLogins, identify, store
from shipway.platform.errors import InvalidInput, ShipwayError, Unauthenticated, Unavailable
from shipway.platform.models import User

log = logging.getLogger(__name__)

blueprint = Blueprint("api", __name__, url_prefix="/api/v1")
OPEN = {"api.health", "api.login"}  # addresses that need no token

View = dict[str, Any]
Answer = View | list[View] | tuple[View, int]


# -- who asks, and errors -----------------------------------------------------------------------


@blueprint.before_request
def authenticate() -> None:
    """Find the user of the token in the Authorization header."""
    if request.endpoint not in OPEN:
        g.api_user = user_of(bearer())


def bearer() -> str:
    """The token that was sent. Raises Unauthenticated."""
    kind, _, secret = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() != "bearer" or not secret.strip():
        raise Unauthenticated(
            "Send a token: `Authorization: Bearer TOKEN`; `shipway login` makes one."
        )
    return secret.strip()


def user_of(secret: str) -> User:
    """Whose token it is. Raises Unauthenticated."""
    with store().reading() as db:
        found = auth.by_token(db, secret, store().now(db))
    if found is None:
        raise Unauthenticated("The token is not valid, or not any more: log in again.")
    return found


def user() -> User:
    """Who asks."""
    found: User = g.api_user
    return found


@blueprint.errorhandler(ShipwayError)
def refused(error: ShipwayError) -> tuple[View, int, dict[str, str]]:
    """An error that is safe to show."""
    headers = {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthenticated) else {}
    if isinstance(error, TooManyLogins):
        headers["Retry-After"] = str(error.retry_after)
    return _error(error.message, _kind(type(error).__name__), error.status, headers)


@blueprint.errorhandler(HTTPException)
def malformed(error: HTTPException) -> tuple[View, int, dict[str, str]]:
    """What Flask itself refuses: a method, a body that is too large."""
    text = error.description or error.name
    return _error(text, _kind(error.name.replace(" ", "")), error.code or 500, {})


@blueprint.errorhandler(OperationalError)
def no_database(error: OperationalError) -> tuple[View, int, dict[str, str]]:
    """The database is away or locked for too long."""
    log.error("the database does not answer: %s", error.orig)
    text = "The database does not answer just now; apps keep running. Try again."
    return _error(text, "unavailable", 503, {})


@blueprint.errorhandler(Exception)
def broken(_error_: Exception) -> tuple[View, int, dict[str, str]]:
    """A fault of ours: its details go to the platform's log, and nowhere else."""
    log.exception("%s %s", request.method, request.path)  # noqa: LOG004 -- called within one
    text = "Shipway itself failed; its log on the server says how."
    return _error(text, "internal", 500, {})


def _error(
    message: str, kind: str, status: int, headers: dict[str, str]
) -> tuple[View, int, dict[str, str]]:
    return {"error": {"message": message, "kind": kind}}, status, headers


def _kind(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


# -- what was sent ------------------------------------------------------------------------------


def body() -> View:
    """The JSON object that was sent, {} for none. Raises InvalidInput."""
    if not request.get_data():
        return {}
    found = request.get_json(force=True, silent=True)
    if not isinstance(found, dict):
        raise InvalidInput("The request's body is no JSON object.")
    return found


def field(name: str, kind: type = str) -> Any:
    """A field of the body, None if it is not there. Raises InvalidInput if it is of another kind."""
    value = body().get(name)
    if value is None or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))):
        return value
    words = {str: "text", bool: "true or false", int: "a whole number", float: "a number"}
    raise InvalidInput(f"{name!r} is {value!r}, expected {words.get(kind, kind.__name__)}.")


def needed(name: str) -> str:
    """A text field that must be there. Raises InvalidInput."""
    value = field(name)
    if not value:
        raise InvalidInput(f"{name!r} is missing.")
    return str(value)


def number_arg(name: str, default: int) -> int:
    """A whole number in the query. Raises InvalidInput."""
    text = request.args.get(name, "")
    if not text:
        return default
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise InvalidInput(f"{name} is {text[:40]!r}, expected a whole number.")
    return int(text)


def number_or_newest(text: str, word: str) -> int | None:
    """A number in an address, None for `word` (latest, current). Raises InvalidInput."""
    if text == word:
        return None
    if not re.fullmatch(r"v?\d{1,9}", text, re.ASCII):
        raise InvalidInput(f"{text[:40]!r} is no number; give one, or {word!r}.")
    return int(text.removeprefix("v"))


# -- the platform -------------------------------------------------------------------------------


@blueprint.get("/health")
def health() -> Answer:
    """Whether the database and Redis answer; without Redis everything works, only later."""
    try:
        store().wait_ready()
    except Unavailable as error:
        return {"status": "down", "reason": error.message}, 503
    redis = store().signals.alive()
    return {"status": "up" if redis else "degraded", "database": True, "redis": redis}


@blueprint.post("/login")
def login() -> Answer:
    """A new token for who gives the right name and password."""
    found = identify(needed("user"), needed("password"))
    return people.create_token(store(), found, field("name") or "login"), 201


@blueprint.get("/whoami")
def whoami() -> Answer:
    """Who the token belongs to."""
    return shapes.user(user())


# -- apps ---------------------------------------------------------------------------------------


@blueprint.get("/apps")
def list_apps() -> Answer:
    """The apps that one may work on."""
    return apps.all_of(store(), user())


@blueprint.post("/apps")
def create_app() -> Answer:
    """{"name"}, or none for a name of ours."""
    return apps.create(store(), user(), field("name")), 201


@blueprint.get("/apps/<app>")
def show_app(app: str) -> Answer:
    """All about an app."""
    return apps.info(store(), user(), app)


@blueprint.delete("/apps/<app>")
def destroy_app(app: str) -> Answer:
    """Take an app down, with everything that belongs to it."""
    return apps.destroy(store(), user(), app)


@blueprint.get("/apps/<app>/access")
def list_access(app: str) -> Answer:
    """Who may work on the app."""
    return apps.access(store(), user(), app)


@blueprint.post("/apps/<app>/access")
def add_access(app: str) -> Answer:
    """{"user"}: let somebody in."""
    return apps.add_access(store(), user(), app, needed("user")), 201


@blueprint.delete("/apps/<app>/access/<other>")
def remove_access(app: str, other: str) -> Answer:
    """Take access back."""
    return apps.remove_access(store(), user(), app, other)


# -- builds and releases ------------------------------------------------------------------------


@blueprint.get("/apps/<app>/builds")
def list_builds(app: str) -> Answer:
    """The newest builds first."""
    return history.builds(store(), user(), app, number_arg("limit", 15))


@blueprint.post("/apps/<app>/builds")
def rebuild(app: str) -> Answer:
    """Build the current commit again."""
    return history.rebuild(store(), user(), app), 202


@blueprint.get("/apps/<app>/builds/<number>")
def show_build(app: str, number: str) -> Answer:
    """One build, or `latest`."""
    return history.build(store(), user(), app, number_or_newest(number, "latest"))


@blueprint.post("/apps/<app>/builds/<number>/cancel")
def cancel_build(app: str, number: str) -> Answer:
    """End a build that waits or runs."""
    wanted = number_or_newest(number, "latest")
    return history.cancel_build(store(), user(), app, wanted), 202


@blueprint.get("/apps/<app>/releases")
def list_releases(app: str) -> Answer:
    """The newest releases first."""
    return history.all_releases(store(), user(), app, number_arg("limit", 15))


@blueprint.get("/apps/<app>/releases/<version>")
def show_release(app: str, version: str) -> Answer:
    """One release, or `current`."""
    return history.release(store(), user(), app, number_or_newest(version, "current"))


@blueprint.get("/apps/<app>/deploy-settings")
def show_deploy_settings(app: str) -> Answer:
    """{"settings": all in force, "own": those of this app}."""
    return deployconfig.settings(store(), user(), app)


@blueprint.patch("/apps/<app>/deploy-settings")
def change_deploy_settings(app: str) -> Answer:
    """{"drain-timeout": "60", …}: an empty text takes one back."""
    values = body()
    for key, value in values.items():
        if not isinstance(value, str):
            raise InvalidInput(f"The value of {key[:60]!r} is no text.")
    return deployconfig.change_settings(store(), user(), app, values)


@blueprint.post("/apps/<app>/releases/<version>/cancel")
def cancel_release(app: str, version: str) -> Answer:
    """End a deploy that waits or is under way; `newest` for the newest of these."""
    wanted = number_or_newest(version, "newest")
    return history.cancel_release(store(), user(), app, wanted), 202


@blueprint.post("/apps/<app>/rollback")
def rollback(app: str) -> Answer:
    """{"version"}, or none for the release before."""
    return history.rollback(store(), user(), app, field("version", int)), 202


# -- processes and config -----------------------------------------------------------------------


@blueprint.get("/apps/<app>/ps")
def list_instances(app: str) -> Answer:
    """The instances; `?all=1` with those that are stopping."""
    return scaling.instances(store(), user(), app, stopping=bool(request.args.get("all")))


@blueprint.get("/apps/<app>/formation")
def show_formation(app: str) -> Answer:
    """Instances wanted by process type."""
    return scaling.quantities(store(), user(), app)


@blueprint.patch("/apps/<app>/formation")
def scale(app: str) -> Answer:
    """{"web": 3, "worker": "+1"}: only the difference is started or stopped."""
    changes = {kind: _amount(kind, amount) for kind, amount in body().items()}
    return scaling.scale(store(), user(), app, changes), 202


def _amount(kind: str, amount: Any) -> str:
    """What `scaling.scale` takes: a number is how many, only text can be a step such as "-1"."""
    if isinstance(amount, str):
        return amount
    if isinstance(amount, bool) or not isinstance(amount, int):
        raise InvalidInput(f"{kind!r} is {amount!r}, expected 3, '+1' or '-1'.")
    if amount < 0:
        raise InvalidInput(
            f"{kind!r} is {amount}: use 0 to {names.MAX_QUANTITY} for exactly so many, or the text"
            f" '{amount}' for {-amount} fewer than now."
        )
    return str(names.quantity(amount))


@blueprint.post("/apps/<app>/restart")
def restart(app: str) -> Answer:
    """{"process": "web.1"} replaces one instance; without, a release named Restart replaces all."""
    process = field("process")
    if process:
        return scaling.replace(store(), user(), app, process), 202
    return scaling.restart(store(), user(), app), 202


@blueprint.get("/apps/<app>/config")
def show_config(app: str) -> Answer:
    """The config vars with their values."""
    return dict(config_vars.get(store(), user(), app))


@blueprint.patch("/apps/<app>/config")
def change_config(app: str) -> Answer:
    """{"KEY": "value", …} sets, {"KEY": null, …} removes."""
    values = body()
    if values and all(value is None for value in values.values()):
        return config_vars.unset(store(), user(), app, list(values)), 202
    for key, value in values.items():
        if not isinstance(value, str):
            raise InvalidInput(f"The value of {key!r} is no text; set and remove apart.")
    return config_vars.assign(store(), user(), app, values), 202


# -- people -------------------------------------------------------------------------------------


@blueprint.get("/users")
def list_users() -> Answer:
    """All users; for admins."""
    return people.users(store(), user())


@blueprint.post("/users")
def create_user() -> Answer:
    """{"name", "password", "admin"}; without a password one is made and answered. For admins."""
    admin = bool(field("admin", bool))
    return people.create_user(
        store(), user(), needed("name"), field("password"), is_admin=admin
    ), 201


@blueprint.get("/keys")
def list_keys() -> Answer:
    """One's own SSH keys."""
    return people.keys(store(), user())


@blueprint.post("/keys")
def add_key() -> Answer:
    """{"key", "name", "user"}; for another user as an admin."""
    line, name = needed("key"), field("name") or ""
    return people.add_key(store(), user(), line, name, field("user")), 201


@blueprint.delete("/keys")
def remove_key() -> Answer:
    """`?key=` a name or a fingerprint."""
    return people.remove_key(store(), user(), request.args.get("key", ""))


@blueprint.get("/tokens")
def list_tokens() -> Answer:
    """One's own tokens, without their secrets."""
    return people.tokens(store(), user())


@blueprint.post("/tokens")
def create_token() -> Answer:
    """{"name", "days"}; the secret is answered this once."""
    days = body().get("days")
    if isinstance(days, int) and not isinstance(days, bool):
        days = float(days)
    if not isinstance(days, float | None):
        raise InvalidInput(f"'days' is {days!r}, expected a number.")
    return people.create_token(store(), user(), needed("name"), days), 201


@blueprint.delete("/tokens/current")
def end_token() -> Answer:
    """End the token that this request came with."""
    return people.end_token(store(), bearer())


@blueprint.delete("/tokens/<int:number>")
def revoke_token(number: int) -> Answer:
    """End a token."""
    return people.revoke_token(store(), user(), number)


# Its addresses are this blueprint's, too: whoever registers that shall have all of them.
import shipway.platform.api_builds  # noqa: E402
import shipway.platform.api_routing  # noqa: E402
import shipway.platform.api_streams  # noqa: E402, F401
