"""The task `shipway.build`: a commit becomes an image, and the image a release."""

import hashlib
import json
import logging
import os
import shutil
import threading
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from sqlalchemy import Select, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from shipway.buildpacks import bills, dockerfile, imageprocesses, upper
from shipway.buildpacks.build import BuildRequest, BuildResult
from shipway.buildpacks.build import build as build_image
from shipway.buildpacks.dockerfile import Recipe
from shipway.buildpacks.errors import BuildFailed, StackFailed
from shipway.buildpacks.gate import Gate
from shipway.buildpacks.stacks import Stack, ensure_stack
from shipway.platform import applog, builds, buildsettings, events, releases
from shipway.platform.errors import LeaseLost, ShipwayError
from shipway.platform.files import atomic_write
from shipway.platform.models import App, Build, User
from shipway.platform.repos import Repos
from shipway.platform.states import BuildState
from shipway.platform.store import say
from shipway.runtime.errors import ImageError, RuntimeFailure
from shipway.runtime.images import archives
from shipway.runtime.images.store import Image
from shipway.runtime.spec import IdRange, Limits
from shipway.workers import appjson, claims, reach, retention, submodules
from shipway.workers.celery_app import app as celery
from shipway.workers.console import Console
from shipway.workers.context import Context, context
from shipway.workers.diskwatch import DiskWatch
from shipway.workers.errors import (
    CancelRequested,
    DiskExceeded,
    Interrupted,
    SourceUnreadable,
    Stopping,
    WorkFailed,
)
from shipway.workers.lease import LeaseKeeper
from shipway.workers.mask import Mask
from shipway.workers.program import port_line
from shipway.workers.slots import Slots
from shipway.workers.source import unpack_commit

log = logging.getLogger(__name__)

LOOK = 1.0  # seconds between two looks at whether the build shall go on, without a signal
BUILDPACKS, DOCKERFILE, IMAGE = "buildpacks", "dockerfile", "image"
BUILD_SHARES = 128  # an eighth of an instance's share of the CPU


@celery.task(name="shipway.build")  # type: ignore[untyped-decorator]
def build(build_id: int) -> None:
    """Run the builds that wait."""
    run_builds(context())


@lru_cache(maxsize=1)
def _slots(size: int) -> Slots:
    return Slots(size)


def run_builds(ctx: Context) -> None:
    """Run builds until none is left that could be begun, or this process ends."""

    def step() -> bool:
        claimed = None if ctx.stopping.is_set() else claims.claim_build(ctx.store, ctx.owner)
        if claimed:
            BuildRun(ctx, claimed).run()
        return claimed is not None

    _slots(ctx.settings.builds).work_off(step)


class BuildRun:
    """One attempt at one build, claimed by this process."""

    def __init__(self, ctx: Context, claimed: Build) -> None:
        self._ctx = ctx
        self._build = claimed
        self._app = claimed.app
        self._own = buildsettings.of(ctx.settings, self._app.build_settings)
        self._secrets = ctx.vault.open(self._app.id, self._app.build_secrets)
        self._mask = Mask(self._secrets.values())
        self._gate = self._make_gate()
        self._builder: str | None = None
        self._inputs: str | None = None
        self._manifest: appjson.Manifest | None = None
        self._console = Console(ctx.store, claimed.stream)
        self._stop = threading.Event()  # the build container ends when it is set
        self._interrupted: Exception | None = None  # why
        self._over = threading.Event()

    def run(self) -> None:
        """Build; whatever happens, the row tells it in the end, unless the build is another's by then."""
        minder = threading.Thread(target=self._mind, name=f"build-{self._build.id}", daemon=True)
        minder.start()
        try:
            self._succeed(self._build_image())
        except (Interrupted, LeaseLost) as error:
            self._interrupt(error)
        except (WorkFailed, BuildFailed, StackFailed, RuntimeFailure, ShipwayError) as error:
            self._fail(self._interrupted or error)
        except SQLAlchemyError:
            log.exception("build %d left to its lease", self._build.id)
        except Exception:  # a fault of ours must end the build, and be found in the platform's log
            log.exception("build %d", self._build.id)
            self._fail(WorkFailed("Shipway itself failed; its log on the server says how."))
        finally:
            self._over.set()
            if self._gate:
                self._gate.close()
            self._console.close()
            self._clean()

    # -- the steps -------------------------------------------------------------------------------

    def _build_image(self) -> BuildResult:
        self._clean()
        source = self._build.source or {}
        if "image" in source or "archive" in source:
            return self._take_image(source)
        return self._build_commit()

    # -- from a commit ---------------------------------------------------------------------------

    def _build_commit(self) -> BuildResult:
        began = time.monotonic()
        repos, app, commit = Repos(self._ctx.settings), self._app.name, self._build.commit
        folder = self._own.folder
        tree = repos.tree(app, commit, folder)
        if tree is None:
            raise SourceUnreadable(
                f"There is no folder {folder!r} in commit {commit[:8]}, which the setting build-dir"
                f" names: see `shipway builds:settings {app}`."
            )
        self._inputs = self._digest_of_inputs(tree)
        if folder and (before := self._same_before()):
            self._console.line(f"-----> Nothing below {folder} has changed: its image stays")
            return before
        stack = self._stack()
        source = self._folder / "source"
        modules = submodules.wanted(repos, app, commit, folder)
        self._refuse_pointers(repos)
        unpack_commit(self._ctx.engine.layers, repos, app, commit, source, folder)
        if modules:
            place = self._place_for_submodules()
            submodules.fetch(self._ctx.engine, stack.build_image, source, modules, place)
        self._manifest = appjson.manifest(source)
        self._builder = self._choose(source)
        request = self._request(stack, source)
        spent = time.monotonic() - began
        with self._watched_disk():
            made = self._built(request)
        for kind in appjson.strangers(self._manifest, made.processes):
            self._output(f" !     app.json has healthchecks for {kind}, which is no process type")
        return replace(made, phases={"source": spent, **made.phases})

    def _built(self, request: BuildRequest) -> BuildResult:
        engine, output = self._ctx.engine, self._output
        if self._builder == DOCKERFILE:
            recipe = Recipe(
                storage=retention.build_storage(self._ctx, self._app.id),
                file=self._own.dockerfile,
                target=self._own.target,
                arguments=self._own.arguments,
                may_pull=reach.may_pull(self._ctx.settings),
            )
            made = dockerfile.build(engine, request, recipe, output, self._stop)
            output(port_line(engine.images.get(made.image).config))
            return made
        return build_image(engine, request, output, self._stop)

    def _choose(self, source: Path) -> str:
        """Who builds: a Dockerfile counts where nothing asks for buildpacks."""
        if self._own.builder != "auto":
            return self._own.builder
        asks = self._app.buildpacks or any(
            os.path.lexists(source / name) for name in ("project.toml", ".buildpacks")
        )
        found = dockerfile.find(source, self._own.dockerfile)
        if found and not asks:
            return DOCKERFILE
        if found:
            self._output("-----> Buildpacks are asked for, so the Dockerfile is left aside")
        return BUILDPACKS

    def _digest_of_inputs(self, tree: str) -> str:
        """Of all that a build is made of: what has the same comes out the same."""
        settings, app = self._ctx.settings, self._app
        secrets = (app.build_secrets or b"").hex()
        found = [tree, app.build_settings, app.buildpacks, secrets, settings.stack]
        text = json.dumps([*found, dict(settings.build_env)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _same_before(self) -> BuildResult | None:
        """What the last good build came to, if it was of another commit with the same in it."""
        with self._ctx.store.reading() as db:
            last = db.scalar(self._good_builds())
        if last is None or last.inputs != self._inputs or last.commit == self._build.commit:
            return None
        if not last.image or self._ctx.engine.images.refs().get(self._ref(last.id)) != last.image:
            return None
        self._builder, self._manifest = last.builder, last.manifest
        return BuildResult(last.image, dict(last.processes or {}), {}, 0)

    def _refuse_pointers(self, repos: Repos) -> None:
        pointers = repos.lfs_pointers(self._app.name, self._build.commit, self._own.folder)
        if pointers:
            more = f" (and {len(pointers) - 1} more)" if len(pointers) > 1 else ""
            raise SourceUnreadable(
                f"{pointers[0]!r}{more} is a pointer of Git LFS, and its content was not pushed;"
                " take it out of LFS with `git lfs migrate export`, or send a folder that has it:"
                f" `tar c . | shipway deploy:archive {self._app.name} -`."
            )

    def _place_for_submodules(self) -> submodules.Place:
        return submodules.Place(
            container=self._container,
            ids=IdRange(self._app.uid_base),
            limits=self._limits(),
            env={k: v for k, v in self._env.items() if k in dockerfile.PROXIES},
            ca_bundle=self._ca_bundle(),
            stop=self._stop,
            timeout=self._own.timeout,
            say=self._output,
            prepared=self._gate.open if self._gate else None,
        )

    # -- from an image ---------------------------------------------------------------------------

    def _take_image(self, source: dict[str, str]) -> BuildResult:
        began = time.monotonic()
        engine, self._builder = self._ctx.engine, IMAGE
        if "image" in source:
            may_pull = reach.may_pull(self._ctx.settings)
            image, _ = dockerfile.base_image(
                engine, source["image"], may_pull, self._output, fresh=True
            )
        else:
            image = self._load(source["archive"])
        processes = imageprocesses.of(image.config)
        if not processes:
            raise WorkFailed(f"{imageprocesses.NOTHING[:1].upper()}{imageprocesses.NOTHING[1:]}.")
        imageprocesses.say(processes, self._output, from_procfile=False)
        self._output(port_line(image.config))
        engine.images.tag(self._ref(self._build.id), image.digest)
        size = sum(layer.size for layer in image.layers)
        phases = {"pull" if "image" in source else "load": time.monotonic() - began}
        return BuildResult(image.digest, processes, phases, size)

    def _load(self, name: str) -> Image:
        path = self._ctx.settings.uploads / name
        self._output("-----> Taking in the image of the archive")
        try:
            with path.open("rb") as file:
                found = archives.load(self._ctx.engine.images, file, named=False)
        except FileNotFoundError:
            raise WorkFailed("The archive is not there any more: deploy it again.") from None
        if len(found) != 1:
            raise WorkFailed(f"The archive holds {len(found)} images, expected one.")
        return found[0].image

    # -- what both need --------------------------------------------------------------------------

    def _output(self, text: str) -> None:
        self._console.line(self._mask(text))

    def _ref(self, build_id: int) -> str:
        return retention.image_ref(self._app.id, build_id)

    @property
    def _container(self) -> str:
        return f"build-{self._app.name}-{self._build.id}-{self._build.fence}"

    @property
    def _kept(self) -> tuple[Path, Path]:
        """The folders that builds of this app keep for each other."""
        ctx, app = self._ctx, self._app.id
        return retention.build_storage(ctx, app), retention.build_cache(ctx, app)

    def _watched_disk(self) -> DiskWatch:
        folders = [self._folder, self._ctx.engine.files(self._container).layer, *self._kept]
        limit = self._own.disk

        def exceeded() -> None:
            self._interrupted = DiskExceeded(
                f"The build wrote more than its limit of {limit >> 20} MB of disk."
            )
            self._stop.set()

        return DiskWatch(folders, limit, exceeded)

    def _stack(self) -> Stack:
        return ensure_stack(self._ctx.engine, self._ctx.settings.stack, self._console.line)

    def _make_gate(self) -> Gate | None:
        """The only way out, where the operator names the hosts that builds may reach."""
        settings = self._ctx.settings
        if not settings.build_hosts:
            return None
        return Gate(reach.may_pull(settings), settings.build_env, self._output)

    @property
    def _env(self) -> dict[str, str]:
        """The operator's settings for every build; the gate takes the place of a proxy of theirs."""
        return {**self._ctx.settings.build_env, **(self._gate.env if self._gate else {})}

    def _ca_bundle(self) -> Path | None:
        named = self._ctx.settings.ca_bundle
        return Path(named) if named and Path(named).exists() else None

    def _limits(self) -> Limits:
        own = self._own
        return Limits(memory=own.memory, cpus=own.cpus, cpu_shares=BUILD_SHARES, pids=own.pids)

    def _request(self, stack: Stack, source: Path) -> BuildRequest:
        return BuildRequest(
            app=self._app.name,
            build_id=f"{self._build.id}-{self._build.fence}",
            source=source,
            previous=self._previous(),
            stack=stack,
            ids=IdRange(self._app.uid_base),
            workdir=self._folder,
            env=self._env,
            ca_bundle=self._ca_bundle(),
            limits=self._limits(),
            timeout=self._own.timeout,
            labels={"shipway.commit": self._build.commit},
            cache=retention.build_cache(self._ctx, self._app.id),
            ref=self._ref(self._build.id),
            secrets={name: value.encode() for name, value in self._secrets.items()},
            gate=self._gate,
            buildpacks=tuple(self._app.buildpacks or ()),
            may_pull=reach.may_pull(self._ctx.settings),
            disk=self._own.disk,
        )

    def _good_builds(self) -> Select[Build]:
        """The app's builds that succeeded, the newest first."""
        return (
            select(Build)
            .where(Build.app_id == self._app.id, Build.state == BuildState.SUCCEEDED)
            .order_by(Build.id.desc())
            .limit(1)
        )

    def _previous(self) -> str | None:
        """The image of the app's last good build: what has not changed is taken from it.

        Buildpacks take over what its labels say, so for them it is one that we have labelled.
        """
        with self._ctx.store.reading() as db:
            last = db.scalar(self._good_builds())
        if last is None or (self._builder == BUILDPACKS and last.builder in (DOCKERFILE, IMAGE)):
            return None
        return last.image

    def _succeed(self, result: BuildResult) -> None:
        """The build's end and the release it makes are one change."""
        if self._interrupted:
            raise self._interrupted
        self._keep_bill(result.image)
        store, build = self._ctx.store, self._build
        lines = self._console.take()
        with store.transaction() as db:
            now = store.now(db)
            row = claims.still_held(db, build)
            if row is None:
                raise LeaseLost(f"Build {build.id} was taken over by another worker.")
            app = db.get_one(App, self._app.id)
            _say(row, db, lines)
            row.image, row.phases = result.image, dict(result.phases)
            row.processes = dict(result.processes)
            row.builder, row.inputs = self._builder, self._inputs
            row.manifest = self._manifest
            db.flush()
            claims.end_build(db, row, BuildState.SUCCEEDED, None, now)
            release = releases.create(
                db,
                app,
                db.get_one(User, build.user_id),
                now,
                description=f"Deploy {self._what}",
                image=result.image,
                processes=dict(result.processes),
                config=app.config,
                build=row,
                commit=build.commit or None,
                manifest=self._manifest,
                overrides=True,
            )
        self._log(f"Deploy {self._what} by user {build.user.name}")
        applog.append_release(self._ctx.settings, self._app.name, release.version, build.user.name)

    def _keep_bill(self, image: str) -> None:
        """Write down what the image is made of, for people to read. No deploy fails for want of it."""
        path = self._ctx.settings.bill(self._app.id, image)
        if path.exists():
            return
        try:
            found = bills.bill(self._ctx.engine.images, self._ctx.engine.layers, image)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            atomic_write(path, json.dumps(found))
        except (ImageError, OSError, ValueError):
            log.exception("the bill of %s", image)

    @property
    def _what(self) -> str:
        """What the build is of, in a word."""
        source = self._build.source or {}
        return source.get("image") or self._build.commit[:8] or "archive"

    # -- other ends ------------------------------------------------------------------------------

    def _fail(self, error: Exception) -> None:
        if isinstance(error, Interrupted | LeaseLost):
            self._interrupt(error)
            return
        if isinstance(error, DiskExceeded):
            for folder in self._kept:  # it counts, so no build would succeed after this one
                upper.remove(folder)
        # What the buildpacks failed at, they have said.
        said = isinstance(error, BuildFailed)
        reason = self._mask(str(error))
        self._end(BuildState.FAILED, reason, None if said else f" !     Build failed: {reason}")

    def _interrupt(self, error: Exception) -> None:
        if isinstance(error, CancelRequested):
            with self._ctx.store.reading() as db:
                state, reason = builds.end_asked_for(db.get_one(Build, self._build.id))
            self._end(state, reason, f" !     {reason}")
        elif isinstance(error, Stopping):
            claims.give_back(self._ctx.store, self._build)
        # A lease that was lost: the build is another's, and so is its row.

    def _end(self, state: BuildState, reason: str, line: str | None) -> None:
        store = self._ctx.store
        lines = [*self._console.take(), *([line] if line else [])]
        with store.transaction() as db:
            row = claims.still_held(db, self._build)
            if row is None:
                return
            _say(row, db, lines)
            claims.end_build(db, row, state, reason, store.now(db))
        self._log(f"Build of {self._what} {state}: {reason}")

    # -- while it runs ---------------------------------------------------------------------------

    def _mind(self) -> None:
        """Renew the lease, and stop the build when it is to stop (a thread of its own)."""
        keeper = LeaseKeeper(self._ctx.store, self._build)
        topic = events.app_topic(self._app.id)
        try:
            with self._ctx.store.signals.listen(topic) as listener:
                while not self._over.is_set():
                    keeper.tend()
                    self._check_wanted()
                    listener.wait(LOOK)
        except (Interrupted, LeaseLost) as error:
            self._interrupted = error
            self._stop.set()

    def _check_wanted(self) -> None:
        if self._ctx.stopping.is_set():
            raise Stopping
        with self._ctx.store.reading() as db:
            if db.scalar(select(Build.cancel_requested).where(Build.id == self._build.id)):
                raise CancelRequested

    # -- what is left behind ---------------------------------------------------------------------

    @property
    def _folder(self) -> Path:
        return retention.build_folder(self._ctx, self._build.id, self._build.fence)

    def _clean(self) -> None:
        """Remove what attempts at this build have left: this one's, and those before it."""
        if self._over.is_set() and "archive" in (self._build.source or {}):
            self._drop_upload()
        fence = self._build.fence
        for attempt in range(1, fence + 1):
            self._ctx.engine.remove(f"build-{self._app.name}-{self._build.id}-{attempt}")
        for folder in self._folder.parent.glob(f"{self._build.id}-*"):
            if int(folder.name.rpartition("-")[2]) <= fence:
                shutil.rmtree(folder, ignore_errors=True)

    def _drop_upload(self) -> None:
        """An archive goes with its build, unless another process is to take that up again."""
        if not isinstance(self._interrupted, Stopping | LeaseLost):
            name = (self._build.source or {})["archive"]
            (self._ctx.settings.uploads / name).unlink(missing_ok=True)

    def _log(self, text: str) -> None:
        applog.append(self._ctx.settings, self._app.name, "app[api]", text)


def _say(row: Build, db: Session, lines: list[str]) -> None:
    if lines:
        say(db, row.stream, *lines)
