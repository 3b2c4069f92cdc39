"""What an app's owner says of its builds: settings, buildpacks, secrets. Each holds from the next build on."""

from collections.abc import Collection, Mapping

from shipway.platform import applog, auth, buildsettings
from shipway.platform.errors import InvalidInput, NotFound
from shipway.platform.models import User
from shipway.platform.shapes import View
from shipway.platform.store import Store
from shipway.platform.vault import Vault

MAX_SECRETS = 256 * 1024  # bytes of all names and values


def settings(store: Store, user: User, name: str) -> View:
    """{"settings": all in force, "own": those that are this app's}."""
    with store.reading() as db:
        own = auth.app_for(db, user, name).build_settings or {}
    return {"settings": buildsettings.shown(store.settings, own), "own": own}


def change_settings(store: Store, user: User, name: str, changes: Mapping[str, str]) -> View:
    """Set some; an empty value takes one back. Raises InvalidInput, Forbidden."""
    if not changes:
        raise InvalidInput("Give at least one setting, such as build-dir=web.")
    with store.transaction() as db:
        app = auth.app_for(db, user, name)
        app.build_settings = buildsettings.changed(
            store.settings, app.build_settings, dict(changes), is_admin=user.is_admin
        )
    _log(store, user, name, f"Build settings {', '.join(sorted(changes))} changed")
    return settings(store, user, name)


# -- buildpacks ---------------------------------------------------------------------------------


def buildpacks(store: Store, user: User, name: str) -> View:
    """{"buildpacks": in order; none: those that fit}."""
    with store.reading() as db:
        return {"buildpacks": list(auth.app_for(db, user, name).buildpacks or ())}


def set_buildpacks(store: Store, user: User, name: str, wanted: Collection[str]) -> View:
    """Use these, in this order; none to have them found. Raises InvalidInput."""
    checked = [buildsettings.buildpack(each) for each in wanted]
    if len(checked) > buildsettings.MOST_BUILDPACKS:
        raise InvalidInput(f"An app takes at most {buildsettings.MOST_BUILDPACKS} buildpacks.")
    if len(set(checked)) < len(checked):
        twice = next(each for each in checked if checked.count(each) > 1)
        raise InvalidInput(f"{twice} is there twice, where once is enough.")
    with store.transaction() as db:
        auth.app_for(db, user, name).buildpacks = checked or None
    _log(store, user, name, f"Buildpacks set to {', '.join(checked) or 'those that fit'}")
    return {"buildpacks": checked}


# -- secrets ------------------------------------------------------------------------------------


def secrets(store: Store, user: User, name: str) -> View:
    """{"secrets": their names}; no value ever leaves."""
    with store.reading() as db:
        app = auth.app_for(db, user, name)
    return {"secrets": sorted(Vault(store.settings).open(app.id, app.build_secrets))}


def change_secrets(store: Store, user: User, name: str, changes: Mapping[str, str | None]) -> View:
    """Set some; None removes one. Raises InvalidInput, NotFound."""
    if not changes:
        raise InvalidInput("Give at least one build secret: NAME=value.")
    vault = Vault(store.settings)
    with store.transaction() as db:
        app = auth.app_for(db, user, name)
        found = vault.open(app.id, app.build_secrets)
        for key, value in changes.items():
            if value is None:
                if key not in found:
                    raise NotFound(f"The build secret {key[:60]!r} of {name} is not set.")
                del found[key]
            else:
                found[buildsettings.secret_name(key)] = value
        if sum(len(key) + len(value.encode()) for key, value in found.items()) > MAX_SECRETS:
            raise InvalidInput(f"All build secrets are larger than {MAX_SECRETS >> 10} KiB.")
        app.build_secrets = vault.seal(app.id, found) if found else None
    _log(store, user, name, f"Build secrets {', '.join(sorted(changes))} changed")
    return {"secrets": sorted(found)}


def _log(store: Store, user: User, name: str, told: str) -> None:
    applog.append(store.settings, name, "app[api]", f"{told} by user {user.name}")
