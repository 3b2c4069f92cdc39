"""The system call filter, from `seccomp.json`, as the OCI runtime wants it."""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

# Only the machine's own calls: 32-bit ones have multiplexers (socketcall, ipc) that arguments
# cannot be filtered of. The runtime's filter library kills who calls by another architecture.
ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
EPERM = 1
ENOSYS = 38
EAFNOSUPPORT = 97
# clone() may make processes and threads, but no namespace of any kind.
NAMESPACE_FLAGS = 0x7E020000
NEW_USER = 0x10000000
# What a tool that makes images calls beside all else; `clone` and `unshare` are looked into.
NESTING = ("mount", "umount2", "pivot_root", "sethostname", "setdomainname")


@cache
def profile(capabilities: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The OCI `linux.seccomp` object. Shared: the caller must not change it.

    What is on no list does not exist (ENOSYS), so that a C library newer than the filter library
    falls back to the older call, as it would on an older kernel.
    """
    lists = json.loads((Path(__file__).parent / "seccomp.json").read_text())
    allowed = sorted({name for names in lists["allowed"].values() for name in names})
    refused = sorted({name for names in lists["refused"].values() for name in names})
    for capability, names in lists["with_capability"].items():
        (allowed if capability in capabilities else refused).extend(names)
    rules: list[dict[str, Any]] = [
        {"names": allowed, "action": "SCMP_ACT_ALLOW"},
        {"names": refused, "action": "SCMP_ACT_ERRNO", "errnoRet": EPERM},
        {
            "names": ["clone"],
            "action": "SCMP_ACT_ALLOW",
            "args": [
                {"index": 0, "value": NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
            ],
        },
        *(_when_equal("personality", value) for value in lists["personalities"]),
        *_socket_rules(frozenset(lists["socket_families"].values())),
    ]
    document: dict[str, Any] = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": ENOSYS,
        "syscalls": rules,
    }
    architecture = ARCHITECTURES.get(os.uname().machine)
    return document | ({"architectures": [architecture]} if architecture else {})


@cache
def nesting_profile() -> dict[str, Any]:
    """The filter of a container in which images are made: mounts and namespaces, but none of users.

    Shared, as `profile`'s.
    """
    document = profile(frozenset({"CAP_SYS_CHROOT"}))
    rules = [
        rule
        | {"names": [name for name in rule["names"] if name not in (*NESTING, "clone", "unshare")]}
        for rule in document["syscalls"]
    ]
    no_users = {"index": 0, "value": NEW_USER, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
    return document | {
        "syscalls": [
            *(rule for rule in rules if rule["names"]),
            {"names": list(NESTING), "action": "SCMP_ACT_ALLOW"},
            {"names": ["clone", "unshare"], "action": "SCMP_ACT_ALLOW", "args": [no_users]},
        ]
    }


def _socket_rules(families: frozenset[int]) -> list[dict[str, Any]]:
    """Allow these address families; any other (AF_ALG, AF_VSOCK, AF_PACKET…) is "not supported"."""
    highest = max(families)
    refusal = {"action": "SCMP_ACT_ERRNO", "errnoRet": EAFNOSUPPORT}
    above = {"index": 0, "value": highest, "op": "SCMP_CMP_GT"}
    return [
        *(_when_equal("socket", family) for family in sorted(families)),
        *(
            _when_equal("socket", family) | refusal
            for family in range(highest)
            if family not in families
        ),
        {"names": ["socket"], **refusal, "args": [above]},
    ]


def _when_equal(name: str, value: int) -> dict[str, Any]:
    argument = {"index": 0, "value": value, "op": "SCMP_CMP_EQ"}
    return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": [argument]}
