"""The rest of the specification, on real builds: versions of its API, bills, slices, labels."""

import json

import pytest

from buildlab import Builder
from shipway.buildpacks import bills
from shipway.buildpacks.errors import BuildFailed
from shipway.buildpacks.labels import Origin

WEB = r"""
printf '[[processes]]\ntype = "web"\ncommand = ["x"]\n' >> "$CNB_LAYERS_DIR/launch.toml"
"""


@pytest.mark.parametrize(
    ("api", "names"),
    [
        ("0.7", {"CNB_BUILDPACK_DIR", "CNB_STACK_ID"}),
        (
            "0.8",
            {"CNB_BUILDPACK_DIR", "CNB_STACK_ID", "CNB_LAYERS_DIR", "CNB_PLATFORM_DIR"}
            | {"CNB_BP_PLAN_PATH"},
        ),
        (
            "0.12",
            {"CNB_BUILDPACK_DIR", "CNB_STACK_ID", "CNB_LAYERS_DIR", "CNB_PLATFORM_DIR"}
            | {"CNB_BP_PLAN_PATH", "CNB_EXEC_ENV", "CNB_TARGET_OS", "CNB_TARGET_ARCH"}
            | {"CNB_TARGET_DISTRO_NAME", "CNB_TARGET_DISTRO_VERSION"},
        ),
    ],
)
def test_what_each_api_gives(builder: Builder, api: str, names: set[str]) -> None:
    """A buildpack gets the variables of its own API version, and the arguments of all."""
    name = f"api-{api}"
    command = '"x"' if api < "0.9" and api != "0.12" else '["x"]'
    script = f"""
    compgen -e | grep ^CNB_ | sort
    test $# = 3 && test -d "$1" && test -d "$2/env" && test -f "$3"
    printf '[[processes]]\\ntype = "web"\\ncommand = {command}\\nworking-dir = "sub"\\n' \
        > "$1/launch.toml"
    """
    source = builder.buildpack(name, "test $# = 2; echo > $2", script, api=api)
    result = builder.build({"sub/a": ""}, builder.catalog(source))
    assert {line for line in builder.lines if line.startswith("CNB_")} == names
    metadata = json.loads(builder.image(result).config.labels["io.buildpacks.build.metadata"])
    assert metadata["processes"][0]["working-dir"] == (
        "/workspace" if api == "0.7" else "/workspace/sub"
    )


def bill(*names: str) -> str:
    components = [{"type": "library", "name": n, "version": "1", "bom-ref": n} for n in names]
    dependencies = [{"ref": names[0], "dependsOn": list(names[1:])}]
    document = {"bomFormat": "CycloneDX", "components": components, "dependencies": dependencies}
    return json.dumps(document)


FORMATS = 'sbom-formats = ["application/vnd.cyclonedx+json", "application/spdx+json"]\n'
BILLS = rf"""
cd "$CNB_LAYERS_DIR"
ls *.sbom.* 2>/dev/null && cat kept.sbom.cdx.json
for name in kept cached built; do mkdir -p $name; done
printf '[types]\nlaunch = true\n' > kept.toml; printf '[types]\ncache = true\n' > cached.toml
printf '[types]\nbuild = true\n' > built.toml
if test ! -f kept.sbom.cdx.json; then
    echo '{bill("kept", "needed")}' > kept.sbom.cdx.json
    echo '{bill("cached")}' > cached.sbom.cdx.json
fi
echo '{bill("built")}' > built.sbom.cdx.json
echo '{bill("launched")}' > launch.sbom.cdx.json; echo '{{}}' > launch.sbom.spdx.json
echo 'no JSON' > build.sbom.cdx.json
echo ignored > of-no-layer.sbom.cdx.json
{WEB}
"""


def test_bills_of_materials(builder: Builder) -> None:
    """Bills are kept in the image where the specification says, restored, and read as one."""
    catalog = builder.catalog(builder.buildpack("bills", "exit 0", BILLS, more=FORMATS))
    one = builder.build({"a": ""}, catalog)
    assert not any("sbom" in line for line in builder.lines)
    listed = builder.run(one, "cd /layers/sbom && find . -type f | sort").split()
    launch = "./launch/test_bills"
    assert listed == [
        f"{launch}/kept/sbom.cdx.json",
        f"{launch}/sbom.cdx.json",
        f"{launch}/sbom.spdx.json",
    ]
    stores = builder.engine.images, builder.engine.layers
    whole = bills.bill(*stores, one.image)
    names = [component["name"] for component in whole["components"]]
    assert {"kept", "needed", "launched", "bash", "test/bills"} <= set(names)
    assert {"cached", "built"}.isdisjoint(names)
    assert {"ref": "test_bills:kept#kept@1", "dependsOn": ["test_bills:kept#needed@1"]} in whole[
        "dependencies"
    ]
    bash = next(each for each in whole["components"] if each["name"] == "bash")
    assert bash["purl"].startswith("pkg:deb/debian/bash@5")
    assert bash["purl"].endswith("&distro=debian-13")
    made = bills.bill(*stores, one.image, bills.BUILD)
    assert {each["name"] for each in made["components"]} == {"built", "cached", "test/bills"}

    two = builder.build({"a": "2"}, catalog, previous=one.image)
    restored = ["cached.sbom.cdx.json", "kept.sbom.cdx.json"]
    assert [line for line in builder.lines if line.endswith(".sbom.cdx.json")] == restored
    assert bill("kept", "needed") in builder.lines
    assert builder.metadata(two)["sbom"] == builder.metadata(one)["sbom"]
    assert bills.bill(*stores, two.image)["components"] == whole["components"]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ('echo > "$CNB_LAYERS_DIR/launch.sbom.syft.json"', "do not name this format"),
        ('ln -s /etc/passwd "$CNB_LAYERS_DIR/launch.sbom.cdx.json"', "launch.sbom.cdx.json"),
        ('mkfifo "$CNB_LAYERS_DIR/launch.sbom.cdx.json"', "no plain file of at most 64 MB"),
        ('truncate -s 65M "$CNB_LAYERS_DIR/launch.sbom.cdx.json"', "no plain file of at most"),
    ],
)
def test_bills_that_are_refused(builder: Builder, script: str, reason: str) -> None:
    """A bill of an undeclared format is an error; so is one that is no file of a bearable size."""
    source = builder.buildpack(f"refused-{abs(hash(script))}", "exit 0", WEB + script, more=FORMATS)
    assert reason in builder.failure({"a": ""}, catalog=builder.catalog(source))


def test_slices(builder: Builder) -> None:
    """Each slice is a layer; the rest is one more; a changed file leaves the others as they are."""
    script = (
        WEB
        + r"""
    printf '[[slices]]\npaths = ["assets/*.js", "none"]\n[[slices]]\npaths = ["void"]\n' \
        >> "$CNB_LAYERS_DIR/launch.toml"
    printf '[[slices]]\npaths = ["assets"]\n' >> "$CNB_LAYERS_DIR/launch.toml"
    """
    )
    catalog = builder.catalog(builder.buildpack("slices", "exit 0", script))
    files: dict[str, str | bytes] = {"assets/a.js": "a", "assets/b.css": "b", "app.py": "c"}
    one = builder.build(files, catalog)
    assert builder.run(one, "cd /workspace; find . -type f | sort").split() == [
        "./app.py",
        "./assets/a.js",
        "./assets/b.css",
    ]
    two = builder.build(files | {"app.py": "d"}, catalog, previous=one.image)
    before, after = ([item["sha"] for item in builder.metadata(each)["app"]] for each in (one, two))
    assert len(before) == 3
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, False]


def test_labels_and_report(builder: Builder) -> None:
    """An image says where its source is from, what it is based on, and what made it."""
    source = builder.buildpack("labels", "exit 0", WEB, more='homepage = "https://home.test"\n')
    origin = Origin("0123abc", "https://git.test/app.git", ("refs/heads/main",))
    result = builder.build({"a": ""}, builder.catalog(source), origin=origin, ref="app/x:1")
    image = builder.image(result)
    labels = image.config.labels
    run = builder.engine.images.get(builder.stack.run_image)
    assert json.loads(labels["io.buildpacks.project.metadata"]) == {
        "source": {
            "type": "git",
            "version": {"commit": "0123abc"},
            "metadata": {"repository": "https://git.test/app.git", "refs": ["refs/heads/main"]},
        }
    }
    assert builder.metadata(result)["runImage"] == {
        "image": "stack/debian-13:run",
        "mirrors": [],
        "reference": run.digest,
        "topLayer": run.layers[-1].diff_id,
    }
    assert labels["io.buildpacks.rebasable"] == "true"
    built = json.loads(labels["io.buildpacks.build.metadata"])
    assert built["buildpacks"] == [
        {"id": "test/labels", "version": "1.0.0", "homepage": "https://home.test", "api": "0.10"}
    ]
    assert result.report == (
        f'[image]\ntags = ["app/x:1"]\ndigest = "{image.digest}"\nimage-id = "{image.id}"\n'
        f"manifest-size = {builder.engine.images.blobs.size(image.digest)}\n"
    )


DEFAULTS = [
    ([("web", False)], None, "web"),
    ([("job", True), ("web", False)], None, "job"),
    ([("job", True), ("job", False)], None, None),
    ([("job", True), ("web", True)], None, "web"),
    ([("job", True), ("web", False)], "web", "web"),
]


@pytest.mark.parametrize(("made", "wanted", "default"), DEFAULTS)
def test_default_process(
    builder: Builder, made: list[tuple[str, bool]], wanted: str | None, default: str | None
) -> None:
    """The last default counts, unless a later buildpack takes it back or the platform asks."""
    sources = []
    for type_, is_default in made:
        text = f'[[processes]]\\ntype = "{type_}"\\ncommand = ["x"]\\ndefault = {is_default}\\n'
        script = f"printf '{text.lower()}' > \"$CNB_LAYERS_DIR/launch.toml\""
        name = f"default-{DEFAULTS.index((made, wanted, default))}-{len(sources)}"
        sources.append(builder.buildpack(name, "exit 0", script))
    result = builder.build({"a": ""}, builder.catalog(*sources), process_type=wanted)
    path = f"/cnb/process/{default}" if default else "/cnb/lifecycle/launcher"
    assert builder.image(result).config.entrypoint == (path,)


def test_a_default_process_that_is_not_there(builder: Builder) -> None:
    """A process type that the platform asks for must exist."""
    source = builder.buildpack("no-such-type", "exit 0", WEB)
    reason = builder.failure({"a": ""}, catalog=builder.catalog(source), process_type="job")
    assert reason == "there is no process type 'job' to start by default; there is web"


@pytest.mark.parametrize(
    ("detect", "build", "code"),
    [
        ("exit 100", "", 20),
        ("exit 3", "", 21),
        ('echo "= no plan" > "$CNB_BUILD_PLAN_PATH"', "", 21),
        ("exit 0", "exit 9", 51),
        ("exit 0", 'echo "=" > "$CNB_LAYERS_DIR/launch.toml"', 52),
        ("exit 0", 'echo "[types]\nlaunch = true" > "$CNB_LAYERS_DIR/l.toml"' + WEB, 62),
    ],
)
def test_exit_codes(builder: Builder, detect: str, build: str, code: int) -> None:
    """A failure carries the platform specification's exit code for its phase."""
    source = builder.buildpack(f"code-{abs(hash(detect + build))}", detect, build)
    with pytest.raises(BuildFailed) as error:
        builder.build({"a": ""}, builder.catalog(source))
    assert error.value.code == code


@pytest.mark.parametrize("how", ["a broken plan", "no program"])
def test_an_optional_buildpack_that_fails_is_left_out(builder: Builder, how: str) -> None:
    """A plan that cannot be read is its own buildpack's error, as an exit code would be."""
    from shipway.buildpacks import catalog as catalogs
    from shipway.buildpacks.lifecycle.order import Member

    name = how.replace(" ", "-")
    broken = builder.buildpack(f"{name}-x", 'echo "=" > "$CNB_BUILD_PLAN_PATH"', "exit 1")
    if how == "no program":
        (broken.folder / "bin" / "detect").unlink()
    good = builder.buildpack(f"{name}-good", "exit 0", WEB)
    order = ((Member(broken.buildpack.id, optional=True), Member(good.buildpack.id)),)
    builder.build({"a": ""}, catalogs.catalog((broken, good), order))
