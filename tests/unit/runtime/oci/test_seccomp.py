"""The system call filter's lists."""

import json
from pathlib import Path
from typing import Any

from shipway.runtime.oci import seccomp

LISTS = json.loads(Path(seccomp.__file__).with_name("seccomp.json").read_text())


def rules(name: str) -> list[dict[str, Any]]:
    """All rules for one call."""
    return [rule for rule in seccomp.profile()["syscalls"] if name in rule["names"]]


def test_no_call_is_on_both_lists() -> None:
    """A call is allowed or refused or unknown, and stands on its list once."""
    allowed = [name for names in LISTS["allowed"].values() for name in names]
    refused = [name for names in LISTS["refused"].values() for name in names]
    assert len(allowed) == len(set(allowed))
    assert len(refused) == len(set(refused))
    assert not set(allowed) & set(refused)
    assert not {"clone", "socket", "personality", "clone3"} & {*allowed, *refused}


def test_what_is_not_listed_does_not_exist() -> None:
    """Unknown calls and clone3 answer ENOSYS, so that programs fall back."""
    assert seccomp.profile()["defaultAction"] == "SCMP_ACT_ERRNO"
    assert seccomp.profile()["defaultErrnoRet"] == seccomp.ENOSYS
    assert rules("clone3") == []


def test_clone_makes_no_namespace() -> None:
    """The one rule for clone lets pass only calls with no namespace flag."""
    (rule,) = rules("clone")
    flags = 0x20000 | 0x2000000 | 0x4000000 | 0x8000000 | 0x10000000 | 0x20000000 | 0x40000000
    assert rule["args"] == [{"index": 0, "value": flags, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]


def test_every_socket_family_has_an_answer() -> None:
    """Four families are allowed; any other, below or above, is said to be unsupported."""
    answers = {}
    for rule in rules("socket"):
        (argument,) = rule["args"]
        if argument["op"] == "SCMP_CMP_EQ":
            answers[argument["value"]] = rule["action"]
        else:
            assert (argument["op"], argument["value"]) == ("SCMP_CMP_GT", 16)
            assert rule["errnoRet"] == seccomp.EAFNOSUPPORT
    assert set(answers) == set(range(17))
    allowed = {family for family, action in answers.items() if action == "SCMP_ACT_ALLOW"}
    assert allowed == {1, 2, 10, 16}


def test_nesting_lets_mounts_in_and_user_namespaces_not() -> None:
    """Who makes images may mount and make namespaces, but none of users; all else is as ever."""
    rules = seccomp.nesting_profile()["syscalls"]
    [mount] = [rule for rule in rules if "mount" in rule["names"]]
    assert mount["action"] == "SCMP_ACT_ALLOW"
    for name in ("clone", "unshare"):
        [rule] = [rule for rule in rules if name in rule["names"]]
        assert rule["args"][0]["value"] == seccomp.NEW_USER
    refused = {n for r in rules if r["action"] == "SCMP_ACT_ERRNO" for n in r["names"]}
    assert {"setns", "open_tree", "bpf", "keyctl", "ptrace"} <= refused
    plain = seccomp.profile()["syscalls"]
    assert not any("mount" in r["names"] for r in plain if r["action"] == "SCMP_ACT_ALLOW")
