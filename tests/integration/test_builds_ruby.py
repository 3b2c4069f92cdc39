"""The Ruby buildpack on a Rack app whose gems are vendored: one of them is compiled."""

import gzip
import io
import tarfile

import pytest

from buildlab import BUILD_CACHE, Builder, answer
from shipway.buildpacks.build import BuildResult

SERVER = """#!/usr/bin/env ruby
require "socket"
require "three"
port = ARGV[ARGV.index("--bind") + 1].split(":").last.to_i
app = eval("lambda { |env| #{File.read(ARGV.last)} }")
server = TCPServer.new("0.0.0.0", port)
loop do
  client = server.accept
  client.gets
  body = app.call({})
  client.print "HTTP/1.1 200 OK\\r\\nContent-Length: #{body.bytesize}\\r\\nConnection: close\\r\\n\\r\\n#{body}"
  client.close
end
"""
C_PART = """#include <ruby.h>
VALUE three(VALUE self) { return INT2FIX(3); }
void Init_three(void) { rb_define_global_function("three", three, 0); }
"""


def gem(name: str, files: dict[str, str], extra: str = "") -> bytes:
    """A .gem file: a tar of a specification and of the files."""
    specification = (
        "--- !ruby/object:Gem::Specification\n"
        f"name: {name}\nversion: !ruby/object:Gem::Version\n  version: 1.0.0\n"
        f"platform: ruby\nauthors: [x]\nsummary: x\nfiles: [{', '.join(files)}]\n"
        f"require_paths: [lib]\nbindir: exe\nspecification_version: 4\n{extra}"
    )
    inner = {path: text.encode() for path, text in files.items()}
    parts = {"metadata.gz": specification.encode(), "data.tar.gz": tar(inner)}
    return tar({path: gzip.compress(data, mtime=0) for path, data in parts.items()})


def tar(files: dict[str, bytes]) -> bytes:
    """These files in a tar."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, data in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(data), 0o755
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


LOCK = """GEM
  remote: http://127.0.0.1:9/
  specs:
    puma (1.0.0)
    three (1.0.0)

PLATFORMS
  ruby

DEPENDENCIES
  puma
  three

BUNDLED WITH
   2.5.11
"""
APP: dict[str, str | bytes] = {
    "Gemfile": 'source "http://127.0.0.1:9"\ngem "puma"\ngem "three"\n',
    "Gemfile.lock": LOCK,
    "config.ru": '"Hello #{three} from Ruby\\n"\n',
    "vendor/cache/puma-1.0.0.gem": gem("puma", {"exe/puma": SERVER}, "executables: [puma]\n"),
    "vendor/cache/three-1.0.0.gem": gem(
        "three",
        {
            "ext/extconf.rb": 'require "mkmf"\ncreate_makefile("three")\n',
            "ext/three.c": C_PART,
        },
        "extensions: [ext/extconf.rb]\n",
    ),
}


@pytest.fixture(scope="module")
def first(builder: Builder) -> BuildResult:
    """The app, built once: its Ruby is at hand for the other builds."""
    return builder.build(APP, cache=BUILD_CACHE / "ruby")


def test_rack(builder: Builder, first: BuildResult) -> None:
    """A Rack app with vendored gems answers by default; a change of code installs nothing."""
    cache = BUILD_CACHE / "ruby"
    assert answer(builder, first) == "Hello 3 from Ruby\n"
    assert builder.run(first, "find /layers /workspace -name '*.h' -o -name '*.gem'") == ""
    assert first.size < 45e6
    changed = APP | {"config.ru": '"Changed #{three}\\n"\n'}
    second = builder.build(changed, previous=first.image, cache=cache)
    assert answer(builder, second) == "Changed 3\n"
    assert any("gems of the previous build" in line for line in builder.lines)
    assert not any("Installing" in line for line in builder.lines)
    fresh = builder.build(APP, cache=cache)
    for layer in ("ruby", "gems"):
        assert builder.layer(fresh, layer) == builder.layer(first, layer)


def test_failures(builder: Builder, first: BuildResult) -> None:
    """No lock file, another Ruby, a source that does not answer: each is said."""
    cache = BUILD_CACHE / "ruby"
    builder.failure({"Gemfile": "", "Procfile": "web: x\n"}, previous=first.image, cache=cache)
    assert any("no Gemfile.lock" in line for line in builder.lines)
    builder.failure(APP | {".ruby-version": "2.7.1\n"}, previous=first.image, cache=cache)
    assert any(
        ".ruby-version asks for Ruby 2.7.1, but Debian 13 has 3.3" in x for x in builder.lines
    )
    bare = {name: text for name, text in APP.items() if not name.startswith("vendor")}
    builder.failure(bare, previous=first.image, cache=cache)
    assert any("127.0.0.1:9 could not be reached" in line for line in builder.lines), builder.lines
    assert any("BUNDLE_MIRROR__ALL" in line for line in builder.lines)
