"""The container in which detection and build run: what it sees, and the folders behind it."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shipway.buildpacks import bills, heroku, registries
from shipway.buildpacks.analyze import Previous
from shipway.buildpacks.catalog import HERE, Catalog
from shipway.buildpacks.lifecycle.request import (
    APP_DIR,
    CACHE_DIR,
    HOME,
    LAYERS_DIR,
    PLATFORM_DIR,
    REQUEST_PATH,
    RESTORED_DIR,
    Request,
)
from shipway.buildpacks.upper import USER_ID
from shipway.runtime.engine import Engine
from shipway.runtime.images.store import Image
from shipway.runtime.spec import ContainerSpec, Limits, Mount, Overlay

if TYPE_CHECKING:
    from shipway.buildpacks.build import BuildRequest

LIFECYCLE_ROOT = "/cnb/lifecycle"
CA_PATH = "/etc/shipway/ca-certificates.crt"
# Each program has its own name for "trust these certificates".
CA_VARIABLES = (
    "AWS_CA_BUNDLE",
    "CARGO_HTTP_CAINFO",
    "CURL_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "PIP_CERT",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_FILE",
)
FOLDERS = ("overlay", "request", "platform", "restored", "trees")
DPKG_STATUS = "var/lib/dpkg/status"
RUN_STATUS = "/cnb/run/dpkg-status"
CPU_SHARES = 128  # an app's container has 1024
DRIVER = ("python3", "-sSPB", "-c", "from shipway.buildpacks.lifecycle.driver import run; run()")


@dataclass(frozen=True, slots=True)
class Job:
    """A container ready to run, and what it will leave: `upper` of /layers, a `scratch` folder.

    `request` is the file that tells the lifecycle what to do.
    """

    spec: ContainerSpec
    upper: Path
    scratch: Path
    request: Path


def prepare(
    engine: Engine,
    request: "BuildRequest",
    catalog: Catalog,
    previous: Previous,
    run: Image,
    user_env: Mapping[str, str],
) -> Job:
    """Make the folders below the build's workdir and write the lifecycle's request."""
    folders = {name: request.workdir / name for name in FOLDERS}
    for name in FOLDERS:
        folders[name].mkdir(parents=True)
    folders["home"] = request.workdir / "home"
    top = folders["overlay"]
    for path in (top / "upper", top / "work", top / "empty"):
        path.mkdir()
        os.chown(path, USER_ID, USER_ID)
    (folders["platform"] / "env").mkdir()
    for name, value in user_env.items():
        (folders["platform"] / "env" / name).write_text(value, encoding="utf-8")
    bills.restore(
        [engine.layers.path(layer.diff_id) for layer in previous.sboms],
        [(each.buildpack.replace("/", "_"), each.name) for each in previous.layers.values()],
        folders["restored"],
    )
    build_image = engine.images.get(request.stack.build_image)
    content = _request(request, catalog, previous, run, build_image)
    path = folders["request"] / os.path.basename(REQUEST_PATH)
    path.write_text(content.to_json(), encoding="utf-8")
    mounts = [
        _bind(request.source, APP_DIR, readonly=False),
        _bind(folders["request"], os.path.dirname(REQUEST_PATH)),
        _bind(folders["platform"], PLATFORM_DIR),
        _bind(folders["restored"], RESTORED_DIR),
        _bind(HERE, f"{LIFECYCLE_ROOT}/shipway/buildpacks"),
    ]
    mounts += [_bind(source.folder, source.buildpack.root) for source in catalog.sources.values()]
    if any(id_.startswith(heroku.PREFIX) for id_ in catalog.sources):
        folders["home"].mkdir()
        os.chown(folders["home"], USER_ID, USER_ID)
        mounts.append(_bind(folders["home"], heroku.HOME, readonly=False))
    if request.ca_bundle is not None:
        mounts.append(_bind(request.ca_bundle.resolve(), CA_PATH))
    if request.cache is not None:
        _make_cache(request.cache)
        mounts.append(_bind(request.cache, CACHE_DIR, readonly=False))
    mounts += _package_list(engine, run)
    spec = ContainerSpec(
        id=f"build-{request.app}-{request.build_id}",
        image=build_image.digest,
        args=DRIVER,
        env={"PYTHONPATH": LIFECYCLE_ROOT},
        ids=request.ids,
        cwd=APP_DIR,
        limits=gentle(request.limits),
        mounts=tuple(mounts),
        overlays=(
            Overlay(
                target=LAYERS_DIR,
                lower=(*previous.lower(engine.layers), top / "empty"),
                upper=top / "upper",
                work=top / "work",
            ),
        ),
        labels={"shipway.build": request.build_id, "shipway.app": request.app},
        secrets=request.secrets,
        network=request.gate is None,
    )
    return Job(spec, top / "upper", folders["trees"], path)


def go_on(job: Job, selected: Mapping[str, Any]) -> None:
    """Have the next container build with what the one before has selected."""
    request = json.loads(job.request.read_text(encoding="utf-8"))
    job.request.write_text(json.dumps({**request, "selected": selected}), encoding="utf-8")


def _request(
    request: "BuildRequest", catalog: Catalog, previous: Previous, run: Image, build_image: Image
) -> Request:
    labels = build_image.config.labels
    target = {
        "os": "linux",
        "arch": build_image.config.architecture,
        "distro_name": labels.get("io.buildpacks.base.distro.name", ""),
        "distro_version": labels.get("io.buildpacks.base.distro.version", ""),
    }
    return Request(
        target=target,
        buildpacks={id_: source.buildpack for id_, source in catalog.sources.items()},
        order=tuple(
            tuple((member.id, member.optional) for member in group)
            for group in catalog.groups(target)
        ),
        build_env={**build_image.config.env, "HOME": HOME},
        operator_env=_operator_env(request),
        restored=previous.restored(),
        stores=previous.stores,
    )


def _operator_env(request: "BuildRequest") -> Mapping[str, str]:
    """By the specification's suffix rules, so that nothing an app brings along wins over it."""
    values = dict(request.env)
    if request.ca_bundle is not None:
        values.update(dict.fromkeys(CA_VARIABLES, CA_PATH))
    if request.cache is not None:
        values["SHIPWAY_CACHE_DIR"] = CACHE_DIR
    known = {"SHIPWAY_NPM_REGISTRY.default": registries.npm()}
    return {**known, **{f"{name}.override": value for name, value in values.items()}}


def gentle(limits: Limits) -> Limits:
    """A build gives way to apps when both want the processor."""
    return replace(limits, cpu_shares=min(limits.cpu_shares or CPU_SHARES, CPU_SHARES))


def _package_list(engine: Engine, run: Image) -> list[Mount]:
    """Show which packages the run image has, so that buildpacks bring what is beyond them."""
    for layer in reversed(run.layers):
        folder = engine.layers.path(layer.diff_id).resolve()
        path = folder / DPKG_STATUS
        if path.is_file() and path.resolve() == path:  # no link of a stranger's image is followed
            return [_bind(path, RUN_STATUS)]
    return []


def _make_cache(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.chown(path, USER_ID, USER_ID)


def _bind(source: Path, target: str, readonly: bool = True) -> Mount:
    """What a build may write to is its own: no other container is given it meanwhile."""
    return Mount(os.fspath(source), target, readonly, own=not readonly)
