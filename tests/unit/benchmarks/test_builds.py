"""The builds' rows: what both sides are given, and what is counted."""

import itertools
import json
import os
from pathlib import Path

import pytest
from benchmarks import buildapps, builds, steady
from benchmarks.dockerbuilds import dockerfile
from benchmarks.rows import ROWS

from shipway.buildpacks.build import BuildResult


def test_each_app_has_its_rows() -> None:
    """Every app has all rows, but there is no dependency that a static site could be given."""
    every = {"first", "code", "own", "dependency", "size"}
    for name in builds.APPS:
        found = {each.rpartition("-")[2] for each in ROWS if each.startswith(f"build-{name}-")}
        assert found == (every - {"dependency"} if name == "static" else every)


def test_rows_that_empty_caches_come_first() -> None:
    """What empties the caches of all apps is not measured between rows that need them filled."""
    names = [name for name in builds.ROWS if name not in ("build-memory", "latency-under-builds")]
    cold = [name.endswith("-first") or name == "builds-four" for name in names]
    assert cold == sorted(cold, reverse=True)


@pytest.mark.parametrize("app", [buildapps.flask(), buildapps.django()])
def test_each_list_names_one_dependency_more(app: buildapps.App) -> None:
    """A list of dependencies is the one before with one line more; there is one for each run."""
    lines = [each["requirements.txt"].splitlines() for each in app.lists]
    assert len(lines) > builds.RUNS
    for before, after in itertools.pairwise(lines):
        assert after[:-1] == before


def test_a_change_of_code_changes_one_file() -> None:
    """And no file that names the dependencies."""
    for app in (buildapps.flask(), buildapps.django(), buildapps.static(), buildapps.express(())):
        [(name, text)] = app.code("new").items()
        assert "new" in text
        assert app.tree[name] == app.code("first")[name]
        assert all(name not in each for each in app.lists)


def test_the_site_has_5000_small_files() -> None:
    """The same ones in each run."""
    files = buildapps.static().files
    assert len(files) == 5000
    assert max(map(len, files.values())) < 5000
    assert files == buildapps.static().files


def test_a_lock_file_of_another_size_ends_the_row() -> None:
    """The Express app is to have about 200 packages; one that has not is not measured."""
    lock = {"packages": {"": {}, **{f"node_modules/p{n}": {} for n in range(200)}}}
    buildapps.check_packages(json.dumps(lock))
    with pytest.raises(RuntimeError, match="has 3 packages, expected about 200"):
        buildapps.check_packages(json.dumps({"packages": {key: {} for key in "abcd"}}))


def test_buildkit_keeps_downloads_and_no_certificates() -> None:
    """With BuildKit downloads are in a cache mount and the certificates a secret, so neither is in the image."""
    made = dockerfile(buildapps.EXPRESS_DOCKERFILE, buildkit=True, with_ca=True)
    assert (
        "RUN --mount=type=cache,target=/root/.npm --mount=type=secret,id=ca"
        " NODE_EXTRA_CA_CERTS=/run/secrets/ca npm ci"
    ) in made
    plain = dockerfile(buildapps.FLASK_DOCKERFILE, buildkit=True, with_ca=False)
    assert "RUN --mount=type=cache,target=/root/.cache/pip pip --python" in plain


def test_the_classic_builder_is_given_what_it_knows() -> None:
    """It knows no mounts; the certificates are copied into the stage that needs them."""
    made = dockerfile(buildapps.FLASK_DOCKERFILE, buildkit=False, with_ca=True)
    assert "--mount" not in made
    assert "COPY ca.crt /\nRUN PIP_CERT=/ca.crt pip --python" in made.partition("\n\n")[0]
    assert "@" not in made


def test_our_own_work_is_what_the_commands_are_not() -> None:
    """The seconds of bin/detect and bin/build are taken off, those of no other phase."""
    phases = {"analyze": 0.1, "detect": 0.2, "build": 1.0, "export": 0.3}
    made = BuildResult("sha256:0", {}, phases, 0)
    assert builds.beyond_commands(1.75, made) == pytest.approx(0.55)


def test_bytes_of_a_folder(tmp_path: Path) -> None:
    """Files and links count, a file with two names once, folders not."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"x" * 1000)
    os.link(tmp_path / "a" / "one", tmp_path / "two")
    (tmp_path / "link").symlink_to("two")
    assert builds.bytes_in(tmp_path) == 1003


def test_percentile_is_one_of_the_values() -> None:
    """Of a hundred values the 99th; of a few the greatest."""
    assert steady.percentile([float(n) for n in range(100, 0, -1)]) == 99.0
    assert steady.percentile([3.0, 1.0, 2.0]) == 3.0


def test_a_request_that_fails_is_counted() -> None:
    """A stream to a port where nobody listens has no answers, and says so."""
    from tests.support import free_port

    assert steady.ask(free_port(), "x", 100, 0.1) == [float("inf")] * 10
