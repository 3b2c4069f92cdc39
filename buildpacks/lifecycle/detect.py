"""Detection: run each candidate's bin/detect and choose the first group that works."""

import os
from collections.abc import Mapping
from typing import NamedTuple

from shipway.buildpacks.lifecycle import checks, env, errors, log, plan, spawn
from shipway.buildpacks.lifecycle.request import PLATFORM_DIR, Buildpack, Request

PASS, FAIL = 0, 100


class Run(NamedTuple):
    """One bin/detect that was started."""

    buildpack: Buildpack
    child: spawn.Child
    plan_path: str
    output_path: str


class Selected(NamedTuple):
    """The buildpacks that take part, in order, with their plan."""

    group: tuple[Buildpack, ...]
    entries: tuple[plan.Entry, ...]


def detect(request: Request, scratch: str) -> Selected:
    """Try the groups in order. Raises LifecycleError when none fits."""
    runs: dict[str, Run] = {}
    codes: dict[str, int] = {}
    for group in request.order:
        for id_, _ in group:  # all of a group at once
            if id_ not in runs:
                runs[id_] = _start(request.buildpacks[id_], request, scratch)
        for id_, _ in group:
            if id_ not in codes:
                codes[id_] = runs[id_].child.wait()
        selected = _select(group, codes, runs, request)
        if selected is not None:
            return selected
    for id_, code in codes.items():
        if code not in (PASS, FAIL):
            _report(runs[id_])
            raise errors.LifecycleError(
                f"the buildpack {id_} failed while looking at the app (exit {code})",
                errors.DETECT_ERROR,
            )
    raise errors.LifecycleError(
        "no buildpack fits this app", errors.NONE_DETECTED, _sought(request)
    )


def _select(
    group: tuple[tuple[str, bool], ...],
    codes: dict[str, int],
    runs: dict[str, Run],
    request: Request,
) -> Selected | None:
    if any(codes[id_] != PASS and not optional for id_, optional in group):
        return None
    candidates = [
        plan.Candidate(id_, optional, checks.plan_options(runs[id_].plan_path))
        for id_, optional in group
        if codes[id_] == PASS
    ]
    try:
        resolution = plan.resolve(candidates)
    except plan.Unresolved:
        return None
    chosen = tuple(request.buildpacks[id_] for id_ in resolution.group)
    return Selected(chosen, resolution.entries)


def _start(buildpack: Buildpack, request: Request, scratch: str) -> Run:
    base = os.path.join(scratch, buildpack.folder)
    plan_path, output_path = f"{base}.plan.toml", f"{base}.detect.out"
    with open(plan_path, "w"):
        pass  # it is there, and empty
    args = [f"{buildpack.root}/bin/detect", PLATFORM_DIR, plan_path]
    env_ = buildpack_env(buildpack, request, {"CNB_BUILD_PLAN_PATH": plan_path})
    child = spawn.start(args, env_, output_path)
    return Run(buildpack, child, plan_path, output_path)


def buildpack_env(
    buildpack: Buildpack,
    request: Request,
    own: dict[str, str],
    base: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """What bin/detect or bin/build gets: `base`, the target, the user's and the operator's values."""
    values = env.inherited(request.build_env) if base is None else dict(base)
    if not buildpack.clear_env:
        values = env.with_user_env(values, env.read_env_files(f"{PLATFORM_DIR}/env"))
    values = env.with_operator_env(values, request.operator_env)
    values.update(own, CNB_BUILDPACK_DIR=buildpack.root, CNB_PLATFORM_DIR=PLATFORM_DIR)
    if checks.api_version(buildpack.api) >= (0, 10):
        values.update({f"CNB_TARGET_{key.upper()}": text for key, text in request.target.items()})
    if checks.api_version(buildpack.api) >= (0, 12):
        values["CNB_EXEC_ENV"] = "production"
    return values


def _report(run: Run) -> None:
    with open(run.output_path, encoding="utf-8", errors="replace") as file:
        for line in file:
            log.detail(line.rstrip())


def _sought(request: Request) -> tuple[str, ...]:
    width = max((len(item.language) for item in request.buildpacks.values()), default=0)
    sought = [
        f"  {item.language.ljust(width)}  {item.looks_for}"
        for item in request.buildpacks.values()
        if item.looks_for
    ]
    return (
        "Looked in the top folder of the commit for:",
        *sought,
        "Add one of these files, commit it (`git add` and `git commit`) and push again.",
    )
