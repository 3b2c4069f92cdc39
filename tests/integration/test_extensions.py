"""Image extensions: the Dockerfiles that they generate, on the build and the run image."""

from pathlib import Path

import pytest

from buildlab import Builder
from shipway.buildpacks import catalog as catalogs
from shipway.buildpacks.descriptor import Source, load
from shipway.buildpacks.errors import BuildFailed
from shipway.buildpacks.lifecycle.order import Member
from shipway.buildpacks.rebase import run_image_of

DETECT = r"""#!/bin/sh
test -f "$PWD/wants-tool" || exit 100
printf '[[provides]]\nname = "tool"\n' > "$CNB_BUILD_PLAN_PATH"
"""
GENERATE = r"""#!/bin/sh
set -e
grep -q 'why = "because"' "$CNB_BP_PLAN_PATH"
mkdir "$CNB_OUTPUT_DIR/context"; echo copied > "$CNB_OUTPUT_DIR/context/file"
cat > "$CNB_OUTPUT_DIR/build.Dockerfile" <<'END'
ARG base_image
FROM ${base_image}
ARG greeting
USER root
RUN printf '#!/bin/sh\necho tool says %s' "$greeting" > /usr/local/bin/tool; chmod +x /usr/local/bin/tool
USER 1000:1000
END
cat > "$CNB_OUTPUT_DIR/run.Dockerfile" <<'END'
ARG base_image
FROM ${base_image}
ARG user_id
ARG group_id
USER root
COPY file /etc/extended
LABEL io.buildpacks.rebasable=true
ENV EXTENDED=yes
USER ${user_id}:${group_id}
END
printf '[[build.args]]\nname = "greeting"\nvalue = "hello"\n' > "$CNB_OUTPUT_DIR/extend-config.toml"
"""
REQUIRE = r"""
printf '[[requires]]\nname = "tool"\n[requires.metadata]\nwhy = "because"\n' > "$CNB_BUILD_PLAN_PATH"
"""
BUILD = r"""
tool; cat "$CNB_BP_PLAN_PATH"; test ! -e /etc/extended
printf '[[processes]]\ntype = "web"\ncommand = ["cat", "/etc/extended"]\n' > "$CNB_LAYERS_DIR/launch.toml"
"""


def extension(folder: Path, generate: str = GENERATE, api: str = "0.10") -> Source:
    (folder / "bin").mkdir(parents=True)
    (folder / "extension.toml").write_text(
        f'api = "{api}"\n[extension]\nid = "test/extension"\nversion = "1.0.0"\n'
    )
    for name, script in (("detect", DETECT), ("generate", generate)):
        (folder / "bin" / name).write_text(script)
        (folder / "bin" / name).chmod(0o755)
    return load(folder)


def catalog(extension: Source, *sources: Source) -> catalogs.Catalog:
    order = (Member(extension.buildpack.id, optional=True),)
    order += tuple(Member(source.buildpack.id) for source in sources)
    return catalogs.catalog((extension, *sources), (order,))


def test_both_images_are_extended(builder: Builder, tmp_path: Path) -> None:
    """The build sees what build.Dockerfile adds, the app what run.Dockerfile adds, and no other."""
    needs = builder.buildpack("needs", REQUIRE, BUILD)
    known = catalog(extension(tmp_path / "e"), needs)
    refs = builder.engine.images.refs()
    result = builder.build({"wants-tool": ""}, known)
    assert any("tool says hello" in line for line in builder.lines)
    assert not any("because" in line for line in builder.lines)  # the extension has met it
    assert builder.run(result, result.processes["web"]) == "copied\n"
    image = builder.image(result)
    run = builder.engine.images.get(builder.stack.run_image)
    assert image.layers[: len(run.layers)] == run.layers
    assert image.config.env["EXTENDED"] == "yes"
    assert image.config.user == "1000:1000"
    assert image.config.labels["io.buildpacks.rebasable"] == "true"
    assert run_image_of(image) == (builder.stack.run_image, run.layers[-1].diff_id)
    assert '"extensions":[{' in image.config.labels["io.buildpacks.build.metadata"]
    added = builder.engine.images.refs().keys() - refs.keys()
    assert not any(name.startswith("extended/") for name in added)
    assert "extend" in result.phases


def test_an_extension_that_does_not_fit_changes_nothing(builder: Builder, tmp_path: Path) -> None:
    """Extensions are optional; what one would have provided is then missing."""
    source = builder.buildpack("plain", "exit 0", BUILD.replace("tool;", ""))
    result = builder.build({"a": ""}, catalog(extension(tmp_path / "e"), source))
    assert "extend" not in result.phases
    unmet = builder.buildpack("unmet", REQUIRE, BUILD)
    reason = builder.failure({"a": ""}, catalog=catalog(extension(tmp_path / "f"), unmet))
    assert reason == "No buildpack fits this app"


@pytest.mark.parametrize(
    ("generate", "code"),
    [
        ("#!/bin/sh\nexit 4\n", 91),
        ('#!/bin/sh\nln -s /etc/passwd "$CNB_OUTPUT_DIR/run.Dockerfile"\n', 102),
        ('#!/bin/sh\necho "RUN true" > "$CNB_OUTPUT_DIR/run.Dockerfile"\n', 102),
        (
            '#!/bin/sh\ncd "$CNB_OUTPUT_DIR"\nprintf "ARG base_image\\nFROM \\${base_image}\\n'
            'RUN exit 3\\n" > run.Dockerfile\n',
            102,
        ),
    ],
)
def test_failures(builder: Builder, tmp_path: Path, generate: str, code: int) -> None:
    """What an extension gets wrong fails the build with the specification's exit code."""
    needs = builder.buildpack(f"needs-{abs(hash(generate))}", REQUIRE, BUILD)
    refs = builder.engine.images.refs()
    with pytest.raises(BuildFailed) as error:
        builder.build({"wants-tool": ""}, catalog(extension(tmp_path / "e", generate), needs))
    assert error.value.code == code
    assert builder.engine.images.refs() == refs


def test_extensions_of_an_app_are_refused(builder: Builder, tmp_path: Path) -> None:
    """An app's own files bring no extension in, unless the platform allows it."""
    app = tmp_path / "app"
    extension(app / "ext")
    (app / ".buildpacks").write_text("./ext\n")
    reason = builder.failure(app)
    assert reason.startswith("image extensions run their Dockerfiles as root")
    known = builder.catalog(builder.buildpack("beside", "exit 0", BUILD.replace("tool;", "")))
    builder.build(app, known, extensions=True)
    assert any("test/beside" in line for line in builder.lines)
