"""Detection: run each candidate's bin/detect and choose the first group that works."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from shipway.buildpacks.kit import say
from shipway.buildpacks.lifecycle import checks, env, errors, plan, spawn
from shipway.buildpacks.lifecycle.request import EXEC_ENV, PLATFORM_DIR, Buildpack, Request

PASS, FAIL = 0, 100
BAD_PLAN, NOT_RUN = -1000, -1001  # no signals have these numbers
HOW = {BAD_PLAN: "it wrote a build plan that cannot be read", NOT_RUN: "it cannot be run"}


class Run(NamedTuple):
    """One bin/detect that was started, or could not be."""

    buildpack: Buildpack
    child: spawn.Child | None
    plan_path: str
    output_path: str


class Selected(NamedTuple):
    """The buildpacks that take part, in order, with their plan."""

    group: tuple[Buildpack, ...]
    entries: tuple[plan.Entry, ...]

    def to_json(self) -> dict[str, Any]:
        """For another container to go on from."""
        return {"group": [one.id for one in self.group], "entries": self.entries}

    @classmethod
    def from_json(cls, document: Mapping[str, Any], request: Request) -> "Selected":
        """The inverse of `to_json`."""
        entries = tuple(
            plan.Entry(name, tuple(providers), tuple(plan.Require(*need) for need in requires))
            for name, providers, requires in document["entries"]
        )
        return cls(tuple(request.buildpacks[id_] for id_ in document["group"]), entries)


def detect(request: Request, scratch: str) -> Selected:
    """Try the groups in order. Raises LifecycleError when none fits."""
    runs: dict[str, Run] = {}
    codes: dict[str, int] = {}
    options: dict[str, tuple[plan.Option, ...]] = {}
    for group in request.order:
        for id_, _ in group:  # all of a group at once
            if id_ not in runs:
                runs[id_] = _start(request.buildpacks[id_], request, scratch)
        for id_, _ in group:
            if id_ not in codes:
                child = runs[id_].child
                codes[id_] = NOT_RUN if child is None else child.wait()
                options[id_] = _options(runs[id_], codes)
        selected = _select(group, codes, options, request)
        if selected is not None:
            return selected
    for id_, code in codes.items():
        if code not in (PASS, FAIL):
            _report(runs[id_])
            how = HOW.get(code, f"exit {code}")
            raise errors.LifecycleError(
                f"the buildpack {id_} failed while looking at the app ({how})",
                errors.DETECT_ERROR,
            )
    raise errors.LifecycleError(
        "no buildpack fits this app", errors.NONE_DETECTED, _sought(request)
    )


def _select(
    group: tuple[tuple[str, bool], ...],
    codes: dict[str, int],
    options: dict[str, tuple[plan.Option, ...]],
    request: Request,
) -> Selected | None:
    if any(codes[id_] != PASS and not optional for id_, optional in group):
        return None
    candidates = [
        plan.Candidate(id_, optional, options[id_], request.buildpacks[id_].is_extension)
        for id_, optional in group
        if codes[id_] == PASS
    ]
    try:
        resolution = plan.resolve(candidates)
    except plan.Unresolved:
        return None
    chosen = tuple(request.buildpacks[id_] for id_ in resolution.group)
    return Selected(chosen, resolution.entries)


def _options(run: Run, codes: dict[str, int]) -> tuple[plan.Option, ...]:
    """Its plan; one that cannot be read is an error of that buildpack alone."""
    if codes[run.buildpack.id] != PASS:
        return ()
    try:
        return checks.plan_options(run.plan_path)
    except errors.InvalidOutput as error:
        codes[run.buildpack.id] = BAD_PLAN
        with open(run.output_path, "a", encoding="utf-8") as file:
            file.write(f"{error}\n")
        return ()


def _start(buildpack: Buildpack, request: Request, scratch: str) -> Run:
    base = os.path.join(scratch, buildpack.folder)
    plan_path, output_path = f"{base}.plan.toml", f"{base}.detect.out"
    with open(plan_path, "w"):
        pass  # it is there, and empty
    args = [f"{buildpack.root}/bin/detect", PLATFORM_DIR, plan_path]
    env_ = buildpack_env(buildpack, request, {"CNB_BUILD_PLAN_PATH": plan_path})
    try:
        child = spawn.start(args, env_, output_path)
    except errors.LifecycleError as error:  # its own error, as an exit code would be
        with open(output_path, "w", encoding="utf-8") as file:
            file.write(f"{error.reason}\n")
        child = None
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
    values["CNB_BUILDPACK_DIR"] = buildpack.root
    api = checks.api_version(buildpack.api)
    if api >= (0, 8):
        values.update(own, CNB_PLATFORM_DIR=PLATFORM_DIR)
    if api >= (0, 10):
        known = {key: text for key, text in request.target.items() if text}
        values.update({f"CNB_TARGET_{key.upper()}": text for key, text in known.items()})
    if api >= (0, 12):
        values["CNB_EXEC_ENV"] = EXEC_ENV
    return values


def _report(run: Run) -> None:
    with open(run.output_path, encoding="utf-8", errors="replace") as file:
        for line in file:
            say.detail(line.rstrip())


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
        "Add one of these files, or a Dockerfile; commit it (`git add` and `git commit`) and push again.",
    )
