"""Take environment defaults and the predeploy script from app.json."""

import os

from shipway.buildpacks.appjson import appjson
from shipway.buildpacks.kit import files, say, toml
from shipway.buildpacks.kit.context import Context
from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.kit.layer import Layer

# Names of variables for which the platform makes up a secret, once.
GENERATED_LABEL = "app-json.generated-env"


def build(context: Context) -> None:
    """Raises CannotBuild."""
    found = appjson.parse(files.text(appjson.NAME, appjson.LARGEST))
    if found.env:
        say.step(f"Defaults of app.json: {', '.join(found.env)}")
        layer = Layer(context, "env")
        layer.empty()
        layer.set_env(found.env)
        layer.keep(None, launch=True)
    for name in found.required:
        say.detail(f"app.json wants {name}: set it with config:set, if it is not set yet.")
    if found.generated:
        label = {"key": GENERATED_LABEL, "value": ",".join(found.generated)}
        path = os.path.join(context.layers, "launch.toml")
        toml.write(path, {"labels": [label]})
    if found.predeploy:
        _run(context, found.predeploy)


def _run(context: Context, command: str) -> None:
    from shipway.buildpacks.kit.run import run

    say.step(f"Running app.json's predeploy script: {command}")
    if run(["bash", "-c", command], context.env).code:
        raise CannotBuild("The predeploy script of app.json failed; see above.")
