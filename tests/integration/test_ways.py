"""The other ways in, on real parts: Dockerfiles, images, archives, sub-folders; secrets, limits, hostile trees."""

import contextlib
import io
import os
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.integration.test_workers import Platform, get, server, until

from shipway.buildpacks.stacks import RECIPES
from shipway.platform import applog, buildconfig, builds, sources
from shipway.platform.archives import BadArchive
from shipway.platform.models import App, Build, Release, User
from shipway.platform.states import BuildState, InstanceState
from shipway.runtime.images import archives
from shipway.workers import restack, retention
from shipway.workers.context import Context
from support import link_stack, scratch

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers need root")

DOCKERFILE = "FROM stack/debian-13:run\nCOPY app.py /srv/app.py\nWORKDIR /srv\n"


class Ways(Platform):
    """A platform, and what a person does beside pushing."""

    @property
    def ada(self) -> User:
        with self.store.reading() as db:
            return db.scalars(select(User)).one()

    def set(self, name: str, **values: str) -> None:
        changes = {key.replace("_", "-"): value for key, value in values.items()}
        buildconfig.change_settings(self.store, self.ada, name, changes)

    def failed(self, name: str, files: dict[str, str]) -> str:
        """The reason of a build that must fail."""
        build = self.queue(self.app_id(name), self.commit(name, files))
        assert self.outcome(build) is None
        row = self.build(build)
        assert row.state == BuildState.FAILED
        return row.reason or ""

    def up(self, name: str) -> Any:
        """The instance of the newest release."""
        return self.instances(name, InstanceState.UP)[-1]

    def answer(self, name: str) -> str:
        return get(self.up(name))


@pytest.fixture(scope="module")
def ways() -> Iterator[Ways]:
    """One platform for all tests of this file."""
    with scratch() as data:
        link_stack(data / "runtime")
        found = Ways(data, "ways")
        try:
            found.start("redis", "worker", "host")
            found.wait_ready()
            yield found
        finally:
            with contextlib.suppress(Exception):
                with found.store.transaction() as db:
                    for app in db.scalars(select(App)):
                        builds.cancel_all(db, app, found.store.now(db), "over")
            found.end()


def test_a_dockerfile_goes_live_on_the_port_that_it_exposes(ways: Ways) -> None:
    """It is chosen by itself, runs as its own user, and the build says where the time went."""
    ways.create("docker")
    files = server("docker")
    files.pop("Procfile")
    files["Dockerfile"] = DOCKERFILE + 'EXPOSE 8123\nCMD ["python3", "app.py"]\n'
    release = ways.push("docker", files)
    assert release is not None
    assert ways.answer("docker") == "docker web.1 v1"
    assert ways.up("docker").port == 8123
    build = ways.build(release.build_id or 0)
    assert build.builder == "dockerfile"
    assert list(build.phases or {}) == ["source", "bases", "build", "export"]
    assert "Requests go to port 8123" in ways.said(build.id)
    bill = ways.settings.bill(build.app_id, build.image or "")
    assert '"python3' in bill.read_text()


def test_what_is_set_decides_who_builds(ways: Ways) -> None:
    """Buildpacks where they are asked for; a Procfile's command runs in the Dockerfile's image by a shell."""
    ways.create("choice")
    files = {**server("choice"), "Dockerfile": DOCKERFILE + "USER root\n"}
    ways.set("choice", builder="buildpacks")
    release = ways.push("choice", files)
    assert release
    assert ways.build(release.build_id or 0).builder == "buildpacks"
    ways.set("choice", builder="")
    release = ways.push("choice", files)
    assert release
    assert ways.build(release.build_id or 0).builder == "dockerfile"
    assert ways.answer("choice") == "choice web.1 v2"
    assert release.processes == {"web": "python3 app.py"}


KEEPER = """\
[_]
schema-version = "0.2"
[[io.buildpacks.group]]
id = "test/keeper"
[io.buildpacks.group.script]
api = "0.10"
inline = '''
ls -R /layers
mkdir $CNB_LAYERS_DIR/kept && echo private > $CNB_LAYERS_DIR/kept/of-keeper
printf '[types]\\ncache = true\\n' > $CNB_LAYERS_DIR/kept.toml
'''
"""


def test_labels_of_a_strangers_image_give_nothing_of_another_app(ways: Ways) -> None:
    """What an image says of its cache counts only if we have said it."""
    ways.create("keeper")
    assert ways.push("keeper", {**server("keeper"), "project.toml": KEEPER}) is not None
    ways.create("thief")
    label = "LABEL io.shipway.cache=cache/keeper\n"
    files = {**server("thief"), "Dockerfile": DOCKERFILE + label}
    assert ways.push("thief", files) is not None
    files = {"project.toml": KEEPER.replace("keeper", "thief"), "Dockerfile": ""}
    release = ways.push("thief", {**server("thief"), **files})
    assert release is not None
    said = ways.said(release.build_id or 0)
    assert "test_thief" in said
    assert "keeper" not in said


def test_an_image_and_an_archive_of_one_are_deployed(ways: Ways) -> None:
    """As they are; a name in an archive takes nobody's name away."""
    ways.create("image")
    own = ways.engine.images.get(ways.build(1).image or "")
    ways.engine.images.tag("stack/test:1", own.digest)
    build = sources.deploy_image(ways.store, ways.ada, "image", "stack/test:1")
    release = ways.outcome(build["id"])
    assert release
    assert (release.image, release.commit) == (own.digest, None)
    assert release.description == "Deploy stack/test:1"
    assert ways.answer("image") == "docker web.1 v1"

    saved = io.BytesIO()
    archives.save(ways.engine.images, ["stack/test:1"], saved)
    ways.engine.images.untag("stack/test:1")
    saved.seek(0)
    build = sources.deploy_archive(ways.store, ways.ada, "image", saved)
    release = ways.outcome(build["id"])
    assert release
    assert ways.answer("image") == "docker web.1 v2"
    assert "stack/test:1" not in ways.engine.images.refs()
    assert list(ways.settings.uploads.iterdir()) == []


def test_an_archive_of_files_is_built_as_a_push_is(ways: Ways) -> None:
    """A zip and a tar with a folder around all; hostile ones are refused and leave nothing."""
    ways.create("archive")
    files = {**server("archive"), "requirements.txt": ""}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"app-1.0/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    packed.seek(0)
    build = sources.deploy_archive(ways.store, ways.ada, "archive", packed)
    assert ways.outcome(build["id"])
    assert ways.answer("archive") == "archive web.1 v1"
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        for name, text in {**files, **server("zipped")}.items():
            archive.writestr(name, text)
    zipped.seek(0)
    build = sources.deploy_archive(ways.store, ways.ada, "archive", zipped)
    assert ways.outcome(build["id"])
    assert ways.answer("archive") == "zipped web.1 v2"


@pytest.mark.parametrize(
    ("name", "kind", "link", "said"),
    [
        ("../x", tarfile.REGTYPE, "", "'../x' leads out of the archive"),
        ("/etc/x", tarfile.REGTYPE, "", "'/etc/x' leads out of the archive"),
        ("a/.GIT/config", tarfile.REGTYPE, "", "is git's own"),
        ("dev", tarfile.CHRTYPE, "", "is a device, a pipe or a socket"),
        ("hard", tarfile.LNKTYPE, "gone", "a hard link to a file that the archive lacks"),
    ],
)
def test_hostile_archives_are_refused(
    ways: Ways, name: str, kind: bytes, link: str, said: str
) -> None:
    """One exact line; no build, no commit and no upload is left."""
    if not any(each == "hostile" for each in _names(ways)):
        ways.create("hostile")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, link
        tar.addfile(member)
    packed.seek(0)
    with pytest.raises(BadArchive, match=said.replace("(", r"\(")):
        sources.deploy_archive(ways.store, ways.ada, "hostile", packed)
    assert list(ways.settings.uploads.iterdir()) == []
    assert not list((ways.repos.path("hostile") / "refs").rglob("import-*"))


def _names(ways: Ways) -> list[str]:
    with ways.store.reading() as db:
        return list(db.scalars(select(App.name)))


def test_a_folder_of_a_monorepo_is_built_alone_and_only_if_it_changed(ways: Ways) -> None:
    """A commit that leaves the folder as it was needs no build: the image stays, the release comes."""
    ways.create("mono")
    ways.set("mono", build_dir="services/web")
    files = {f"services/web/{k}": v for k, v in server("mono").items()}
    files["services/web/requirements.txt"] = ""
    folder = ways.data / "src/mono/services/web"
    folder.mkdir(parents=True)
    first = ways.push("mono", {**files, "other.txt": "1"})
    assert first
    assert ways.answer("mono") == "mono web.1 v1"
    second = ways.push("mono", {"other.txt": "2"})
    assert second
    assert second.image == first.image
    assert "Nothing below services/web has changed" in ways.said(second.build_id or 0)
    ways.set("mono", build_dir="services/nope")
    assert "no folder 'services/nope'" in ways.failed("mono", {"other.txt": "3"})
    assert ways.answer("mono") == "mono web.1 v2"


def test_build_secrets_are_files_of_the_build_and_masked_in_its_log(ways: Ways) -> None:
    """They are sealed in the database, and not in the app."""
    ways.create("secret")
    buildconfig.change_secrets(ways.store, ways.ada, "secret", {"token": "s3cr3t-value"})
    assert buildconfig.secrets(ways.store, ways.ada, "secret") == {"secrets": ["token"]}
    assert b"s3cr3t" not in (ways.app("secret").build_secrets or b"")
    files = {
        **server("secret"),
        "Dockerfile": DOCKERFILE
        + "USER root\nRUN --mount=type=secret,id=token cat /run/secrets/token; echo\n",
    }
    release = ways.push("secret", files)
    assert release
    said = ways.said(release.build_id or 0)
    assert "••••••" in said
    assert "s3cr3t" not in said
    logs = applog.folder(ways.settings, "secret")
    assert not any(b"s3cr3t" in path.read_bytes() for path in logs.iterdir())


def test_a_build_that_writes_too_much_is_ended(ways: Ways) -> None:
    """With a line that names the limit; the app that runs goes on."""
    ways.create("disk")
    assert ways.push("disk", server("disk"))
    ways.set("disk", disk="64M")
    eats = DOCKERFILE + "USER root\nRUN dd if=/dev/zero of=/big bs=1M count=4000; sleep 30\n"
    assert ways.failed("disk", {"Dockerfile": eats}) == (
        "The build wrote more than its limit of 64 MB of disk."
    )
    assert ways.answer("disk") == "disk web.1 v1"
    assert not retention.build_storage(Context(ways.settings), ways.app_id("disk")).exists()
    project = KEEPER.replace(
        "ls -R /layers", "dd if=/dev/zero of=$SHIPWAY_CACHE_DIR/big bs=1M count=4000; sleep 30"
    )
    assert "64 MB" in ways.failed(
        "disk", {"Dockerfile": "", "Procfile": "web: x\n", "project.toml": project}
    )
    assert not retention.build_cache(Context(ways.settings), ways.app_id("disk")).exists()


def test_submodules_come_from_elsewhere_only(ways: Ways) -> None:
    """A local path, an option or a missing entry is one exact line, and nothing is fetched."""
    ways.create("sub")
    folder = ways.data / "src/sub"
    ways.commit("sub", server("sub"))
    for url in ("/etc", "../other", "file:///etc"):  # options are refused by the push already
        text = f'[submodule "x"]\n\tpath = lib\n\turl = {url}\n'
        (folder / ".gitmodules").write_text(text)
        _gitlink(folder)
        reason = ways.failed("sub", {})
        assert reason.startswith(f"The submodule 'lib' has the URL {url!r} in .gitmodules; only")
    (folder / ".gitmodules").write_text("")
    assert "is a submodule that .gitmodules does not name" in ways.failed("sub", {})


def _gitlink(folder: Path) -> None:
    argv = ["git", "-C", str(folder), "update-index", "--add", "--cacheinfo"]
    (folder / "lib").mkdir(exist_ok=True)
    subprocess.run([*argv, f"160000,{'a' * 40},lib"], check=True, capture_output=True)


def test_a_pointer_of_lfs_is_named(ways: Ways) -> None:
    """What was not pushed cannot be built."""
    ways.create("lfs")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    files = {**server("lfs"), ".gitattributes": "*.bin filter=lfs\n", "big.bin": pointer}
    assert ways.failed("lfs", files).startswith("'big.bin' is a pointer of Git LFS")


def test_hostile_trees_are_one_line_and_harm_nothing(ways: Ways) -> None:
    """Links that leave stay links of the container; names that are no UTF-8 are only bytes."""
    ways.create("tree")
    folder = ways.data / "src/tree"
    folder.mkdir(parents=True)
    (folder / "out").symlink_to("/etc/shadow")
    (folder / "up").symlink_to("../../../../..")
    (Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe"))).write_text("x")
    assert ways.push("tree", server("tree"))
    assert ways.answer("tree") == "tree web.1 v1"
    (folder / "Procfile").unlink()
    (folder / "Procfile").symlink_to("/etc/passwd")
    build = ways.queue(ways.app_id("tree"), _commit_as_is(ways, "tree"))
    assert ways.outcome(build) is None
    assert "link out of the app" in (ways.build(build).reason or "")
    assert ways.answer("tree") == "tree web.1 v1"


def test_a_tree_of_countless_files_is_refused_at_once(ways: Ways) -> None:
    """A few objects that name each other make ten million files; a folder beside them is built."""
    ways.create("bomb")
    ways.commit("bomb", server("bomb"))
    folder = ways.data / "src/bomb"

    def git(*args: str, text: str = "") -> str:
        argv = [
            "git",
            "-C",
            str(folder),
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@localhost",
            *args,
        ]
        return subprocess.run(argv, input=text, check=True, capture_output=True, text=True).stdout

    blob = git("hash-object", "-w", "--stdin", text="x")
    lines = [f"100644 blob {blob.strip()}\tf{number}" for number in range(10)]
    for _ in range(7):
        tree = git("mktree", text="\n".join(lines)).strip()
        lines = [f"040000 tree {tree}\td{number}" for number in range(10)]
    good = git("rev-parse", "HEAD^{tree}").strip()
    tree = git("mktree", text="\n".join([*lines, f"040000 tree {good}\tgood"])).strip()
    commit = git("commit-tree", tree, "-m", "bomb").strip()
    git("push", "-q", "--force", str(ways.repos.path("bomb")), f"{commit}:refs/heads/incoming")
    build = ways.queue(ways.app_id("bomb"), commit)
    assert ways.outcome(build) is None
    assert "has more than 200000 files" in (ways.build(build).reason or "")
    ways.set("bomb", build_dir="good")
    assert ways.outcome(ways.queue(ways.app_id("bomb"), commit)) is not None


def _commit_as_is(ways: Ways, name: str) -> str:
    return ways.commit(name, {})


def test_apps_go_onto_a_new_stack_without_a_build(ways: Ways) -> None:
    """The app's own layers stay, what is below is new, and the release is as any other."""
    ways.create("stack")
    first = ways.push("stack", server("stack"))
    assert first
    run = ways.engine.images.get("stack/debian-13:run")
    with ways.engine.layers.staged_tree() as tree:
        (tree / "etc").mkdir()
        (tree / "etc/updated").write_text("yes")
        layer = ways.engine.layers.commit(tree)
    try:
        ways.engine.images.write([*run.layers, layer], run.config, "stack/debian-13:run")
        ctx = Context(ways.settings)
        stack = RECIPES["debian-13"].stack
        assert "stack" in restack.rebase_apps(ctx, ways.engine, stack)
        until(lambda: "stack web.1 v2" in ways.answer("stack"), 30)
        image = ways.engine.images.get(_newest(ways, "stack").image)
        assert layer in image.layers
        old = ways.engine.images.get(first.image)
        assert image.layers[len(run.layers) + 1 :] == old.layers[len(run.layers) :]
        assert "stack" not in restack.rebase_apps(ctx, ways.engine, stack)
    finally:
        ways.engine.images.tag("stack/debian-13:run", run.digest)


def _newest(ways: Ways, name: str) -> Release:
    with ways.store.reading() as db:
        query = select(Release).join(App).where(App.name == name)
        return db.scalars(query.order_by(Release.version.desc())).first() or Release()


def test_a_cancel_of_a_dockerfile_build_leaves_nothing(ways: Ways) -> None:
    """No container, no folder; the row says so."""
    ways.create("cancel")
    files = {**server("x"), "Dockerfile": DOCKERFILE + "RUN echo now && sleep 60\n"}
    build = ways.queue(ways.app_id("cancel"), ways.commit("cancel", files))
    until(lambda: "STEP 4/4" in ways.said(build), 30)
    with ways.store.transaction() as db:
        builds.cancel(db, db.get_one(Build, build), ways.store.now(db), "Cancelled.")
    until(lambda: ways.build(build).state == BuildState.CANCELLED, 20)
    until(lambda: not any(each.id.startswith("build-cancel") for each in ways.engine.list()), 10)
    until(lambda: not list((ways.data / "runtime/work").glob(f"{build}-*")), 10)
    with ways.store.reading() as db:
        assert db.scalar(select(Release).where(Release.build_id == build)) is None
