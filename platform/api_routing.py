"""The part of the API about how requests get to apps: domains, settings, maintenance."""

from shipway.platform import domains, routing
from shipway.platform.api import Answer, blueprint, body, field, needed, number_arg, user
from shipway.platform.browser import store
from shipway.platform.errors import InvalidInput


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


@blueprint.get("/apps/<app>/routing")
def show_routing(app: str) -> Answer:
    """{"settings": what is set about the app's requests, "maintenance": bool}."""
    return routing.get(store(), user(), app)


@blueprint.patch("/apps/<app>/routing")
def change_routing(app: str) -> Answer:
    """{"rate-limit": "5", "allow": "", …}: an empty text takes one back."""
    values = body()
    for key, value in values.items():
        if not isinstance(value, str):
            raise InvalidInput(f"The value of {key[:60]!r} is no text.")
    return routing.change(store(), user(), app, values)


@blueprint.put("/apps/<app>/maintenance")
def maintain(app: str) -> Answer:
    """{"on": true or false}."""
    on = field("on", bool)
    if on is None:
        raise InvalidInput("'on' is missing.")
    return routing.maintain(store(), user(), app, on=on)


@blueprint.get("/apps/<app>/metrics")
def show_metrics(app: str) -> Answer:
    """Requests of the last `?minutes=` (60): see metrics.summary."""
    return routing.measured(store(), user(), app, number_arg("minutes", 60))
