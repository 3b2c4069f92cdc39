"""The Rust buildpack on a crate with a vendored dependency, and with a registry that is silent."""

import json

from buildlab import BUILD_CACHE, Builder, answer

MAIN = """use std::io::{Read, Write};

fn main() {
    let port = std::env::var("PORT").unwrap();
    let server = std::net::TcpListener::bind(format!("0.0.0.0:{port}")).unwrap();
    for stream in server.incoming() {
        let mut stream = stream.unwrap();
        let _ = stream.read(&mut [0; 4096]);
        let body = greeting::hello();
        let head = "HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length:";
        write!(stream, "{head} {}\\r\\n\\r\\n{body}", body.len()).unwrap();
    }
}
"""
SOURCE = '[source.crates-io]\nreplace-with = "vendored-sources"\n'
APP: dict[str, str | bytes] = {
    "Cargo.toml": '[package]\nname = "hello"\nversion = "1.0.0"\nedition = "2021"\n'
    '[dependencies]\ngreeting = "1"\n',
    "src/main.rs": MAIN,
    "vendor/greeting/Cargo.toml": '[package]\nname = "greeting"\nversion = "1.0.0"\n',
    "vendor/greeting/src/lib.rs": 'pub fn hello() -> &\'static str { "Hello from Rust\\n" }\n',
    "vendor/greeting/.cargo-checksum.json": json.dumps({"files": {}, "package": "0" * 64}),
    ".cargo/config.toml": f'{SOURCE}[source.vendored-sources]\ndirectory = "vendor"\n',
}


def test_vendored(builder: Builder) -> None:
    """A crate with a vendored dependency answers; the next build takes the compiler as it is."""
    cache = BUILD_CACHE / "rust"
    first = builder.build(APP, cache=cache)
    assert answer(builder, first) == "Hello from Rust\n"
    assert builder.run(first, "ls /layers/shipway_rust /workspace").split() == [
        "/layers/shipway_rust:",
        "programs",
        "/workspace:",
        "Cargo.lock",
        "Cargo.toml",
        "src",
    ]
    assert first.size < 2e6
    bare = {name: text for name, text in APP.items() if not name.startswith("vendor")}
    silent = f'{SOURCE}[source.vendored-sources]\nregistry = "sparse+http://127.0.0.1:9/"\n'
    files = bare | {".cargo/config.toml": silent}
    builder.failure(files, previous=first.image, cache=cache)
    assert not any("Installing Rust" in line for line in builder.lines)
    assert any("127.0.0.1 could not be reached" in line for line in builder.lines), builder.lines
    assert any("CARGO_MIRROR" in line for line in builder.lines)
    toolchain = {"rust-toolchain.toml": '[toolchain]\nchannel = "1.999"\n'}
    builder.failure(APP | toolchain, previous=first.image, cache=cache)
    assert any("asks for Rust 1.999, but Debian 13 has" in line for line in builder.lines)
