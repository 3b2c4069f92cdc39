"""An instance's container, as it is asked for."""

from pathlib import Path

from shipway.buildpacks.labels import LIFECYCLE_LABEL
from shipway.platform.models import App, Instance, Release
from shipway.platform.settings import Settings
from shipway.runtime.engine import Engine
from shipway.runtime.images.store import ImageConfig
from shipway.workers.context import Context, engine_config
from shipway.workers.instances import environment, specification


def make(tmp_path: Path) -> tuple[Context, Instance]:
    """A context without its services, and a row without its database."""
    ctx = Context(Settings(data=tmp_path))
    app = App(id=3, name="hello")
    sealed = ctx.vault.seal(3, {"GREETING": "hi", "HOME": "/elsewhere"})
    release = Release(
        id=5,
        app_id=3,
        version=2,
        image="sha256:" + "0" * 64,
        commit="a" * 40,
        processes={"web": "gunicorn app:app"},
        config=sealed,
    )
    row = Instance(id=7, app_id=3, process_type="web", number=1, fence=4, created_at=1.5)
    row.app, row.release = app, release
    return ctx, row


def test_environment(tmp_path: Path) -> None:
    """Config vars are there beside what the platform says; those may set HOME, but not PORT's peers."""
    ctx, row = make(tmp_path)
    assert environment(ctx, row.app, row.release, row.name) == {
        "HOME": "/elsewhere",
        "GREETING": "hi",
        "DYNO": "web.1",
        "SHIPWAY_APP": "hello",
        "SHIPWAY_RELEASE": "v2",
        "SHIPWAY_COMMIT": "a" * 40,
    }


def test_specification(tmp_path: Path) -> None:
    """The container has the fence in its id, the app's own user ids, the limits of the settings, no capability."""
    ctx, row = make(tmp_path)
    engine = Engine(engine_config(ctx.settings))  # not set up: the host is left alone
    image = engine.images.write([], ImageConfig(labels={LIFECYCLE_LABEL: "{}"}), "x")
    row.release.image = image.digest
    ctx._engine = engine
    spec = specification(ctx, row)
    assert spec.env["PORT"] == "5000"
    assert spec.id == "i7-4"
    assert spec.ids.base == (1 << 20) + 3 * 65_536
    assert spec.user == "1000:1000"
    assert spec.capabilities == frozenset()
    assert (spec.limits.memory, spec.limits.cpus, spec.limits.pids) == (512 << 20, None, 512)
    assert spec.log_path == tmp_path / "logs" / "hello" / "web.1.7.log"
    assert spec.labels["shipway.instance"] == "7"
    assert spec.args[-1].endswith("exec gunicorn app:app")
