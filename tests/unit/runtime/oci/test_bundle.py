"""The OCI configuration made of a specification."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from shipway.runtime.oci import bundle
from shipway.runtime.spec import ContainerSpec, IdRange, Limits, Mount

HOST = bundle.Host(rootfs=Path("/r"), cgroup="/shipway/containers/web.1", nofile=20000)


def spec(**changes: Any) -> ContainerSpec:
    """The specification of a small container."""
    values = {"id": "web.1", "image": "i", "args": ("run",), "env": {}, "ids": IdRange(100000)}
    return ContainerSpec(**{**values, **changes})


def config(**changes: Any) -> dict[str, Any]:
    """The configuration of a small container."""
    return bundle.config(spec(**changes), HOST, [], {"LANG": "C", "A": "image"})


def test_a_process_starts_with_nothing() -> None:
    """No capability in any set, no new privileges, an unprivileged user, no core files."""
    process = config()["process"]
    assert set(map(tuple, process["capabilities"].values())) == {()}
    assert process["noNewPrivileges"] is True
    assert process["user"] == {"uid": 1000, "gid": 1000}
    assert {"type": "RLIMIT_CORE", "hard": 0, "soft": 0} in process["rlimits"]


def test_granted_capabilities_reach_an_unprivileged_user() -> None:
    """Only what was granted; ambient for a user, so that it survives the start of a program."""
    granted = config(capabilities=frozenset({"CAP_KILL"}))["process"]["capabilities"]
    assert granted["ambient"] == granted["bounding"] == granted["inheritable"] == ["CAP_KILL"]
    root = config(capabilities=frozenset({"CAP_KILL"}), user="0:0")["process"]["capabilities"]
    assert "ambient" not in root


def test_every_namespace_is_new_and_ids_are_mapped() -> None:
    """All seven kinds, and the container's ids onto its own range of the host's."""
    linux = config()["linux"]
    kinds = {"pid", "network", "ipc", "uts", "mount", "user", "cgroup"}
    assert {namespace["type"] for namespace in linux["namespaces"]} == kinds
    assert all(set(namespace) == {"type"} for namespace in linux["namespaces"])
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    assert linux["uidMappings"] == linux["gidMappings"] == mapping


def test_environment_is_the_specifications_over_the_images() -> None:
    """The image's variables are defaults, and there is always a PATH."""
    lines = config(env={"A": "mine"})["process"]["env"]
    assert set(lines) == {f"PATH={bundle.DEFAULT_PATH}", "LANG=C", "A=mine"}


def test_open_files_stay_below_the_hosts_hard_limit() -> None:
    """A wish above the hard limit is lowered to it."""
    for wish, granted in ((None, 20000), (100, 100), (10**6, 20000)):
        limits = config(limits=Limits(nofile=wish))["process"]["rlimits"]
        assert {"type": "RLIMIT_NOFILE", "hard": granted, "soft": granted} in limits


def test_protection_from_the_memory_killer_is_not_inherited() -> None:
    """An engine that the kernel spares starts ordinary processes; one that it ends early starts no better ones."""
    for own, given in ((-900, 0), (0, 0), (300, 300)):
        document = bundle.config(spec(), replace(HOST, oom_score_adj=own), [], {})
        assert document["process"]["oomScoreAdj"] == given


def test_limits_become_resources() -> None:
    """Swap counts within memory, and CPUs become a quota of the period."""
    found = bundle.resources(Limits(memory=2**26, cpu_shares=100, cpus=0.5, pids=7))
    assert found["memory"] == {"limit": 2**26, "swap": 2**26}
    assert found["cpu"] == {"shares": 100, "quota": 50000, "period": 100000}
    assert found["pids"] == {"limit": 7}
    assert set(bundle.resources(Limits())) == {"devices"}


def test_devices_are_denied_first() -> None:
    """The list of devices begins with a refusal of all."""
    rules = config()["linux"]["resources"]["devices"]
    assert rules[0] == {"allow": False, "access": "rwm"}
    assert all(rule["type"] == "c" and "m" not in rule["access"] for rule in rules[1:])


def test_mounts_are_safe() -> None:
    """Nothing is mounted with set-uid programs or devices but /dev itself; sysfs is read-only."""
    mounts = config(mounts=(Mount("", "/data", kind="tmpfs", readonly=True),))["mounts"]
    by_target = {mount["destination"]: mount for mount in mounts}
    assert all("nosuid" in mount["options"] for mount in mounts)
    assert "ro" in by_target["/sys"]["options"]
    assert "ro" in by_target["/sys/fs/cgroup"]["options"]
    assert "ro" in by_target["/data"]["options"]
    assert "/tmp" not in by_target


def test_a_readonly_root_gets_a_tmp() -> None:
    """A read-only root has a tmpfs at /tmp, unless the caller mounts one there."""
    targets = [mount["destination"] for mount in config(readonly_root=True)["mounts"]]
    assert targets.count("/tmp") == 1
    own = (Mount("", "/tmp", kind="tmpfs"),)
    targets = [mount["destination"] for mount in config(readonly_root=True, mounts=own)["mounts"]]
    assert targets.count("/tmp") == 1


def test_a_container_without_a_host_name_gets_one_of_its_id() -> None:
    """Dots of an id become dashes."""
    assert config()["hostname"] == "web-1"
    assert config(hostname="shop")["hostname"] == "shop"


def test_ipv6_is_set_only_where_the_kernel_has_it() -> None:
    """A kernel without IPv6 is asked for none of its settings; else it is turned on or off."""

    def settings(ipv6: bundle.Ipv6) -> dict[str, str]:
        spec = ContainerSpec("web.1", "i", ("run",), {}, IdRange(100000))
        host = replace(HOST, ipv6=ipv6)
        found: dict[str, str] = bundle.config(spec, host, [], {})["linux"]["sysctl"]
        return {name: value for name, value in found.items() if ".ipv6." in name}

    assert settings("absent") == {}
    assert settings("off")["net.ipv6.conf.all.disable_ipv6"] == "1"
    assert settings("on")["net.ipv6.conf.all.disable_ipv6"] == "0"
    assert settings("on")["net.ipv6.conf.default.accept_ra"] == "0"
