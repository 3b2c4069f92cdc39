"""What a push asks for and what is made of it."""

import pytest

from shipway.platform.refs import Plan, PushRefused, Update, parse, plan

A, B, ZERO = "a" * 40, "b" * 40, "0" * 40


def pushed(*branches: str) -> list[Update]:
    """A push of new branches and tags."""
    return [Update(None, A, ref) for ref in branches]


def test_lines_of_git_are_read() -> None:
    """Forty zeros stand for a ref that is not there."""
    raw = f"{ZERO} {A} refs/heads/main\n{A} {ZERO} refs/tags/v1\n".encode()
    assert parse(raw) == [Update(None, A, "refs/heads/main"), Update(A, None, "refs/tags/v1")]


@pytest.mark.parametrize(
    "ref",
    [
        "refs/heads/../../x",
        "refs/heads/a..b",
        "refs/heads/.hidden",
        "refs/heads/x.lock",
        "refs/heads/x.lock/y",
        "refs/heads/",
        "refs/heads/-x",
        "refs/heads/a b",
        "refs/heads/a\x1b[31m",
        "refs/heads/a~1",
        "refs/heads/a@{1}",
        "refs/heads/@",
        "refs/heads/a//b",
        "refs/heads/a/",
        "refs/heads/a\\b",
        "refs/heads/" + "x" * 300,
        "refs/internal/x",
        "refs/builds/1",
        "refs/notes/x",
        "HEAD",
        "main",
    ],
)
def test_refs_that_are_no_branch_or_tag_are_refused(ref: str) -> None:
    """Whatever git's own rules forbid, and everything outside refs/heads and refs/tags, without raw control bytes."""
    with pytest.raises(PushRefused) as caught:
        parse(f"{ZERO} {A} {ref}\n".encode())
    assert caught.value.message.isprintable()


def test_refs_in_bytes_that_are_no_text_are_refused() -> None:
    """A name that is not UTF-8 could not be shown or stored."""
    with pytest.raises(PushRefused):
        parse(f"{ZERO} {A} refs/heads/".encode() + b"\xff\n")


@pytest.mark.parametrize("ref", ["refs/heads/main", "refs/heads/fonction/été", "refs/tags/v1.0"])
def test_good_names_are_taken(ref: str) -> None:
    """Slashes, dots and letters of any script are fine."""
    assert parse(f"{ZERO} {A} {ref}\n".encode())[0].ref == ref


def test_too_many_refs_are_refused() -> None:
    """A push of ten thousand branches changes nothing."""
    raw = "".join(f"{ZERO} {A} refs/heads/b{n}\n" for n in range(10_000)).encode()
    with pytest.raises(PushRefused, match="brings 10000 branches"):
        parse(raw)


def test_the_first_pushed_branch_is_deployed() -> None:
    """It becomes the deploy branch; main and master win over others that come with them."""
    assert plan(pushed("refs/heads/trunk"), "hello", None).sets_branch == "trunk"
    assert plan(pushed("refs/heads/a", "refs/heads/main"), "hello", None).sets_branch == "main"
    assert plan(pushed("refs/heads/a", "refs/heads/master"), "hello", None).sets_branch == "master"
    both = pushed("refs/heads/master", "refs/heads/main")
    assert plan(both, "hello", None).sets_branch == "main"


def test_the_deploy_branch_stays() -> None:
    """A later push of it is deployed and sets nothing."""
    update = Update(A, B, "refs/heads/main")
    assert plan([update], "hello", "main") == Plan(update)


def test_another_branch_is_taken_with_a_word() -> None:
    """Nothing is deployed, and the line shows how it would be."""
    found = plan(pushed("refs/heads/feature"), "hello", "main")
    assert found.deploy is None
    assert "the deploy branch of hello is main" in found.notes[0]
    assert "git push shipway feature:main" in found.notes[1]


def test_tags_are_taken_silently() -> None:
    """A tag is no deploy, and sets no deploy branch."""
    assert plan(pushed("refs/tags/v1"), "hello", None) == Plan(None)


def test_the_deploy_branch_cannot_be_deleted() -> None:
    """Any other can."""
    with pytest.raises(PushRefused, match="main is the deploy branch of hello"):
        plan([Update(A, None, "refs/heads/main")], "hello", "main")
    assert plan([Update(A, None, "refs/heads/x")], "hello", "main") == Plan(None)
