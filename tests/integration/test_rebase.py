"""An app's image on a new run image, without a build."""

import json
from dataclasses import replace

import pytest

from buildlab import Builder
from shipway.buildpacks import bills
from shipway.buildpacks.build import BuildResult
from shipway.buildpacks.errors import RebaseFailed
from shipway.buildpacks.labels import LIFECYCLE_LABEL, REBASABLE_LABEL
from shipway.buildpacks.rebase import rebase, run_image_of
from shipway.runtime.images.store import Image

RUN = "stack/debian-13:run"
BUILD = r"""
mkdir -p "$CNB_LAYERS_DIR/l/bin"; printf '[types]\nlaunch = true\n' > "$CNB_LAYERS_DIR/l.toml"
printf '#!/bin/sh\ncat /etc/patched 2>/dev/null || echo old\n' > "$CNB_LAYERS_DIR/l/bin/seen"
chmod +x "$CNB_LAYERS_DIR/l/bin/seen"
printf '[[processes]]\ntype = "web"\ncommand = ["seen"]\n' > "$CNB_LAYERS_DIR/launch.toml"
"""


@pytest.fixture(scope="module")
def app(builder: Builder) -> BuildResult:
    source = builder.buildpack("seen", "exit 0", BUILD)
    return builder.build({"a": ""}, builder.catalog(source))


def patched(builder: Builder, ref: str, **changes: str) -> Image:
    """The run image with one more layer, as a security update would make it."""
    engine = builder.engine
    run = engine.images.get(RUN)
    with engine.layers.staged_tree() as tree:
        (tree / "etc").mkdir()
        (tree / "etc" / "patched").write_text("new\n")
        layer = engine.layers.commit(tree)
    labels = {**run.config.labels, "io.buildpacks.base.note": ref, **changes}
    config = replace(run.config, labels=labels)
    return engine.images.write([*run.layers, layer], config, ref)


def put_on(builder: Builder, name: str, run: str | None, ref: str, force: bool = False) -> Image:
    return rebase(builder.engine.images, builder.engine.layers, name, run, ref, force=force)


def test_rebase(builder: Builder, app: BuildResult) -> None:
    """The layers below are exchanged, those above stay; labels say so; the app runs on the new."""
    images = builder.engine.images
    before = builder.image(app)
    old = images.get(RUN)
    new = patched(builder, "stack/new:run")
    images.tag(RUN, new.digest)
    try:
        image = put_on(builder, app.image, None, "app/rebased:1")
    finally:
        images.tag(RUN, old.digest)
    assert image.layers == (*new.layers, *before.layers[len(old.layers) :])
    metadata = json.loads(image.config.labels[LIFECYCLE_LABEL])
    assert metadata["runImage"] == {
        "image": RUN,
        "mirrors": [],
        "reference": new.digest,
        "topLayer": new.layers[-1].diff_id,
    }
    assert image.config.labels["io.buildpacks.base.note"] == "stack/new:run"
    assert image.config.entrypoint == before.config.entrypoint
    assert run_image_of(image) == (RUN, new.layers[-1].diff_id)
    assert images.get(app.image) == replace(before, ref=None)
    rebased = replace(app, image=image.digest)
    assert (builder.run(app, "seen"), builder.run(rebased, "seen")) == ("old\n", "new\n")
    names = {
        each["name"]
        for each in bills.bill(images, builder.engine.layers, image.digest)["components"]
    }
    assert {"bash", "test/seen"} <= names


def test_the_same_again(builder: Builder, app: BuildResult) -> None:
    """Onto the run image that it is on, the image is the same to the byte; so are two rebases."""
    assert put_on(builder, app.image, RUN, "app/same:1").digest == app.image
    new = patched(builder, "stack/forced:run")
    twice = [put_on(builder, app.image, new.ref, f"app/forced:{n}", force=True) for n in (1, 2)]
    assert twice[0].digest == twice[1].digest
    back = put_on(builder, twice[0].digest, RUN, "app/back:1", force=True)
    assert back.layers == builder.image(app).layers


def test_a_build_goes_on_from_a_rebased_image(builder: Builder, app: BuildResult) -> None:
    """The next build takes over what the one before the rebase has made."""
    new = patched(builder, "stack/next:run")
    image = put_on(builder, app.image, new.ref, "app/next:1", force=True)
    source = builder.buildpack("seen-again", "exit 0", BUILD)
    catalog = builder.catalog(replace(source, buildpack=replace_id(source, "test/seen")))
    again = builder.build({"a": ""}, catalog, previous=image.digest)
    assert builder.layer(again, "l") == builder.layer(app, "l")


def replace_id(source: object, id_: str) -> object:
    return source.buildpack._replace(id=id_)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("labels", "ref", "reason"),
    [
        ({}, "stack/other:run", "was built on stack/debian-13:run, not on stack/other:run"),
        (
            {"io.buildpacks.base.distro.version": "12"},
            "stack/older:run",
            "is for version 13, but stack/older:run is 12",
        ),
        (
            {"io.buildpacks.base.distro.name": "ubuntu"},
            "stack/ubuntu:run",
            "is for distribution debian, but stack/ubuntu:run is ubuntu",
        ),
    ],
)
def test_refused(
    builder: Builder, app: BuildResult, labels: dict[str, str], ref: str, reason: str
) -> None:
    """Another name, or another system, is refused unless forced; nothing is written."""
    patched(builder, ref, **labels)
    before = builder.engine.images.refs()
    with pytest.raises(RebaseFailed, match=reason):
        put_on(builder, app.image, ref, "app/refused:1")
    assert builder.engine.images.refs() == before
    forced = put_on(builder, app.image, ref, "app/forced-all:1", force=True)
    assert run_image_of(forced)[0] == ref


def test_images_that_cannot_be_rebased(builder: Builder, app: BuildResult) -> None:
    """An image that says no, or that no buildpack has made, is refused."""
    images = builder.engine.images
    image = builder.image(app)
    for labels, reason in (
        ({**image.config.labels, REBASABLE_LABEL: "false"}, "marked as not to be rebased"),
        ({}, "was not made by buildpacks"),
    ):
        images.write(list(image.layers), replace(image.config, labels=labels), "app/marked:1")
        with pytest.raises(RebaseFailed, match=reason):
            put_on(builder, "app/marked:1", RUN, "app/never:1")
    cut = list(image.layers[1:])
    images.write(cut, image.config, "app/cut:1")
    with pytest.raises(RebaseFailed, match="has no layer sha256"):
        put_on(builder, "app/cut:1", RUN, "app/never:1")
