"""The truth: every row the platform keeps. Times are seconds since the epoch (UTC) by the database's clock."""

from typing import Any

from sqlalchemy import JSON, ForeignKey, LargeBinary, MetaData, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from shipway.platform.states import BuildState, Desired, InstanceState, ReleaseState


class Base(DeclarativeBase):
    """Names every constraint, so that migrations can speak of them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class User(Base):
    """A person; an admin may do everything, others only what they own or were let into."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    password_hash: Mapped[str | None]
    is_admin: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[float]


class SshKey(Base):
    """A public key that may push and run commands as its user."""

    __tablename__ = "ssh_keys"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    name: Mapped[str]
    fingerprint: Mapped[str] = mapped_column(unique=True)  # SHA256:…, as ssh-keygen -l prints it
    public_key: Mapped[str]  # one line in OpenSSH's form
    created_at: Mapped[float]
    user: Mapped[User] = relationship()


class Token(Base):
    """A bearer token for the API and git over HTTP; shown once, kept as SHA-256."""

    __tablename__ = "tokens"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    name: Mapped[str]
    hash: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[float]
    expires_at: Mapped[float | None]
    user: Mapped[User] = relationship()

    # an id that was revoked once never means another token
    __table_args__ = {"sqlite_autoincrement": True}


class WebSession(Base):
    """A browser's login; the cookie holds the secret, this row its SHA-256."""

    __tablename__ = "web_sessions"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    hash: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[float]
    expires_at: Mapped[float]
    user: Mapped[User] = relationship()


class App(Base):
    """An app and what is wanted of it now."""

    __tablename__ = "apps"
    id: Mapped[int] = mapped_column(primary_key=True)  # also its slot of host user ids: see `ids`
    name: Mapped[str] = mapped_column(unique=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    deploy_branch: Mapped[str | None]  # unset until the first push says it
    config: Mapped[bytes | None] = mapped_column(LargeBinary)  # sealed JSON (vault.py)
    build_settings: Mapped[dict[str, str] | None] = mapped_column(JSON)  # see buildsettings.py
    buildpacks: Mapped[list[str] | None] = mapped_column(JSON)  # in order; None: those that fit
    build_secrets: Mapped[bytes | None] = mapped_column(LargeBinary)  # sealed as config is
    routing: Mapped[dict[str, str] | None] = mapped_column(JSON)  # see routeoptions.py
    deploy_settings: Mapped[dict[str, str] | None] = mapped_column(JSON)  # see deploysettings.py
    release_id: Mapped[int | None]  # the release that serves
    # The router owes the app a change while routes_done < routes_wanted.
    routes_wanted: Mapped[int] = mapped_column(default=0)
    routes_done: Mapped[int] = mapped_column(default=0)
    destroyed_at: Mapped[
        float | None
    ]  # being taken down; the row goes once its last instance is gone
    created_at: Mapped[float]
    owner: Mapped[User] = relationship()

    # an id, and so its range of user ids, is never reused
    __table_args__ = {"sqlite_autoincrement": True}

    @property
    def uid_base(self) -> int:
        """The first of the 65,536 host user ids that the app's containers and builds run under."""
        return (1 << 20) + self.id * 65_536


class Access(Base):
    """A user who is let into an app that somebody else owns."""

    __tablename__ = "access"
    id: Mapped[int] = mapped_column(primary_key=True)
    app_id: Mapped[int] = mapped_column(ForeignKey("apps.id"), index=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"), index=True)
    __table_args__ = (UniqueConstraint("app_id", "user_id"),)


class Formation(Base):
    """How many instances of a process type are wanted."""

    __tablename__ = "formation"
    id: Mapped[int] = mapped_column(primary_key=True)
    app_id: Mapped[int] = mapped_column(ForeignKey("apps.id"), index=True)
    process_type: Mapped[str]
    quantity: Mapped[int]
    __table_args__ = (UniqueConstraint("app_id", "process_type"),)


class Build(Base):
    """One commit, image or archive of one on its way to an image of the app's."""

    __tablename__ = "builds"
    id: Mapped[int] = mapped_column(primary_key=True)
    app_id: Mapped[int] = mapped_column(ForeignKey("apps.id"), index=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    commit: Mapped[str]  # "" where there is none
    branch: Mapped[str]  # full ref, refs/heads/main; else where it came from: archive, image
    # Not a commit: {"image": a registry's reference} or {"archive": the name of an upload}.
    source: Mapped[dict[str, str] | None] = mapped_column(JSON)
    builder: Mapped[str | None]  # buildpacks, dockerfile, image; once it is known
    inputs: Mapped[str | None]  # a digest of all that went in: the same again needs no build
    old_commit: Mapped[str | None]  # where the branch stood when the push came
    # The process that holds a client's push open keeps this in the future; once it is past, the
    # reconciler moves the branch in git's stead.
    push_until: Mapped[float] = mapped_column(default=0.0)
    ref_moved: Mapped[bool] = mapped_column(default=False)
    state: Mapped[BuildState] = mapped_column(default=BuildState.QUEUED, index=True)
    cancel_requested: Mapped[bool] = mapped_column(default=False)
    reason: Mapped[str | None]  # why it failed, one sentence
    image: Mapped[str | None]  # manifest digest
    processes: Mapped[dict[str, str] | None] = mapped_column(JSON)
    manifest: Mapped[dict[str, Any] | None] = mapped_column(JSON)  # see Release
    phases: Mapped[dict[str, float] | None] = mapped_column(JSON)  # seconds by phase
    owner: Mapped[str | None]
    fence: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[float] = mapped_column(default=0.0)
    attempts: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    ended_at: Mapped[float | None]
    app: Mapped[App] = relationship()
    user: Mapped[User] = relationship()

    @property
    def stream(self) -> str:
        """The name of its output (`Output.stream`)."""
        return f"build:{self.id}"


class Release(Base):
    """An image, a config, process types and a scale, numbered; immutable but for its state.

    The scale follows that of the app as long as the release serves, and stays as it was when another took over.
    """

    __tablename__ = "releases"
    id: Mapped[int] = mapped_column(primary_key=True)
    app_id: Mapped[int] = mapped_column(ForeignKey("apps.id"), index=True)
    version: Mapped[int]
    build_id: Mapped[int | None] = mapped_column(ForeignKey("builds.id"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
    description: Mapped[str]
    commit: Mapped[str | None]
    image: Mapped[str]
    config: Mapped[bytes | None] = mapped_column(LargeBinary)
    processes: Mapped[dict[str, str]] = mapped_column(JSON)
    formation: Mapped[dict[str, int] | None] = mapped_column(JSON)  # instances by process type
    # What the app.json says of deploys: {"checks": {type: […]}, "postdeploy": a command}.
    manifest: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    release_due: Mapped[bool] = mapped_column(default=False)  # its release command has yet to run
    # Who deploys it shall end it: "cancelled" or "superseded"; `reason` says by whom.
    end_wanted: Mapped[str | None]
    state: Mapped[ReleaseState] = mapped_column(default=ReleaseState.PENDING, index=True)
    reason: Mapped[str | None]
    owner: Mapped[str | None]
    fence: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[float] = mapped_column(default=0.0)
    attempts: Mapped[int] = mapped_column(default=0)
    created_at: Mapped[float]
    ended_at: Mapped[float | None]
    app: Mapped[App] = relationship()
    user: Mapped[User] = relationship()
    build: Mapped[Build | None] = relationship()
    __table_args__ = (UniqueConstraint("app_id", "version"),)

    @property
    def stream(self) -> str:
        """A release made by a build speaks in the build's output; any other in its own."""
        return f"build:{self.build_id}" if self.build_id else f"release:{self.id}"


class Host(Base):
    """A machine that runs instances."""

    __tablename__ = "hosts"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    boot_id: Mapped[str | None]
    alive_until: Mapped[float] = mapped_column(default=0.0)
    # {instance id: resident bytes}, as of the last heartbeat
    memory: Mapped[dict[str, int]] = mapped_column(JSON, default=dict)


class Instance(Base):
    """One copy of a process type of a release, on one host: wanted and actual."""

    __tablename__ = "instances"
    id: Mapped[int] = mapped_column(primary_key=True)
    app_id: Mapped[int] = mapped_column(ForeignKey("apps.id"), index=True)
    release_id: Mapped[int] = mapped_column(ForeignKey("releases.id"), index=True)
    host_id: Mapped[int] = mapped_column(ForeignKey("hosts.id"), index=True)
    process_type: Mapped[str]
    number: Mapped[int]
    desired: Mapped[Desired] = mapped_column(default=Desired.RUNNING)
    state: Mapped[InstanceState] = mapped_column(default=InstanceState.PENDING, index=True)
    # An instance that is wanted stopped may go once the router has done this generation of the
    # app's routes: from then on no new request reaches it.
    drain_generation: Mapped[int] = mapped_column(default=0)
    fence: Mapped[int] = mapped_column(default=0)  # counts its starts; part of the container's id
    address: Mapped[str | None]
    port: Mapped[int | None]
    ready: Mapped[bool] = mapped_column(default=True)  # else the router leaves it out
    restarts: Mapped[int] = mapped_column(default=0)  # in a row, reset by a long healthy run
    next_start_at: Mapped[float] = mapped_column(default=0.0)
    exit_code: Mapped[int | None]
    reason: Mapped[str | None]  # of the last crash, one sentence
    created_at: Mapped[float]
    started_at: Mapped[float | None]
    up_at: Mapped[float | None]
    ended_at: Mapped[float | None]
    app: Mapped[App] = relationship()
    release: Mapped[Release] = relationship()
    host: Mapped[Host] = relationship()

    # container ids are made of it
    __table_args__ = {"sqlite_autoincrement": True}

    @property
    def name(self) -> str:
        """As people know it: web.1."""
        return f"{self.process_type}.{self.number}"

    @property
    def container(self) -> str:
        """The id of the container of its newest start."""
        return f"i{self.id}-{self.fence}"


class Domain(Base):
    """A host name that leads to an app, beside its own under the platform's domain."""

    __tablename__ = "domains"
    id: Mapped[int] = mapped_column(primary_key=True)
    app_id: Mapped[int] = mapped_column(ForeignKey("apps.id"), index=True)
    name: Mapped[str] = mapped_column(unique=True)


class Output(Base):
    """A piece of what a build or a deploy says, in order of id; whole lines."""

    __tablename__ = "output"
    id: Mapped[int] = mapped_column(primary_key=True)
    stream: Mapped[str] = mapped_column(index=True)
    text: Mapped[str]

    __table_args__ = {"sqlite_autoincrement": True}


class Outbox(Base):
    """A task that shall be sent once the change it belongs to is committed."""

    __tablename__ = "outbox"
    id: Mapped[int] = mapped_column(primary_key=True)
    queue: Mapped[str]
    task: Mapped[str]
    args: Mapped[list[Any]] = mapped_column(JSON)


class Lease(Base):
    """Who holds a duty that only one process may have at a time (the reconciler, say)."""

    __tablename__ = "leases"
    name: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str]
    fence: Mapped[int] = mapped_column(default=0)
    until: Mapped[float]
