"""The part of the API about how requests get to apps: domains."""

from shipway.platform import domains
from shipway.platform.api import Answer, blueprint, needed, user
from shipway.platform.browser import store


@blueprint.get("/apps/<app>/domains")
def list_domains(app: str) -> Answer:
    """The app's host names."""
    return {"domains": domains.of(store(), user(), app)}


@blueprint.post("/apps/<app>/domains")
def add_domain(app: str) -> Answer:
    """{"domain"}: lead a host name to the app."""
    return {"domain": domains.add(store(), user(), app, needed("domain"))}, 201


@blueprint.delete("/apps/<app>/domains/<host>")
def remove_domain(app: str, host: str) -> Answer:
    """Lead a host name to the app no more."""
    return {"domain": domains.remove(store(), user(), app, host)}


@blueprint.delete("/apps/<app>/domains")
def clear_domains(app: str) -> Answer:
    """Remove all of the app's domains."""
    return {"domains": domains.clear(store(), user(), app)}
