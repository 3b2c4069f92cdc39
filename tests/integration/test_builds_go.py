"""The Go buildpack on real modules: vendored, with a C part, and with a registry that does not answer."""

import pytest

from buildlab import BUILD_CACHE, Builder, answer
from shipway.buildpacks.build import BuildResult

MAIN = """package main

import (
	"fmt"
	"net/http"
	"os"

	"example.org/greeting"
)

var version = "unset"

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s from Go %s\\n", greeting.Hello(), version)
	})
	fmt.Println(http.ListenAndServe(":"+os.Getenv("PORT"), nil))
}
"""
VENDORED: dict[str, str | bytes] = {
    "go.mod": "module example.org/hello\n\ngo 1.26\n\nrequire example.org/greeting v1.0.0\n",
    "go.sum": "",
    "main.go": MAIN,
    "vendor/modules.txt": "# example.org/greeting v1.0.0\n## explicit; go 1.26\nexample.org/greeting\n",
    "vendor/example.org/greeting/greeting.go": (
        'package greeting\n\nfunc Hello() string { return "Hello" }\n'
    ),
}
SETTINGS = {"GO_LINKER_SYMBOL": "main.version", "GO_LINKER_VALUE": "v9"}


@pytest.fixture(scope="module")
def first(builder: Builder) -> BuildResult:
    """The module, built once: its Go is at hand for the other builds."""
    result = builder.build(VENDORED, cache=BUILD_CACHE / "go", env=SETTINGS)
    assert any(line.startswith("-----> Using Go 1.26.") for line in builder.lines)
    return result


def test_vendored(builder: Builder, first: BuildResult) -> None:
    """A module with vendored dependencies answers; the image has one static program and no toolchain."""
    cache = BUILD_CACHE / "go"
    assert answer(builder, first) == "Hello from Go v9\n"
    assert builder.run(first, "ls /layers/shipway_go /layers/shipway_go/programs/bin").split() == [
        "/layers/shipway_go:",
        "programs",
        "/layers/shipway_go/programs/bin:",
        "hello",
    ]
    linked = builder.run(
        first,
        'python3 -c \'import sys; print(b"/ld-linux" in open(sys.argv[1], "rb").read(4096))\' /layers/shipway_go/programs/bin/hello',
    )
    assert linked == "False\n"
    assert first.size < 12e6
    changed = VENDORED | {"main.go": MAIN.replace("from Go", "again from Go")}
    second = builder.build(changed, previous=first.image, cache=cache, env=SETTINGS)
    assert answer(builder, second) == "Hello again from Go v9\n"
    assert not any("Installing Go" in line for line in builder.lines)
    same = builder.build(VENDORED, previous=second.image, cache=cache, env=SETTINGS)
    assert builder.layer(same, "programs") == builder.layer(first, "programs")


def test_programs(builder: Builder, first: BuildResult) -> None:
    """Several programs are all built, with cgo where one needs it; the Procfile says what to start."""
    files: dict[str, str | bytes] = {
        "go.mod": "module example.org/shop\n\ngo 1.26\n",
        "cmd/api/main.go": 'package main\n\n// int three() { return 3; }\nimport "C"\n'
        'import "fmt"\n\nfunc main() { fmt.Println(C.three()) }\n',
        "cmd/job/main.go": 'package main\n\nimport "fmt"\n\nfunc main() { fmt.Println("job") }\n',
        "Procfile": "web: api\n",
    }
    cache = BUILD_CACHE / "go"
    result = builder.build(files, previous=first.image, cache=cache)
    assert builder.run(result, "api; job") == "3\njob\n"
    only = builder.build(
        files, previous=first.image, cache=cache, env={"GO_INSTALL_PACKAGE_SPEC": "./cmd/job"}
    )
    assert builder.run(only, "ls /layers/shipway_go/programs/bin") == "job\n"


def test_failures(builder: Builder, first: BuildResult) -> None:
    """A registry that does not answer, a version that is none, code that does not compile: each is said."""
    cache = BUILD_CACHE / "go"
    bare = {name: text for name, text in VENDORED.items() if not name.startswith("vendor")}
    digest = "h1:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    sums = (f"example.org/greeting v1.0.0{part} {digest}\n" for part in ("", "/go.mod"))
    bare["go.sum"] = "".join(sums)
    builder.failure(
        bare,
        previous=first.image,
        cache=cache,
        env={"GOPROXY": "http://127.0.0.1:9", "GONOSUMDB": "*"},
    )
    assert any("127.0.0.1:9 could not be reached" in line for line in builder.lines), builder.lines
    assert any("the setting GOPROXY names it" in line for line in builder.lines)
    builder.failure(VENDORED | {".go-version": "latest\n"}, previous=first.image, cache=cache)
    assert any(".go-version asks for Go 'latest'" in line for line in builder.lines)
    builder.failure(
        VENDORED | {"main.go": "package main\n\nfunc main() { x }\n"},
        previous=first.image,
        cache=cache,
    )
    assert any("main.go:3" in line for line in builder.lines), builder.lines
    builder.failure(VENDORED, env={"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple"})
    assert any("127.0.0.1:9 could not be reached" in line for line in builder.lines), builder.lines
