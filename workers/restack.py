"""`shipway stacks:update`: a stack with security updates, and every app put onto it, each by a release as any other."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from shipway.buildpacks.errors import RebaseFailed, StackFailed
from shipway.buildpacks.rebase import rebase, run_image_of
from shipway.buildpacks.stacks import Stack, renew_stack
from shipway.platform import releases
from shipway.platform.models import App
from shipway.runtime.engine import Engine
from shipway.runtime.errors import ImageError
from shipway.workers.context import Context, engine_config
from shipway.workers.machine import StackNotBuilt, say


def update(ctx: Context) -> None:
    """Make the stack anew and rebase the apps that stand on it; says what it does."""
    engine = Engine(engine_config(ctx.settings))
    try:
        stack = renew_stack(engine, ctx.settings.stack, say)
    except StackFailed as error:
        raise StackNotBuilt(str(error)) from None
    rebase_apps(ctx, engine, stack)


def rebase_apps(ctx: Context, engine: Engine, stack: Stack) -> list[str]:
    """Make a release of each app whose image stands on an older run image; their names.

    A deploy of it is as any other: the new instances take over once all are well, else the old go on.
    """
    with ctx.store.reading() as db:
        apps = list(db.scalars(select(App).where(App.destroyed_at.is_(None)).order_by(App.name)))
    moved = []
    for app in apps:
        try:
            version = _rebase_app(ctx, engine, stack, app.id)
        except (RebaseFailed, ImageError) as error:
            say(f" !     {app.name} stays as it is: {error}")
            continue
        if version is not None:
            say(f"       {app.name}: v{version} is on its way")
            moved.append(app.name)
    say(f"-----> {len(moved)} of {len(apps)} apps go onto the new {stack.name}")
    return moved


def _rebase_app(ctx: Context, engine: Engine, stack: Stack, app_id: int) -> int | None:
    """The version of the new release; None for an app that has none, or is on the stack as it is."""
    run = engine.images.get(stack.run_image)
    with ctx.store.reading() as db:
        image = _image(db, app_id)
    if image is None:
        return None
    name, top = run_image_of(engine.images.get(image))
    if name != stack.run_image or top == run.layers[-1].diff_id:
        return None
    ref = f"app-{app_id}/rebase:{run.digest.removeprefix('sha256:')[:16]}"
    made = rebase(engine.images, engine.layers, image, stack.run_image, ref)
    with ctx.store.transaction() as db:
        app = db.get_one(App, app_id)
        base = releases.newest(db, app)
        if base is None or base.image != image:
            raise RebaseFailed("another release came meanwhile; run this again")
        release = releases.create(
            db,
            app,
            app.owner,
            ctx.store.now(db),
            description=f"Stack update {stack.name}",
            image=made.digest,
            processes=dict(base.processes),
            config=app.config,
            commit=base.commit,
            manifest=base.manifest,
        )
        return release.version


def _image(db: Session, app_id: int) -> str | None:
    newest = releases.newest(db, db.get_one(App, app_id))
    return newest.image if newest else None
