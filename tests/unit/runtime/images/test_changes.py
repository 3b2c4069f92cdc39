"""--change, and the images that a Dockerfile begins from."""

from typing import Any

import pytest

from shipway.runtime.errors import InvalidImage
from shipway.runtime.images import changes, dockerfile


def changed(*lines: str, **run: Any) -> dict[str, Any]:
    document: dict[str, Any] = {"config": run}
    changes.apply(document, lines)
    found: dict[str, Any] = document["config"]
    return found


def test_instructions() -> None:
    """Each instruction changes what it does in a Dockerfile."""
    found = changed(
        'CMD ["a", "b"]',
        "env A=1 B='two words'",
        "ENV C three",
        "EXPOSE 80 53/udp 8000-8001",
        'LABEL x="y z"',
        'VOLUME ["/data"]',
        "WORKDIR sub",
        "USER app",
        "STOPSIGNAL SIGINT",
        "ONBUILD RUN make",
        Env=["A=0", "Z=9"],
        WorkingDir="/srv",
    )
    assert found == {
        "Cmd": ["a", "b"],
        "Env": ["A=1", "Z=9", "B=two words", "C=three"],
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}},
        "Labels": {"x": "y z"},
        "Volumes": {"/data": {}},
        "WorkingDir": "/srv/sub",
        "User": "app",
        "StopSignal": "SIGINT",
        "OnBuild": ["RUN make"],
    }


def test_a_new_entrypoint_drops_the_old_arguments() -> None:
    """The image's Cmd was meant for its own program, unless a new one is given too."""
    assert changed("ENTRYPOINT x y", Cmd=["old"]) == {"Entrypoint": ["/bin/sh", "-c", "x y"]}
    assert changed('ENTRYPOINT ["x"]', 'CMD ["n"]', Cmd=["old"])["Cmd"] == ["n"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("RUN x", "is not known; it may be CMD"),
        ("CMD", "lacks what CMD"),
        ("ENV", "lacks"),
        ("ENV A", "NAME=VALUE"),
        ("ENV A=1 =2", "NAME=VALUE"),
        ("CMD [1]", "strings"),
        ('CMD ["a"', "malformed"),
        ("EXPOSE http", "no port"),
        ("EXPOSE 70000", "no port"),
        ("LABEL a='b", "malformed"),
        ("ONBUILD FROM x", "cannot be put off"),
    ],
)
def test_wrong_ones(line: str, why: str) -> None:
    """A wrong instruction is refused, with what is wrong."""
    with pytest.raises(InvalidImage, match=why):
        changed(line)


def test_bases() -> None:
    """The images are found through arguments, comments, long lines and stages."""
    text = r"""
# escape=\
ARG TAG=1
ARG OTHER
FROM --platform=linux/amd64 base:${TAG} AS Build
ARG TAG=9
COPY --from=tools:2 /a \
  # in between
  /b
RUN --mount=type=bind,from=mounted:3,target=/x true
FROM ${OTHER:-spare:4}
COPY --from=build /a /
COPY --from=0 /a /
FROM scratch
from build
"""
    assert dockerfile.bases(text, {}) == ["base:1", "tools:2", "mounted:3", "spare:4"]
    assert dockerfile.bases(text, {"TAG": "5", "OTHER": "o"})[0] == "base:5"
    assert "o" in dockerfile.bases(text, {"OTHER": "o"})
