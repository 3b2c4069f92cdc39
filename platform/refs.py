"""What one push asks for, and what is made of it: pure rules, no git and no database."""

import re
from dataclasses import dataclass, field

from shipway.platform.errors import ShipwayError
from shipway.platform.terminal import plain

HEADS = "refs/heads/"
TAGS = "refs/tags/"
ALWAYS_FIRST = ("main", "master")  # the deploy branch of a first push that brings several
MAX_UPDATES = 1000  # refs in one push
MAX_REF = 250  # bytes; a ref is a file name on disk
_HASH = re.compile(r"[0-9a-f]{40}")
# git check-ref-format(1), for the part behind refs/heads/ or refs/tags/
_BAD_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|(^|/)\.|\.lock(/|$)|[/.]$|^/|^-|^@$")


class PushRefused(ShipwayError):
    """The push as a whole is refused; nothing has changed."""


@dataclass(frozen=True)
class Update:
    """One line of a push: `ref` goes from `old` (None: it is new) to `new` (None: it is deleted)."""

    old: str | None
    new: str | None
    ref: str

    @property
    def branch(self) -> str | None:
        """The branch's short name; None for a tag."""
        return self.ref.removeprefix(HEADS) if self.ref.startswith(HEADS) else None


@dataclass(frozen=True)
class Plan:
    """What to do with a push: build `deploy` if there is one; `sets_branch`: it becomes the deploy branch."""

    deploy: Update | None
    sets_branch: str | None = None
    notes: list[str] = field(default_factory=list)


def parse(raw: bytes) -> list[Update]:
    """Read what git gives its pre-receive hook: `old new ref` lines. Raises PushRefused."""
    lines = raw.splitlines()
    if len(lines) > MAX_UPDATES:
        raise PushRefused(
            f"The push brings {len(lines)} branches and tags; at most {MAX_UPDATES} go at once."
        )
    return [_update(line) for line in lines]


def _update(line: bytes) -> Update:
    text = line.decode(errors="replace")
    old, _, rest = text.partition(" ")
    new, _, ref = rest.partition(" ")
    if not (_HASH.fullmatch(old) and _HASH.fullmatch(new)):
        raise PushRefused("The push holds a line that is not git's: use a stock git client.")
    prefix = next((p for p in (HEADS, TAGS) if ref.startswith(p)), None)
    if prefix is None:
        raise PushRefused(
            f"{plain(ref[:MAX_REF])} is neither a branch nor a tag: only those are taken."
        )
    name = ref.removeprefix(prefix)
    if not name or "\ufffd" in name or len(ref.encode()) > MAX_REF or _BAD_REF.search(name):
        raise PushRefused(f"{plain(ref[:MAX_REF])!r} is no valid name of a branch or tag.")
    return Update(_hash(old), _hash(new), ref)


def _hash(text: str) -> str | None:
    return text if text.strip("0") else None


def plan(updates: list[Update], app: str, deploy_branch: str | None) -> Plan:
    """Which update is deployed, by the app's deploy branch; unset, the push itself says it. Raises PushRefused."""
    branch = deploy_branch or _first_branch(updates)
    deploy = next((update for update in updates if update.ref == HEADS + str(branch)), None)
    if deploy and deploy.new is None:
        raise PushRefused(
            f"{branch} is the deploy branch of {app} and cannot be deleted."
            f" To take the app down: shipway ps:scale web=0, or shipway apps:destroy {app}."
        )
    others = [u.branch for u in updates if u.branch and u.new and u is not deploy]
    notes = [note for other in others for note in _not_deployed(other, app, str(branch))]
    return Plan(deploy, branch if deploy and not deploy_branch else None, notes)


def _first_branch(updates: list[Update]) -> str | None:
    pushed = [update.branch for update in updates if update.branch and update.new]
    return next((name for name in ALWAYS_FIRST if name in pushed), pushed[0] if pushed else None)


def _not_deployed(branch: str, app: str, deploy_branch: str) -> list[str]:
    return [
        f"-----> WARNING: {branch} was not deployed: the deploy branch of {app} is {deploy_branch}.",
        f"       To deploy it: git push shipway {branch}:{deploy_branch}",
    ]
