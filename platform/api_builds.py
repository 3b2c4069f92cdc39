"""The part of the API about how apps are built, and about apps that do not come by a push."""

import sys
from typing import Any

from flask import Response, request

from shipway.platform import buildconfig, sources
from shipway.platform.api import Answer, blueprint, body, needed, user
from shipway.platform.browser import store
from shipway.platform.errors import InvalidInput


def _texts(values: dict[str, Any]) -> dict[str, str]:
    for key, value in values.items():
        if not isinstance(value, str):
            raise InvalidInput(f"The value of {key[:60]!r} is no text.")
    return values


@blueprint.get("/apps/<app>/build-settings")
def show_build_settings(app: str) -> Answer:
    """{"settings": all in force, "own": those of this app}."""
    return buildconfig.settings(store(), user(), app)


@blueprint.patch("/apps/<app>/build-settings")
def change_build_settings(app: str) -> Answer:
    """{"build-dir": "web", "memory": "", …}: an empty text takes one back."""
    return buildconfig.change_settings(store(), user(), app, _texts(body()))


@blueprint.get("/apps/<app>/buildpacks")
def list_buildpacks(app: str) -> Answer:
    """{"buildpacks": […]}."""
    return buildconfig.buildpacks(store(), user(), app)


@blueprint.put("/apps/<app>/buildpacks")
def set_buildpacks(app: str) -> Answer:
    """{"buildpacks": […]}; [] has them found."""
    wanted = body().get("buildpacks")
    if not isinstance(wanted, list) or not all(isinstance(each, str) for each in wanted):
        raise InvalidInput("'buildpacks' is no list of texts.")
    return buildconfig.set_buildpacks(store(), user(), app, wanted)


@blueprint.get("/apps/<app>/build-secrets")
def list_build_secrets(app: str) -> Answer:
    """{"secrets": their names}."""
    return buildconfig.secrets(store(), user(), app)


@blueprint.patch("/apps/<app>/build-secrets")
def change_build_secrets(app: str) -> Answer:
    """{"NAME": "value", …} sets, {"NAME": null, …} removes."""
    values = body()
    for key, value in values.items():
        if value is not None and not isinstance(value, str):
            raise InvalidInput(f"The value of {key[:60]!r} is no text.")
    return buildconfig.change_secrets(store(), user(), app, values)


@blueprint.post("/apps/<app>/image")
def deploy_image(app: str) -> Answer:
    """{"image": "nginx:1.27"}: deploy an image of a registry."""
    return sources.deploy_image(store(), user(), app, needed("image")), 202


@blueprint.post("/apps/<app>/archive")
def deploy_archive(app: str) -> Answer:
    """The archive itself as the request's body."""
    request.max_content_length = sys.maxsize  # it is limited as a push is, with words
    return sources.deploy_archive(store(), user(), app, request.stream), 202


@blueprint.get("/apps/<app>/sbom")
def show_bill(app: str) -> Response:
    """The bill of materials of what runs, a CycloneDX document."""
    return Response(
        sources.bill(store(), user(), app), content_type="application/vnd.cyclonedx+json"
    )
