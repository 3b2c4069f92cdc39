"""An app's config vars. Values are secrets: they are in no log, no message and no view but the one that shows them."""

from collections.abc import Callable, Collection, Mapping

from shipway.platform import applog, auth, releases, shapes
from shipway.platform.errors import InvalidInput, NotFound
from shipway.platform.models import User
from shipway.platform.names import config_var
from shipway.platform.shapes import View
from shipway.platform.store import Store
from shipway.platform.vault import Vault

MAX_TOTAL = 256 * 1024  # bytes of all keys and values: an environment must fit into execve's limits

Config = dict[str, str]


def get(store: Store, user: User, name: str) -> Config:
    """The app's config vars."""
    with store.reading() as db:
        app = auth.app_for(db, user, name)
    return Vault(store.settings).open(app.id, app.config)


def assign(store: Store, user: User, name: str, values: Mapping[str, str]) -> View:
    """Set config vars; see `_change`. Raises InvalidInput."""
    if not values:
        raise InvalidInput("Give at least one config var: KEY=value.")
    checked = dict(config_var(key, value) for key, value in values.items())
    return _change(store, user, name, lambda old: {**old, **checked}, "add", sorted(checked))


def unset(store: Store, user: User, name: str, keys: Collection[str]) -> View:
    """Remove config vars; see `_change`. Raises NotFound for one that is not set."""
    if not keys:
        raise InvalidInput("Name at least one config var.")

    def without(old: Config) -> Config:
        for key in keys:
            if key not in old:
                raise NotFound(f"The config var {key!r} of {name} is not set.")
        return {key: value for key, value in old.items() if key not in keys}

    return _change(store, user, name, without, "remove", sorted(set(keys)))


def _change(
    store: Store,
    user: User,
    name: str,
    change: Callable[[Config], Config],
    verb: str,
    keys: list[str],
) -> View:
    """Store the changed config and, where there is a release, make the next one with it.

    Answers {"keys": all that are set, "changed": bool, "release": the new release or None}.
    """
    vault = Vault(store.settings)
    with store.transaction() as db:
        app = auth.app_for(db, user, name)
        old = vault.open(app.id, app.config)
        new = change(old)
        if sum(len(key.encode()) + len(value.encode()) for key, value in new.items()) > MAX_TOTAL:
            raise InvalidInput(f"All config vars together are larger than {MAX_TOTAL >> 10} KiB.")
        view: View = {"keys": sorted(new), "changed": new != old, "release": None}
        if new == old:
            return view
        app.config = vault.seal(app.id, new)
        base = releases.newest(db, app)
        if base is not None:
            description = f"Config {verb} {', '.join(keys)}"
            release = releases.again(db, app, user, store.now(db), base, description=description)
            view["release"] = shapes.release(release, current=False)
    told = f"Config {verb} {', '.join(keys)} by user {user.name}"
    applog.append(store.settings, name, "app[api]", told)
    if view["release"]:
        applog.append_release(store.settings, name, view["release"]["version"], user.name)
    return view
