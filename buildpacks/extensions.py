"""Image extensions: the Dockerfiles that they generate, applied to the build and the run image.

A Dockerfile's steps run as root beside the engine, so this is for who is trusted with that.
"""

import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipway.buildpacks import plainfile
from shipway.buildpacks.errors import BuildFailed
from shipway.buildpacks.labels import REBASABLE_LABEL, Base
from shipway.buildpacks.lifecycle.request import Buildpack
from shipway.runtime.engine import Engine
from shipway.runtime.errors import ImageBuildFailed
from shipway.runtime.images import dockerfile
from shipway.runtime.images.build import Builder, Request
from shipway.runtime.images.registries import Access
from shipway.runtime.images.store import Image

if TYPE_CHECKING:
    from shipway.buildpacks.build import BuildRequest

FAILED = 102  # the platform specification's exit code
ARGUMENT = "base_image"


@dataclass(frozen=True, slots=True)
class _Step:
    """One Dockerfile with its arguments and the folder it copies from."""

    extension: str
    file: Path
    context: Path
    arguments: tuple[tuple[str, str], ...]


def extend(
    engine: Engine,
    request: "BuildRequest",
    group: Sequence[Buildpack],
    generated: Path,
    base: Base,
    output: Callable[[str], None],
) -> tuple[str, Base]:
    """Apply what the extensions wrote below `generated`; gives the build image and the new base.

    Raises BuildFailed. Images that were made only for this build have no name afterwards.
    """
    builder = Builder(engine.config, engine.images, Access.of(engine.images))
    build_image = engine.images.get(request.stack.build_image)
    for step in _steps(generated, group, "build", request.source):
        build_image = _apply(engine, builder, request, step, build_image, output)
    current, rebasable = base.image, True
    for step in _steps(generated, group, "run", request.source):
        switched = _other_base(step)
        if switched is not None:
            base = replace(base, image=builder.provide(switched, output), name=switched)
            current = base.image
        current = _apply(engine, builder, request, step, current, output)
        rebasable = rebasable and current.config.labels.get(REBASABLE_LABEL) == "true"
    return build_image.digest, replace(base, extended=current, rebasable=rebasable)


def _steps(root: Path, group: Sequence[Buildpack], kind: str, app: Path) -> Iterator[_Step]:
    for extension in group:
        folder = plainfile.folder_below(root, extension.folder)
        if not extension.is_extension or folder is None:
            continue
        file = folder / f"{kind}.Dockerfile"
        if not os.path.lexists(file):
            continue
        contexts = ("context", f"context.{kind}")
        found = [place for name in contexts if (place := plainfile.folder_below(folder, name))]
        try:
            plainfile.read_text(file)
            arguments = _arguments(folder / "extend-config.toml", kind)
        except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise BuildFailed(
                f"the extension {extension.id} wrote files that cannot be used: {error}", FAILED
            ) from error
        yield _Step(extension.id, file, found[0] if found else app, arguments)


def _arguments(path: Path, kind: str) -> tuple[tuple[str, str], ...]:
    if not os.path.lexists(path):
        return ()
    section: dict[str, Any] = plainfile.read_toml(path).get(kind, {})
    return tuple((str(item["name"]), str(item["value"])) for item in section.get("args", ()))


def _other_base(step: _Step) -> str | None:
    """The image that a run.Dockerfile begins from instead, if it is not the one it is given."""
    marker = "extended.invalid/base"
    found = list(dockerfile.bases(plainfile.read_text(step.file), {ARGUMENT: marker}))
    if len(found) != 1:
        raise BuildFailed(
            f"the Dockerfile of {step.extension} needs one FROM, and has {len(found)}", FAILED
        )
    return None if found[0] == marker else found[0]


def _apply(
    engine: Engine,
    builder: Builder,
    request: "BuildRequest",
    step: _Step,
    image: Image,
    output: Callable[[str], None],
) -> Image:
    user, _, user_group = (image.config.user or "0:0").partition(":")
    name = f"extended/{request.app}:{request.build_id}"
    engine.images.tag(name, image.digest)
    arguments = {
        ARGUMENT: name,
        "build_id": str(uuid.uuid4()),
        "user_id": user,
        "group_id": user_group or "0",
        **dict(step.arguments),
    }
    try:
        wanted = Request(step.context, step.file, arguments=arguments)
        return builder.build(wanted, lambda line: output(f"       {line}"))
    except ImageBuildFailed as error:
        raise BuildFailed(f"the Dockerfile of {step.extension}: {error}", FAILED) from error
    finally:
        engine.images.untag(name)
