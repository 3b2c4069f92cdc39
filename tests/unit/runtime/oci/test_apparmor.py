"""AppArmor: told from the kernel's files. No kernel with it runs these tests, so these are all."""

from pathlib import Path

from shipway.runtime.oci import apparmor, bundle
from shipway.runtime.spec import ContainerSpec, IdRange


def test_the_kernel_says_whether_it_is_there(tmp_path: Path) -> None:
    """Only a Y is yes; no file is no."""
    flag = tmp_path / "enabled"
    assert not apparmor.is_enabled(flag)
    for text, answer in (("Y\n", True), ("N\n", False)):
        flag.write_text(text)
        assert apparmor.is_enabled(flag) is answer


def test_a_loaded_profile_is_not_loaded_again(tmp_path: Path) -> None:
    """The kernel's list is read by whole names."""
    listed = tmp_path / "profiles"
    listed.write_text("docker-default (enforce)\nshipway-0123 (enforce)\n")
    assert apparmor.is_loaded("shipway-0123", listed)
    assert not apparmor.is_loaded("shipway-012", listed)
    assert not apparmor.is_loaded("shipway-0123", tmp_path / "none")


def test_another_text_has_another_name() -> None:
    """An upgraded profile does not meet the old one's name."""
    assert apparmor.name_of("a") != apparmor.name_of("b")
    assert apparmor.name_of("a") == apparmor.name_of("a")


def test_the_profile_names_itself_and_refuses_the_known_ways_out() -> None:
    """Its braces match, its rules end in commas, and mounts and kernel settings are denied."""
    text = apparmor.TEXT.read_text()
    body = text[text.index("{") + 1 : text.rindex("}")]
    rules = [line.strip() for line in body.splitlines() if line.strip()]
    assert all(rule.endswith(",") for rule in rules)
    assert {"deny mount,", "deny umount,", "deny pivot_root,"} <= set(rules)
    for path in ("/proc/sys/** wklx", "/sys/** wklx"):
        assert f"deny {path}," in rules
    assert "sysrq-trigger" in text
    assert "profile NAME " in text


def test_only_a_host_with_a_profile_confines_by_one() -> None:
    """Runtimes refuse a container with a profile where the kernel has none."""
    spec = ContainerSpec(id="web", image="i", args=("run",), env={}, ids=IdRange(100000))
    without = bundle.config(spec, bundle.Host(Path("/r"), "/c", 1024), [], {})
    assert "apparmorProfile" not in without["process"]
    host = bundle.Host(Path("/r"), "/c", 1024, apparmor="shipway-0123")
    assert bundle.config(spec, host, [], {})["process"]["apparmorProfile"] == "shipway-0123"
