"""The errors of the container engine. Each message is one sentence that a person can act upon."""


class RuntimeFailure(Exception):
    """Base of every error the engine raises on purpose."""


class InvalidSpec(RuntimeFailure):
    """A container specification that the engine refuses; nothing was changed."""


class HostUnfit(RuntimeFailure):
    """The machine lacks something that the engine needs.

    `what` names the lack, `remedy` says what to do about it.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}: {remedy}")
        self.what = what
        self.remedy = remedy


class NoSuchContainer(RuntimeFailure):
    """No container of that id is known on this machine."""

    def __init__(self, container_id: str) -> None:
        super().__init__(f"there is no container {container_id!r}")
        self.container_id = container_id


class ContainerExists(RuntimeFailure):
    """A container of that id is alive, so no other can take its id."""

    def __init__(self, container_id: str) -> None:
        super().__init__(f"container {container_id!r} is already running; remove it first")
        self.container_id = container_id


class NameInUse(ContainerExists):
    """A container of that name is there already, whatever its state."""

    def __init__(self, container_id: str, state: str) -> None:
        RuntimeFailure.__init__(
            self,
            f"the container name {container_id!r} is in use by a container that is {state};"
            " remove that one (rm), or choose another name",
        )
        self.container_id = container_id


class AmbiguousName(RuntimeFailure):
    """The beginning of an id fits several containers."""


class IllegalMove(RuntimeFailure):
    """A verb that may not be used in the state a container is in; nothing was changed.

    It is in `from_state`; the verb would have led to `to_state`.
    """

    def __init__(
        self, container_id: str, verb: str, from_state: str, to_state: str, advice: str
    ) -> None:
        super().__init__(
            f"cannot {verb} container {container_id!r}, which is {from_state}: {advice}"
        )
        self.container_id = container_id
        self.verb = verb
        self.from_state = from_state
        self.to_state = to_state


class NotKept(RuntimeFailure):
    """The container was made by `Engine.run`, which keeps no specification to start it again by."""


class ContainerLost(RuntimeFailure):
    """The monitor of a container died, so its exit code can never be known."""

    def __init__(self, container_id: str) -> None:
        super().__init__(f"the monitor of container {container_id!r} died; remove the container")
        self.container_id = container_id


class LimitUnsupported(RuntimeFailure):
    """The kernel, or its version of control groups, cannot hold a limit that is asked for."""


class SecretsGone(RuntimeFailure):
    """The secrets of a container were kept in memory, and the machine has been restarted since."""

    def __init__(self, container_id: str, names: list[str]) -> None:
        super().__init__(
            f"the secrets {', '.join(names)} of container {container_id!r} were kept in memory"
            " only and are gone; remove the container and create it again with them"
        )
        self.container_id = container_id
        self.names = names


class StartFailed(RuntimeFailure):
    """The container could not be started; nothing of the attempt is left."""


class ProgramNotFound(StartFailed):
    """The container has no such program."""


class ProgramNotExecutable(StartFailed):
    """The container's program is there and cannot be run: it is a folder, or not executable."""


class NoLog(RuntimeFailure):
    """The container was made without a log."""

    def __init__(self, container_id: str) -> None:
        super().__init__(f"container {container_id!r} keeps no log")
        self.container_id = container_id


class InvalidPosition(RuntimeFailure):
    """Text that is no position of a log."""

    def __init__(self, position: str) -> None:
        super().__init__(f"{position!r} is no position of a log: give one that a reader told")


class CopyFailed(RuntimeFailure):
    """Files could not be copied; the message names the path."""


class EngineBusy(RuntimeFailure):
    """The engine has containers, so it cannot be torn down."""


class Cancelled(RuntimeFailure):
    """The caller asked for the end of a foreground container; nothing of it is left."""


class TimedOut(RuntimeFailure):
    """A foreground container ran longer than it may; nothing of it is left."""


class NoFreeAddress(RuntimeFailure):
    """Every address of the subnet is leased."""


class NoFreeIds(RuntimeFailure):
    """Every range of user ids that the engine may allot is in use."""


class NoSuchUser(RuntimeFailure):
    """A user or group that the image's passwd or group file does not know."""


class PortTaken(RuntimeFailure):
    """A port of the host is another container's, or a program listens on it."""


class NoSuchHostAddress(RuntimeFailure):
    """A port should be published at an address that this machine does not have."""

    def __init__(self, address: str) -> None:
        super().__init__(f"{address} is no address of this machine, so no port is published there")
        self.address = address


class NoSuchNetwork(RuntimeFailure):
    """No network has this name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no network {name!r}; make it with `network create {name}`")
        self.name = name


class NetworkExists(RuntimeFailure):
    """A network of that name is there already."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is a network {name!r} already")
        self.name = name


class NetworkInUse(RuntimeFailure):
    """A network has members, so it cannot be removed."""


class KernelRefused(RuntimeFailure, OSError):
    """A system call failed; `errno` is the kernel's, the message names the call and its object."""

    def __init__(self, number: int, what: str) -> None:
        OSError.__init__(self, number, what)


class ImageError(RuntimeFailure):
    """Any failure of the image store."""


class NoSuchImage(ImageError):
    """No image has this reference or digest."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no image named {name!r} is in the store")
        self.name = name


class NoSuchLayer(ImageError):
    """No layer has this diff id."""

    def __init__(self, diff_id: str) -> None:
        super().__init__(f"layer {diff_id} is not in the store")
        self.diff_id = diff_id


class InvalidReference(ImageError):
    """A reference or digest that no image can have."""


class DamagedBlob(ImageError):
    """A blob, or an unpacked layer, is missing or does not match its digest.

    `remedy`, where it is known, says how to have the image whole again.
    """

    def __init__(self, digest: str, path: object, why: str, remedy: str = "") -> None:
        super().__init__(f"{digest} is damaged: {path} {why}{remedy and '; '}{remedy}")
        self.digest = digest
        self.path = path
        self.why = why
        self.remedy = remedy


class InvalidTree(ImageError):
    """A directory holds something that no image layer can hold."""


class InvalidArchive(ImageError):
    """An archive is malformed or cut short."""


class UnsafeArchive(InvalidArchive):
    """An archive tries to write outside its destination, to make a device, or to write twice."""


class ArchiveTooLarge(InvalidArchive):
    """An archive is over one of the limits given."""


class StoreFull(ImageError):
    """The disk of the store is full or read-only."""


class InvalidImage(ImageError):
    """A manifest, an index or a config is malformed, or of a kind that is not supported."""


class NoSuchPlatform(ImageError):
    """A multi-platform image has nothing for this machine."""


class AmbiguousImage(ImageError):
    """The beginning of an id fits more than one image."""

    def __init__(self, name: str) -> None:
        super().__init__(f"more than one image has an id that begins with {name}; give more of it")
        self.name = name


class ImageInUse(ImageError):
    """An image cannot be removed since a container, or another name, still needs it."""


class RegistryFailed(ImageError):
    """A registry could not be reached, refused, or gave something else than was asked for."""


class ImageBuildFailed(ImageError):
    """A Dockerfile could not be built; what was built before it failed is not tagged."""
