"""What a program in a container cannot do to the host or to its neighbours."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from enginelab import IMAGE, Lab, eventually, open_lab
from shipway.runtime.oci.seccomp import EAFNOSUPPORT, ENOSYS, EPERM

ROOT = {"user": "0:0", "capabilities": frozenset({"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_SETUID"})}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One engine for all tests of this file."""
    with open_lab(__name__) as lab:
        yield lab


def status(text: str) -> dict[str, str]:
    """/proc/<pid>/status as a mapping."""
    return {key: value.strip() for key, _, value in (s.partition(":") for s in text.splitlines())}


def test_a_program_has_no_privileges(lab: Lab) -> None:
    """By default: user 1000, no capability of any kind, no_new_privs, a system call filter."""
    found = status(lab.execute("cat", "/proc/self/status")[1])
    assert (found["Uid"].split(), found["Gid"].split()) == (["1000"] * 4, ["1000"] * 4)
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(found[kind], 16) == 0
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")


def test_an_additional_program_has_no_privileges_either(lab: Lab) -> None:
    """What execute_in starts is as confined as the container's own program."""
    lab.run("host", "sleep", "60")
    chunks: list[bytes] = []
    lab.engine.execute_in("host", ("cat", "/proc/self/status"), output=chunks.append)
    found = status(b"".join(chunks).decode())
    assert (int(found["CapBnd"], 16), found["NoNewPrivs"], found["Seccomp"]) == (0, "1", "2")
    chunks.clear()
    lab.engine.execute_in("host", ("unshare", "-U", "true"), output=chunks.append)
    assert b"Operation not permitted" in b"".join(chunks)
    lab.engine.remove("host")


def test_root_inside_is_nobody_outside(lab: Lab) -> None:
    """The container's root is the first id of its range on the host, with what was granted."""
    lab.engine.run(lab.spec("root", "sleep", "60", **ROOT))
    pid = lab.engine.get("root").pid
    eventually(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n")
    found = status(Path(f"/proc/{pid}/status").read_text())
    assert found["Uid"].split() == ["300000"] * 4
    assert int(found["CapEff"], 16) == int(found["CapBnd"], 16) == (1 << 0 | 1 << 1 | 1 << 7)
    lab.engine.remove("root")


def test_every_namespace_is_the_containers_own(lab: Lab) -> None:
    """A container shares no namespace with the host, nor with another container."""
    kinds = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
    for name in ("one", "two"):
        lab.run(name, "sleep", "60")
    pids = [os.getpid(), lab.engine.get("one").pid, lab.engine.get("two").pid]
    for kind in kinds:
        assert len({os.readlink(f"/proc/{pid}/ns/{kind}") for pid in pids}) == 3, kind
    for name in ("one", "two"):
        lab.engine.remove(name)


CALLS = """
    import ctypes, errno, json, os, platform
    libc = ctypes.CDLL(None, use_errno=True)
    numbers = {"mount": 165, "umount2": 166, "pivot_root": 155, "unshare": 272, "setns": 308,
        "ptrace": 101, "keyctl": 250, "add_key": 248, "request_key": 249, "bpf": 321,
        "perf_event_open": 298, "userfaultfd": 323, "io_uring_setup": 425, "clone3": 435,
        "open_tree": 428, "move_mount": 429, "fsopen": 430, "mount_setattr": 442, "kexec_load": 246,
        "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_getfd": 438, "kcmp": 312,
        "open_by_handle_at": 304, "reboot": 169, "sethostname": 170, "syslog": 103,
        "init_module": 175, "swapon": 167, "acct": 163, "quotactl": 179, "iopl": 172,
        "settimeofday": 164, "mbind": 237, "move_pages": 279, "vhangup": 153, "not_yet_made": 999}
    def call(number, *args):
        ctypes.set_errno(0)
        result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) for a in args))
        return ctypes.get_errno() if result == -1 else 0
    found = {name: call(number, 0, 0, 0, 0, 0) for name, number in numbers.items()}
    for name, flag in {"newuser": 0x10000000, "newns": 0x20000, "newnet": 0x40000000,
            "newpid": 0x20000000, "newcgroup": 0x02000000, "newuts": 0x04000000,
            "newipc": 0x08000000}.items():
        found["clone_" + name] = call(56, flag | 17, 0, 0, 0, 0)
    for family in range(1, 47):
        found[f"socket_{family}"] = call(41, family, 3 if family in (16, 17) else 1, 0)
    found["personality"] = call(135, 0x0040000)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    import threading
    thread = threading.Thread(target=print, args=("",)); thread.start(); thread.join()
    print(json.dumps(found))
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are x86_64's")
@pytest.mark.parametrize("user", [{}, ROOT], ids=["user", "root"])
def test_dangerous_system_calls_are_refused(lab: Lab, user: dict[str, object]) -> None:
    """Namespaces, mounts, keys, tracing, bpf, io_uring, odd sockets: none, not even for root."""
    found = json.loads(lab.python(CALLS, **user).splitlines()[-1])
    families = {name: found.pop(name) for name in list(found) if name.startswith("socket_")}
    missing = {"clone3", "not_yet_made", "personality"} | {
        n for n in found if n.startswith("clone_")
    }
    for name in missing:
        assert found.pop(name) == ENOSYS, name
    assert set(found.values()) == {EPERM}, found
    allowed = {name for name, number in families.items() if number != EAFNOSUPPORT}
    assert allowed == {"socket_1", "socket_2", "socket_10", "socket_16"}


@pytest.mark.parametrize(
    "path",
    [
        "/proc/sys/kernel/core_pattern",
        "/proc/sys/vm/overcommit_memory",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/mm/transparent_hugepage/enabled",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/release_agent",
        "/sys/fs/cgroup/cgroup.procs",
    ],
)
@pytest.mark.parametrize("user", [{}, ROOT], ids=["user", "root"])
def test_the_kernels_switches_cannot_be_thrown(
    lab: Lab, path: str, user: dict[str, object]
) -> None:
    """Kernel settings, control groups and raw devices cannot be written, not even by root."""
    ended, text = lab.execute("sh", "-c", f"echo 1 > {path}", **user)
    assert ended.code != 0, text


@pytest.mark.parametrize("path", ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"])
def test_what_tells_of_the_host_is_masked(lab: Lab, path: str) -> None:
    """Masked files are empty and masked folders have nothing in them."""
    ended, text = lab.execute(
        "sh", "-c", f"if [ -d {path} ]; then ls -A {path}; else cat {path}; fi"
    )
    assert text == "" or "Permission denied" in text or "No such file" in text
    assert ended.code in (0, 1)


def test_no_descriptor_of_the_host_is_inherited(lab: Lab) -> None:
    """A program finds descriptors 0, 1 and 2 and no other, and no variable of ours."""
    code = """
        import json, os
        print(json.dumps([os.listdir("/proc/self/fd"), list(os.environ)]))
    """
    descriptors, names = json.loads(lab.python(code, env={"A": "1"}))
    # The fourth is the folder being listed.
    assert sorted(descriptors) == ["0", "1", "2", "3"]
    image_env = lab.engine.images.get(IMAGE).config.env
    assert set(names) - {"HOME", "LC_CTYPE"} == {"A", "PATH", *image_env} - {"HOME", "LC_CTYPE"}


def test_devices_cannot_be_made_nor_host_devices_changed(lab: Lab) -> None:
    """mknod is refused to root, and the host's devices keep their owners."""
    before = {name: os.stat(f"/dev/{name}") for name in ("null", "zero", "tty", "urandom")}
    script = "mknod /tmp/sda b 8 0; chown 0:0 /dev/zero; chmod 600 /dev/zero /dev/null; ls /dev"
    _, text = lab.execute("sh", "-c", script, **ROOT)
    assert "mknod: /tmp/sda: Operation not permitted" in text
    assert set(text.split()) >= {"null", "zero", "full", "random", "urandom", "tty", "shm", "pts"}
    assert not set(text.split()) & {"sda", "vda", "mem", "kmsg", "fuse", "kvm", "loop0"}
    for name, stat in before.items():
        now = os.stat(f"/dev/{name}")
        assert (now.st_uid, now.st_gid, now.st_mode) == (stat.st_uid, stat.st_gid, stat.st_mode)


def test_a_set_uid_program_gives_nothing(lab: Lab) -> None:
    """su and other set-uid programs of an image run with the user's own rights."""
    script = (
        "cp /usr/bin/id /tmp/id; chmod 4755 /tmp/id; su -c id; find / -xdev -perm -4000 | head -1"
    )
    _, text = lab.execute("sh", "-c", script)
    assert "uid=0" not in text
    code = "import os; os.setuid(0)"
    assert "PermissionError" in lab.execute("python3", "-c", code)[1]


def test_ownership_inside_is_normal(lab: Lab) -> None:
    """Files of the image belong to root, and the app's user cannot change them."""
    _, text = lab.execute("sh", "-c", "stat -c %u:%g /usr/bin/env /etc /; echo x >/etc/passwd")
    assert text.startswith("0:0\n0:0\n0:0\n")
    assert "Permission denied" in text


def test_a_working_directory_is_not_a_way_out(lab: Lab) -> None:
    """The container's own limits and id show inside; the host's processes do not."""
    _, text = lab.execute(
        "sh", "-c", "ls /proc | grep -c '^[0-9]'; cat /proc/self/cgroup; hostname"
    )
    assert int(text.split()[0]) < 6
    assert "shipway" not in text
    assert text.split()[-1] == "foreground"


def test_the_clock_of_the_neighbours_goes_on(lab: Lab) -> None:
    """A fork bomb and a memory hog within limits do not slow a neighbour's small work unduly."""
    from shipway.runtime.spec import Limits

    limits = Limits(memory=64 * 1024 * 1024, pids=30, cpus=0.5)
    lab.run("bomb", "sh", "-c", "b() { b | b & }; b; sleep 60", limits=limits)
    started = time.monotonic()
    assert lab.execute("python3", "-c", "print(sum(range(10**6)))")[0].code == 0
    assert time.monotonic() - started < 5
    lab.engine.remove("bomb")
    assert lab.leftovers() == {}


@pytest.mark.parametrize("name", ["crun", "runc"])
def test_the_runtime_takes_our_sealed_copy_for_its_own(name: str) -> None:
    """Init, before it is the container's program, runs from the copy that nobody can write to."""
    with open_lab(f"sealed-{name}", runtime=name) as lab:
        lab.engine.create(lab.spec("sealed", "true"))
        same: list[bool] = []

        def look() -> None:
            pid = lab.engine.files("sealed").init_pid.read_text()
            same.append(Path(f"/proc/{pid}/exe").samefile(lab.engine._tools.runtime.program))

        lab.engine.start("sealed", look)
        assert same == [True]
        lab.engine.wait("sealed")
        lab.engine.remove("sealed")
        assert lab.leftovers() == {}


STARTER = """
import os, sys
from pathlib import Path
from shipway.runtime.config import EngineConfig
from shipway.runtime.engine import Engine
from shipway.runtime.spec import ContainerSpec, IdRange

group, config, image = sys.argv[1:]
Path(group, "cgroup.procs").write_text(str(os.getpid()))
before = Path("/proc/self/cgroup").read_text()
engine = Engine(EngineConfig(**eval(config)))
engine.run(ContainerSpec("born", image, ("sleep", "60"), {}, IdRange(300000)))
assert Path("/proc/self/cgroup").read_text() == before
"""


def test_a_monitor_is_not_within_the_limits_of_who_starts_it(lab: Lab) -> None:
    """It is among the monitors, and the starter's own control group can be deleted after its end."""
    tools = lab.engine._tools
    [memory] = [each for each in tools.cgroups.hierarchies if "memory" in each.controllers]
    group = memory.mount / f"{lab.config.bridge}-starter"
    group.mkdir()
    try:
        config = repr(vars(lab.config)).replace("PosixPath", "Path")
        argv = [sys.executable, "-c", STARTER, str(group), config, IMAGE]
        subprocess.run(argv, check=True, timeout=60)
        monitor = lab.engine._observer.monitor_pid(lab.engine.files("born"))
        groups = Path(f"/proc/{monitor}/cgroup").read_text().splitlines()
        assert f"/{tools.cgroups.parent}/monitors" in [line.split(":", 2)[2] for line in groups]
        assert (group / "cgroup.procs").read_text() == ""
    finally:
        lab.engine.remove("born")
        group.rmdir()
