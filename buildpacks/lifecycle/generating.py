"""The generation phase: each image extension's bin/generate, which writes Dockerfiles for the host."""

import os

from shipway.buildpacks.kit import say, toml
from shipway.buildpacks.lifecycle import errors, plan, spawn
from shipway.buildpacks.lifecycle.detect import Selected, buildpack_env
from shipway.buildpacks.lifecycle.request import GENERATED_DIR, PLATFORM_DIR, Request


def generate(request: Request, selected: Selected, scratch: str) -> Selected:
    """Run the extensions of the group. Gives what is left to build: they meet all that they provide.

    Raises LifecycleError at the first one that fails.
    """
    entries = list(selected.entries)
    for extension in selected.group:
        if not extension.is_extension:
            continue
        say.step(f"Extending the images by {extension.id} {extension.version}")
        mine = [entry for entry in entries if extension.id in entry.providers]
        entries = [entry for entry in entries if entry not in mine]
        output = f"{GENERATED_DIR}/{extension.folder}"
        os.makedirs(output)
        plan_path = os.path.join(scratch, f"{extension.folder}.ext-plan.toml")
        toml.write(plan_path, plan.document(mine))
        own = {"CNB_OUTPUT_DIR": output, "CNB_BP_PLAN_PATH": plan_path}
        args = [f"{extension.root}/bin/generate", output, PLATFORM_DIR, plan_path]
        code = spawn.start(args, buildpack_env(extension, request, own)).wait()
        if code:
            raise errors.LifecycleError(
                f"the extension {extension.id} failed (exit {code})", errors.EXTENSION_FAILED
            )
    group = tuple(one for one in selected.group if not one.is_extension)
    return Selected(group, tuple(entries))
