"""What the tasks of one process share: settings, database, engine, its name, and whether it is ending."""

import threading
from functools import cached_property, lru_cache

from shipway.platform.settings import Settings, current
from shipway.platform.store import Store
from shipway.platform.vault import Vault
from shipway.runtime.config import EngineConfig
from shipway.runtime.engine import Engine
from shipway.workers import owner


class Context:
    """Made once per process; safe to use from all of its threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(settings)
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._engine: Engine | None = None

    @property
    def owner(self) -> str:
        """The process, as it stands in the rows it claims."""
        return owner.process(self.settings.host_name)

    @property
    def engine(self) -> Engine:
        """The machine's container engine, set up on first use. Raises HostUnfit."""
        with self._lock:
            if self._engine is None:
                engine = Engine(engine_config(self.settings))
                engine.setup()
                self._engine = engine
            return self._engine

    @cached_property
    def vault(self) -> Vault:
        """Opens the config of releases."""
        return Vault(self.settings)


@lru_cache(maxsize=1)
def context() -> Context:
    """The process's one."""
    return Context(current())


def engine_config(settings: Settings) -> EngineConfig:
    """Where the engine of these settings keeps its things, and what it calls them."""
    return EngineConfig(
        root=settings.data / "runtime",
        run=settings.run / "c",
        bridge=settings.bridge,
        subnet=settings.subnet,
        table=settings.bridge,
        cgroup=settings.bridge,
        allow=settings.allow_networks,
        runtime=settings.runtime,
    )
