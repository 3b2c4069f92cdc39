"""Put an app's image onto another run image, without a build: "rebaser" of the platform specification.

The app's own layers stay as they are, byte for byte; what lies below them is exchanged.
"""

import copy
import json
from collections.abc import Mapping
from typing import Any

from shipway.buildpacks import labels
from shipway.buildpacks.bills import os_release
from shipway.buildpacks.errors import RebaseFailed
from shipway.runtime.images.layers import Layer, LayerStore
from shipway.runtime.images.store import Image, ImageStore, encode


def rebase(
    images: ImageStore,
    layers: LayerStore,
    name: str,
    run_name: str | None,
    ref: str,
    *,
    force: bool = False,
) -> Image:
    """Write the app image `name`, on the run image, as `ref`; `name` itself stays as it is.

    Without a `run_name` it is the one that the app was built on, as that is now. With `force` the
    checks for another system, another name and a mark against it are left out. Raises
    RebaseFailed, NoSuchImage, DamagedBlob, InvalidReference.
    """
    app = images.get(name)
    metadata = _metadata(app)
    base = metadata["runImage"]
    run_name = run_name or str(base.get("image") or "")
    if not run_name:
        raise RebaseFailed(f"{name} does not say which run image it is on; name one")
    run = images.get(run_name)
    own = _above(app, str(base.get("topLayer")))
    if not force:
        _check(app, run, layers, run_name, base)
    base.update(reference=run.digest, topLayer=run.layers[-1].diff_id)
    if force and not _is_known(base, run_name):
        base.update(image=run_name, mirrors=[])
        metadata["stack"] = {"runImage": {"image": run_name, "mirrors": []}}
    document = _document(images, app, run, len(own), metadata)
    return images.adopt(encode(document), [*run.layers, *own], [ref])


def run_image_of(app: Image) -> tuple[str, str]:
    """The run image of an app's image: its name, and its top layer's diff id. Raises RebaseFailed."""
    base = _metadata(app)["runImage"]
    return str(base.get("image") or ""), str(base.get("topLayer"))


def _metadata(app: Image) -> dict[str, Any]:
    try:
        metadata = json.loads(app.config.labels[labels.LIFECYCLE_LABEL])
        if isinstance(metadata["runImage"]["topLayer"], str):
            return dict(metadata)
    except (KeyError, ValueError, TypeError, RecursionError):
        pass
    raise RebaseFailed(
        f"{app.ref or app.digest} was not made by buildpacks, so it cannot be rebased"
    )


def _above(app: Image, top: str) -> list[Layer]:
    """The app's own layers: those above its run image's topmost."""
    for place, layer in enumerate(app.layers):
        if layer.diff_id == top:
            return list(app.layers[place + 1 :])
    raise RebaseFailed(f"{app.ref or app.digest} has no layer {top}, which its run image ends with")


def _check(
    app: Image, run: Image, layers: LayerStore, run_name: str, base: Mapping[str, Any]
) -> None:
    title = app.ref or app.digest
    if app.config.labels.get(labels.REBASABLE_LABEL) == "false":
        raise RebaseFailed(f"{title} is marked as not to be rebased")
    there, wanted = _target(app, layers), _target(run, layers)
    for key, value in there.items():
        if value and wanted[key] != value:
            raise RebaseFailed(f"{title} is for {key} {value}, but {run_name} is {wanted[key]}")
    if not _is_known(base, run_name):
        known = ", ".join([str(base.get("image")), *map(str, base.get("mirrors") or ())])
        raise RebaseFailed(f"{title} was built on {known}, not on {run_name}")


def _is_known(base: Mapping[str, Any], run_name: str) -> bool:
    return run_name == base.get("image") or run_name in (base.get("mirrors") or ())


def _target(image: Image, layers: LayerStore) -> dict[str, str]:
    """What must be alike; where labels do not say it, the image's own files do."""
    found = {
        "distribution": image.config.labels.get("io.buildpacks.base.distro.name", ""),
        "version": image.config.labels.get("io.buildpacks.base.distro.version", ""),
    }
    if not all(found.values()):
        release = os_release([layers.path(layer.diff_id) for layer in reversed(image.layers)])
        found = {"distribution": release.get("ID", ""), "version": release.get("VERSION_ID", "")}
    return {"architecture": image.config.architecture, **found}


def _document(
    images: ImageStore, app: Image, run: Image, kept: int, metadata: Mapping[str, Any]
) -> dict[str, Any]:
    """The app's config as it is, but for its layers and what says of the run image."""
    document = copy.deepcopy(images.document(app))
    below = images.document(run)
    named = document.setdefault("config", {}).setdefault("Labels", {})
    for key in [key for key in named if key.startswith(labels.BASE_PREFIXES)]:
        del named[key]
    for key, value in run.config.labels.items():
        if key.startswith(labels.BASE_PREFIXES):
            named[key] = value
    named[labels.LIFECYCLE_LABEL] = labels.encoded(metadata)
    document["config"]["Labels"] = {key: named[key] for key in sorted(named)}
    for key in ("architecture", "os", "variant"):
        if below.get(key):
            document[key] = below[key]
    histories = [_filled(each) for each in (below, document)]
    diff_ids = document["rootfs"]["diff_ids"]
    ends = len(diff_ids) - kept
    document["rootfs"]["diff_ids"] = [*below["rootfs"]["diff_ids"], *diff_ids[ends:]]
    document.pop("history", None)
    if all(histories):
        document["history"] = [*histories[0], *histories[1][ends:]]
    return document


def _filled(document: Mapping[str, Any]) -> list[Any]:
    """The history, by layer; empty if it does not match them."""
    history = [one for one in document.get("history") or () if not one.get("empty_layer")]
    diff_ids = document["rootfs"]["diff_ids"]
    return history if len(history) == len(diff_ids) else []
