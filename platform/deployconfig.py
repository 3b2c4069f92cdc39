"""What an app's owner says of its deploys."""

from collections.abc import Mapping

from shipway.platform import applog, auth, deploysettings
from shipway.platform.errors import InvalidInput
from shipway.platform.models import User
from shipway.platform.shapes import View
from shipway.platform.store import Store


def settings(store: Store, user: User, name: str) -> View:
    """{"settings": all in force, "own": those that are this app's}."""
    with store.reading() as db:
        own = auth.app_for(db, user, name).deploy_settings or {}
    return {"settings": deploysettings.shown(store.settings, own), "own": own}


def change_settings(store: Store, user: User, name: str, changes: Mapping[str, str]) -> View:
    """Set some, in force at once; an empty value takes one back. Raises InvalidInput."""
    if not changes:
        raise InvalidInput("Give at least one setting, such as drain-timeout=60.")
    with store.transaction() as db:
        app = auth.app_for(db, user, name)
        app.deploy_settings = deploysettings.changed(app.deploy_settings, dict(changes))
    told = f"Deploy settings {', '.join(sorted(changes))} changed by user {user.name}"
    applog.append(store.settings, name, "app[api]", told)
    return settings(store, user, name)
