"""The ways out of containers that were found in recent years, tried in real ones.

Each test names the wall it looks at. That it can fail was tried by taking that wall away.
"""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from enginelab import IDS, Lab, eventually, open_lab
from shipway.runtime.errors import InvalidSpec, RuntimeFailure, StartFailed
from shipway.runtime.kernel import mounts
from shipway.runtime.kernel.userns import user_namespace
from shipway.runtime.oci.seccomp import ENOSYS, EPERM
from shipway.runtime.spec import GRANTABLE_CAPABILITIES, Limits, Mount

# The mightiest there can be: root, with every capability that can be granted.
ROOT: dict[str, Any] = {"user": "0:0", "capabilities": GRANTABLE_CAPABILITIES}
DOCKER = json.loads((Path(__file__).parents[1] / "data/docker_seccomp.json").read_text())
CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")
X86 = pytest.mark.skipif(os.uname().machine != "x86_64", reason="the calls are x86_64's")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One engine for all tests of this file."""
    with open_lab(__name__) as lab:
        yield lab
        assert lab.leftovers() == {}


# A folder of the host that everybody may write to, as /tmp: tricks lead there too.
TRAP = Path(tempfile.gettempdir(), f"sw-trap-{os.getpid()}")


@pytest.fixture(autouse=True)
def _host_is_untouched() -> Iterator[None]:
    """Whatever a test tries, these of the host are as they were."""
    TRAP.mkdir()
    TRAP.chmod(0o777)
    watched = [Path("/etc/passwd"), Path("/etc/hosts"), Path("/etc/resolv.conf"), CORE_PATTERN]
    devices = [Path("/dev/null"), Path("/dev/console"), Path("/dev/zero")]

    def look() -> list[object]:
        states = [(p.lstat().st_mode, p.lstat().st_uid, p.lstat().st_rdev) for p in devices]
        return [
            *(path.read_bytes() for path in watched),
            *states,
            os.listdir("/"),
            os.listdir(TRAP),
        ]

    before = look()
    yield
    after = look()
    shutil.rmtree(TRAP)
    assert after == before


# -- system calls ----------------------------------------------------------------------------------

# Every number, in a child of its own, all arguments -1, which no call takes for something to do.
CALLS = """
    import ctypes, json, os, signal
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    # These end or stop who calls them, whatever is passed, or make a child that comes back too.
    left_out = {15: "rt_sigreturn", 34: "pause", 57: "fork", 58: "vfork", 60: "exit",
        231: "exit_group"}
    found = {}
    for number in sorted(set(range(600)) - set(left_out)):
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.dup2(writer, 100)
            signal.alarm(5)
            ctypes.set_errno(0)
            failed = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(-1),) * 6) == -1
            os.write(100, b"%d" % (ctypes.get_errno() if failed else 0))
            os._exit(0)
        os.close(writer)
        answer = os.read(reader, 10)
        os.close(reader)
        status = os.wait()[1]
        found[number] = int(answer) if answer else -os.WTERMSIG(status)
    print(json.dumps(found))
"""
# The kernel (6.11 and later) lets these past every filter; outside of a probe they do nothing.
PAST_ANY_FILTER = {"uretprobe": 335, "uprobe": 336}


@X86
@pytest.mark.parametrize("user", [{}, ROOT], ids=["user", "root"])
def test_every_system_call_that_docker_refuses_is_refused(lab: Lab, user: dict[str, Any]) -> None:
    """Of 600 numbers: none that Docker denies gets past the filter, and none at all is unknown."""
    found = {int(n): e for n, e in json.loads(lab.python(CALLS, **user)).items()}
    capabilities = user.get("capabilities", frozenset())
    names = {number: name for name, (number, _) in DOCKER["calls"].items()}
    passed = []
    for number, answer in found.items():
        verdict = DOCKER["calls"].get(names.get(number, ""), (number, "denied"))[1]
        allowed = verdict in ("allowed", "arguments") or verdict in capabilities
        if not allowed and number not in PAST_ANY_FILTER.values():
            if answer not in (EPERM, ENOSYS):
                passed.append((number, names.get(number), answer))
    assert passed == []
    # The test reaches the calls: those that are allowed were answered by the kernel itself.
    reached = [n for n, answer in found.items() if answer in (errno.EBADF, errno.EFAULT)]
    assert len(reached) > 100


@X86
@pytest.mark.parametrize(
    "code",
    [
        # mov eax, 20 (getpid of i386); int 0x80; ret
        "b814000000cd80c3",
        # mov eax, 0x40000027 (getpid of x32); syscall; ret
        "b827000040" + "0f05c3",
    ],
    ids=["i386", "x32"],
)
def test_calls_of_another_architecture_kill(lab: Lab, code: str) -> None:
    """The filter is of the machine's own calls; who calls by i386's or x32's numbers dies."""
    program = f"""
        import ctypes, mmap, os
        page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        page.write(bytes.fromhex("{code}"))
        call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
        if os.fork() == 0:
            call()
            os._exit(0)
        print(os.WTERMSIG(os.wait()[1]))
    """
    assert int(lab.python(program)) == signal.SIGSYS


# -- leaked descriptors and working directories ----------------------------------------------------


@pytest.mark.parametrize("cwd", ["/proc/self/fd/7", "/proc/self/cwd", "/proc/1/root", "/proc"])
def test_a_working_directory_in_proc_is_refused(lab: Lab, cwd: str) -> None:
    """CVE-2024-21626, asked for plainly: no working directory may lie in /proc."""
    with pytest.raises(InvalidSpec, match="below /proc"):
        lab.spec("x", "true", cwd=cwd)


LOOK_UP = 'pwd -P; cat "$PWD/../../../../../../../../../etc/hostname"; ls -di . /'


@pytest.mark.parametrize("number", range(3, 12))
def test_a_working_directory_is_never_the_hosts(lab: Lab, number: int) -> None:
    """CVE-2024-21626, through a symlink of the image to a descriptor of the runtime."""

    def change(tree: Path) -> None:
        (tree / "work").symlink_to(f"/proc/self/fd/{number}")

    image = lab.image(f"test/cwd:{number}", change)
    try:
        ended, text = lab.execute("sh", "-c", LOOK_UP, image=image, cwd="/work", **ROOT)
    except StartFailed:
        return
    # It came to run: then in a folder of its own.
    host = Path("/etc/hostname").read_text()
    assert ended.code != 0 or host not in text, text


def test_an_additional_program_does_not_start_in_a_descriptor_either(lab: Lab) -> None:
    """CVE-2024-21626 at exec: the folder that was checked is swapped for a symlink afterwards."""
    lab.image("test/exec-cwd", lambda tree: (tree / "work").mkdir())
    spec = lab.spec("swap", "sleep", "60", image="test/exec-cwd", cwd="/work", **ROOT)
    lab.engine.run(spec)
    host = Path("/etc/hostname").read_text()
    script = "cd /; rm -rf /work; ln -s /proc/self/fd/{} /work"
    for number in range(3, 12):
        enter = ("nsenter", "-t", str(lab.engine.get("swap").pid), "-U", "-m", "-r", "-w")
        subprocess.run([*enter, "sh", "-c", script.format(number)], check=True)
        chunks: list[bytes] = []
        ended = lab.engine.execute_in("swap", ("sh", "-c", LOOK_UP), output=chunks.append)
        assert ended.code != 0 or host not in b"".join(chunks).decode()
    lab.engine.remove("swap")


def test_no_descriptor_of_the_caller_reaches_a_container(lab: Lab) -> None:
    """Not even one that the caller left inheritable: at start and at exec only 0, 1 and 2 are open."""
    fd = os.open("/etc", os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(fd, True)
    program = (
        "python3",
        "-c",
        'import os; print(sorted(map(int, os.listdir("/proc/self/fd"))), flush=True);'
        " import time; time.sleep(60)",
    )
    try:
        lab.run("fds", *program)
        assert eventually(lambda: lab.says("fds")) == ["[0, 1, 2, 3]"]
        chunks: list[bytes] = []
        once = (*program[:2], program[2].partition("; import time")[0])
        lab.engine.execute_in("fds", once, output=chunks.append)
        assert b"".join(chunks) == b"[0, 1, 2, 3]\n"  # the fourth is the folder being listed
    finally:
        os.close(fd)
        lab.engine.remove("fds")


def test_the_runtimes_own_file_cannot_be_written(lab: Lab) -> None:
    """CVE-2019-5736: a container that holds the runtime's /proc/<pid>/exe cannot open it to write."""
    runtime = lab.engine._tools.runtime.path
    before = hashlib.sha256(runtime.read_bytes()).hexdigest()
    hunter = """
        import os, sys, time
        caught = 0
        print("ready", flush=True)
        end = time.monotonic() + 20
        while caught < 3 and time.monotonic() < end:
            for pid in os.listdir("/proc"):
                if not pid.isdigit() or int(pid) in (1, os.getpid()):
                    continue
                try:
                    fd = os.open(f"/proc/{pid}/exe", os.O_PATH)
                except OSError:
                    continue
                name = os.readlink(f"/proc/self/fd/{fd}")
                if "sh" in name or "sleep" in name or "true" in name:
                    os.close(fd)
                    continue
                caught += 1
                for _ in range(200):
                    for way in (f"/proc/self/fd/{fd}", f"/proc/{pid}/exe"):
                        try:
                            os.close(os.open(way, os.O_WRONLY))
                            print("WRITABLE", name, flush=True)
                        except OSError:
                            pass
                    time.sleep(0.001)
                os.close(fd)
        print("caught", caught, flush=True)
    """
    lab.run("hunter", "python3", "-c", textwrap.dedent(hunter), **ROOT)
    eventually(lambda: lab.says("hunter"))

    def lure() -> bool:
        lab.engine.execute_in("hunter", ("true",))
        return any(line.startswith("caught") for line in lab.says("hunter"))

    for _ in range(60):
        if lure():
            break
    lab.engine.stop("hunter", 0)
    assert not [line for line in lab.says("hunter") if "WRITABLE" in line]
    lab.engine.remove("hunter")
    assert hashlib.sha256(runtime.read_bytes()).hexdigest() == before


def test_a_program_that_is_the_runtime_itself_does_not_overwrite_it(lab: Lab) -> None:
    """CVE-2019-5736's other form: an image whose program is a link to /proc/self/exe."""

    def change(tree: Path) -> None:
        (tree / "bin-run").symlink_to("/proc/self/exe")
        script = tree / "bin-script"
        script.write_text("#!/proc/self/exe\n")
        script.chmod(0o755)

    image = lab.image("test/exe", change)
    runtime = lab.engine._tools.runtime.path
    before = runtime.read_bytes()
    for program in ("/bin-run", "/bin-script", "/proc/self/exe"):
        try:
            ended, _ = lab.execute(program, "--version", image=image, **ROOT)
        except StartFailed:
            continue
        assert ended.code in (0, 1, 125, 126, 127, 255)
    assert runtime.read_bytes() == before


# -- masked paths, devices, /proc and /sys ---------------------------------------------------------


def trick(name: str) -> Callable[[Path], None]:
    """One of the images' tricks: what its layer holds."""

    def change(tree: Path) -> None:
        dev = tree / "dev"
        if name.endswith(("-up", "-folder")):
            # A runtime that follows the link needs the same folder inside for its mounts.
            (tree / str(TRAP)[1:]).mkdir(parents=True)
            (tree / str(TRAP)[1:]).chmod(0o777)
            (tree / "tmp").chmod(0o1777)
        if name == "dev-null":
            dev.mkdir()
            (dev / "null").symlink_to("/proc/sys/kernel/core_pattern")
            (dev / "console").symlink_to("/proc/sysrq-trigger")
            (dev / "ptmx").symlink_to("/proc/sys/kernel/core_pattern")
        elif name == "dev-null-up":
            dev.mkdir()
            (dev / "null").symlink_to("../" * 12 + "etc/passwd")
            (dev / "console").symlink_to("../" * 12 + "etc/passwd")
        elif name == "dev-is-proc":
            dev.symlink_to("/proc/sys/kernel")
        elif name == "dev-is-up":
            dev.symlink_to("../" * 12 + f"{TRAP.relative_to('/')}")
        elif name == "dev-is-a-hosts-folder":
            dev.symlink_to(TRAP)
        elif name == "dev-is-etc":
            dev.symlink_to("/etc")
        elif name == "dev-is-a-file":
            dev.write_text("")
        elif name == "proc-is-etc":
            (tree / "proc").symlink_to("/etc")
        elif name == "proc-is-up":
            (tree / "proc").symlink_to(TRAP)
        elif name == "sys-is-up":
            (tree / "sys").symlink_to("../" * 12 + f"{TRAP.relative_to('/')}")
        elif name == "etc-is-root":
            (tree / "etc").symlink_to("/")
        elif name == "etc-is-up":
            (tree / "etc").symlink_to("../" * 12 + "etc")
        elif name == "etc-files-are-links":
            (tree / "etc").mkdir()
            for each in ("hosts", "resolv.conf", "hostname"):
                (tree / "etc" / each).symlink_to("../" * 12 + f"etc/{each}")
        elif name == "etc-files-are-folders":
            for each in ("hosts", "resolv.conf", "hostname"):
                (tree / "etc" / each / "sub").mkdir(parents=True)
        elif name == "run-is-up":
            (tree / "run").symlink_to(TRAP)

    return change


TRICKS = [
    *("dev-null", "dev-null-up", "dev-is-proc", "dev-is-up", "dev-is-etc", "dev-is-a-file"),
    "dev-is-a-hosts-folder",
    *("proc-is-etc", "proc-is-up", "sys-is-up", "etc-is-root", "etc-is-up"),
    *("etc-files-are-links", "etc-files-are-folders", "run-is-up"),
]
ATTACK = """
    import json, os, stat
    def attempt(work):
        try:
            return work()
        except OSError as error:
            return error.errno
    def write(path):
        with open(path, "w") as file:
            file.write("x")
        return "written"
    def read(path):
        with open(path, "rb") as file:
            return len(file.read(64))
    def device(path):
        found = os.stat(path)
        return [stat.S_ISCHR(found.st_mode), os.major(found.st_rdev), os.minor(found.st_rdev)]
    print(json.dumps({
        "core": attempt(lambda: write("/proc/sys/kernel/core_pattern")),
        "sysrq": attempt(lambda: write("/proc/sysrq-trigger")),
        "kcore": attempt(lambda: read("/proc/kcore")),
        "interrupts": attempt(lambda: read("/proc/interrupts")),
        "keys": attempt(lambda: read("/proc/keys")),
        "timers": attempt(lambda: read("/proc/timer_list")),
        "null": attempt(lambda: device("/dev/null")),
        "hosts": attempt(lambda: open("/etc/hosts").read()),
        "pid": os.getpid(),
    }))
"""


@pytest.mark.parametrize("name", TRICKS)
def test_no_image_tricks_the_runtime(lab: Lab, name: str) -> None:
    """CVE-2025-31133, -52565, -52881, 2026-41579: what an image has at /dev or /proc leads nowhere.

    The container is refused, or has its own, with all that is hidden hidden.
    """
    image = lab.image(f"test/{name}", trick(name))
    try:
        text = lab.python(ATTACK, image=image, secrets={"s": b"x"}, **ROOT)
    except StartFailed:
        return
    found = json.loads(text)
    for path in ("core", "sysrq"):
        assert found[path] in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT), found
    for path in ("kcore", "keys", "timers", "interrupts"):
        assert found[path] in (0, errno.EACCES, errno.EPERM, errno.ENOENT), found
    assert found["null"] == [True, 1, 3], found
    if name.startswith("etc"):
        assert "foreground" in found["hosts"]  # the container's own, not the host's


def test_those_tricks_do_not_all_end_in_a_refusal(lab: Lab) -> None:
    """Images with an odd /etc or /dev/null just run: the walls are not that all is refused."""
    for name in ("dev-null", "etc-is-root", "etc-files-are-links", "etc-files-are-folders"):
        image = lab.image(f"test/{name}", trick(name))
        assert lab.execute("true", image=image)[0].code == 0, name


def test_everything_of_the_kernel_is_mounted_read_only(lab: Lab) -> None:
    """release_agent and its kin: sysfs, control groups and kernel settings, to the last mount."""
    text = lab.execute("cat", "/proc/self/mountinfo", **ROOT)[1]
    uppermost: dict[str, list[str]] = {}
    for line in text.splitlines():
        words = line.split()
        uppermost[words[4]] = [*words[5].split(","), words[words.index("-") + 1]]
    of_kernel = [target for target in uppermost if target.startswith(("/sys", "/proc/"))]
    assert any(target.startswith("/sys/fs/cgroup") for target in of_kernel)
    for target in of_kernel:
        assert "ro" in uppermost[target], (target, uppermost[target])
    # The rest: set-uid programs and devices only on the root file system.
    for target, options in uppermost.items():
        if options[-1] in ("proc", "tmpfs", "devpts", "mqueue") and target not in of_kernel:
            assert "nosuid" in options or "ro" in options, (target, options)


def test_the_kernels_levers_do_not_move(lab: Lab) -> None:
    """release_agent, core_pattern, sysrq, modprobe, uevent_helper, devices.allow: none for root."""
    code = """
        import glob, json, os
        paths = ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger",
            "/proc/sys/kernel/modprobe", "/proc/sys/kernel/hotplug", "/sys/kernel/uevent_helper",
            "/proc/sys/vm/drop_caches", "/proc/sys/kernel/ns_last_pid", "/proc/sys/kernel/hostname",
            "/proc/sys/fs/binfmt_misc/register", "/proc/self/oom_score_adj_no",
            *glob.glob("/sys/fs/cgroup/**/release_agent", recursive=True),
            *glob.glob("/sys/fs/cgroup/**/*.allow", recursive=True),
            *glob.glob("/sys/fs/cgroup/**/*limit_in_bytes", recursive=True),
            *glob.glob("/sys/fs/cgroup/**/*.max", recursive=True),
            *glob.glob("/sys/fs/cgroup/**/cgroup.procs", recursive=True),
            *glob.glob("/sys/fs/cgroup/**/notify_on_release", recursive=True)]
        opened = []
        for path in paths:
            try:
                os.close(os.open(path, os.O_WRONLY))
                opened.append(path)
            except OSError:
                pass
        made = []
        for folder in ["/sys/fs/cgroup", *glob.glob("/sys/fs/cgroup/*/")]:
            try:
                os.mkdir(folder + "/own")
                made.append(folder)
            except OSError:
                pass
        print(json.dumps([len(paths), opened, made]))
    """
    count, opened, made = json.loads(lab.python(code, **ROOT))
    assert count > 10
    assert (opened, made) == ([], [])


# -- mounts and volumes ----------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/proc", "/proc/self/attr", "/sys/fs/cgroup/x", "/sys"])
def test_nothing_is_mounted_over_the_kernels_own(lab: Lab, target: str) -> None:
    """CVE-2025-52881 and before: no volume speaks for /proc or /sys while a container is set up."""
    with pytest.raises(InvalidSpec, match="/proc or /sys"):
        Mount("/tmp", target)


def test_a_mount_target_that_is_a_symlink_stays_inside(lab: Lab) -> None:
    """A volume's target that the image made a link to the host's /etc lies in the container."""

    def change(tree: Path) -> None:
        (tree / "data").symlink_to("../" * 12 + f"{TRAP.relative_to('/')}/made")
        (tree / "deep").symlink_to(f"/proc/1/root{TRAP}/made")

    image = lab.image("test/targets", change)
    volume = lab.folder / "volume"
    volume.mkdir(exist_ok=True)
    (volume / "marker").write_text("mine")
    for target in ("/data", "/deep"):
        volumes = (Mount(str(volume), target),)
        try:
            lab.execute("touch", f"{target}/made", image=image, mounts=volumes, **ROOT)
        except StartFailed:
            continue
        assert os.listdir(TRAP) == []


def test_a_mount_source_that_is_a_symlink_is_refused(lab: Lab) -> None:
    """A volume's folder that somebody has swapped for a link is not followed, nor left in doubt."""
    link = lab.folder / "link"
    link.symlink_to("/etc")
    with pytest.raises(InvalidSpec, match="is a symlink; name the folder"):
        lab.execute("true", mounts=(Mount(str(link), "/data"),))
    link.unlink()


def test_a_link_is_never_mounted_itself(lab: Lab) -> None:
    """Mounted on a file a link would lead whoever walks there: it is refused once it is in hand."""
    link = lab.folder / "swapped"
    link.symlink_to("/etc")

    def mount() -> None:
        mounts.mount_private_tmpfs()
        for name in ("file", "new"):
            target = mounts.MOUNT_POINT / name
            if name == "file":
                target.touch()
            with pytest.raises(InvalidSpec, match="is a symlink"):
                mounts.bind_idmapped(link, target, user_namespace(IDS), readonly=False)

    mounts.in_own_mount_namespace(mount)
    link.unlink()


def test_a_mount_source_swapped_during_the_start_leads_nowhere(lab: Lab) -> None:
    """One container swaps its volume's subfolder for a link to / while another one starts with it."""
    shared = lab.folder / "shared"
    (shared / "sub").mkdir(parents=True)
    (shared / "away").symlink_to("/etc")
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():  # exchanges the two names, at once and over and over
            os.rename(shared / "sub", shared / "tmp")
            os.rename(shared / "away", shared / "sub")
            os.rename(shared / "tmp", shared / "away")

    thread = threading.Thread(target=swap)
    thread.start()
    results = []
    try:
        for _ in range(25):
            volumes = (Mount(str(shared / "sub"), "/data"),)
            try:
                results.append(lab.execute("ls", "-A", "/data", mounts=volumes, **ROOT)[1])
            except RuntimeFailure as error:
                results.append(f"refused: {error}")
    finally:
        done.set()
        thread.join()
    assert [text for text in results if text and not text.startswith("refused")] == []
    assert any(text.startswith("refused") for text in results)


def test_a_read_only_root_stays_so(lab: Lab) -> None:
    """Nothing outside of the file systems in memory can be written, nor made writable again."""
    script = """
        for path in / /etc /usr /var /home /root; do touch $path/x 2>/dev/null && echo WRITABLE $path; done
        mount -o remount,rw / 2>/dev/null && echo REMOUNTED
        touch /tmp/x /dev/shm/x && echo memory
    """
    _, text = lab.execute("sh", "-c", script, readonly_root=True, **ROOT)
    assert text.split() == ["memory"]


def test_devices_are_the_standard_ones(lab: Lab) -> None:
    """/dev has Docker's devices and no other, and no node can be made that opens another."""
    code = """
        import json, os, stat
        found = {}
        for folder, _, names in os.walk("/dev"):
            for name in names:
                path = f"{folder}/{name}"
                status = os.lstat(path)
                if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                    found[path] = [os.major(status.st_rdev), os.minor(status.st_rdev)]
        made = []
        for kind in (stat.S_IFCHR, stat.S_IFBLK):
            for major, minor in ((1, 1), (1, 3), (8, 0), (7, 0), (10, 237), (254, 0), (5, 1)):
                try:
                    os.mknod("/tmp/node", kind | 0o666, os.makedev(major, minor))
                    made.append([major, minor])
                except OSError:
                    pass
        print(json.dumps([found, made]))
    """
    found, made = json.loads(lab.python(code, **ROOT))
    allowed = {"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx"}
    assert {path for path in found if not path.startswith("/dev/pts/")} <= {
        f"/dev/{name}" for name in allowed
    }
    assert made == []


# -- taking what others need -----------------------------------------------------------------------


def test_a_fork_bomb_stays_within_its_limit(lab: Lab) -> None:
    """At most so many processes, and a neighbour goes on forking."""
    limits = Limits(pids=40, cpus=0.3, memory=128 * 2**20)
    lab.run(
        "bomb",
        "sh",
        "-c",
        "b() { b | b & }; while :; do b 2>/dev/null; sleep 1; done",
        limits=limits,
    )
    try:
        eventually(lambda: lab.engine.stats(["bomb"])["bomb"].pids > 30)
        for _ in range(3):
            assert (
                lab.execute("sh", "-c", "for i in 1 2 3 4 5; do /bin/true || exit 1; done")[0].code
                == 0
            )
            assert lab.engine.stats(["bomb"])["bomb"].pids <= 40
    finally:
        lab.engine.remove("bomb")


def test_a_memory_bomb_ends_itself_only(lab: Lab) -> None:
    """The kernel ends who takes more than it may, in whatever form; the neighbour lives."""
    lab.run("neighbour", "sleep", "60")
    limits = Limits(memory=48 * 2**20)
    forms = {
        "memory": "x = [bytearray(2**20) for _ in range(1000)]",
        "shm": 'f = open("/dev/shm/x", "wb")\nfor _ in range(60): f.write(bytes(2**20)); f.flush()',
    }
    for name, code in forms.items():
        ended, text = lab.execute("python3", "-c", code, limits=limits)
        assert (ended.code, ended.oom) == (137, True), (name, text)
    assert lab.engine.get("neighbour").state == "running"
    lab.engine.remove("neighbour")


def test_memory_file_systems_are_full_before_the_machine_is(lab: Lab) -> None:
    """/dev/shm takes 64 MiB and 65,536 files, and /dev as little; then there is no space."""
    code = """
        import errno, json, os
        def fill(folder):
            size = 0
            try:
                with open(f"{folder}/big", "wb", buffering=0) as file:
                    for _ in range(4096):
                        size += file.write(bytes(2**20))
            except OSError as error:
                os.unlink(f"{folder}/big")
                return [error.errno, size >> 20]
            return [0, size >> 20]
        def inodes(folder):
            os.mkdir(f"{folder}/many")
            for number in range(70000):
                try:
                    os.symlink("x", f"{folder}/many/{number}")
                except OSError as error:
                    return [error.errno, number > 60000]
            return [0, True]
        print(json.dumps([fill("/dev/shm"), fill("/dev"), fill("/tmp"), inodes("/dev/shm")]))
    """
    shm, dev, tmp, many = json.loads(lab.python(code, readonly_root=True, **ROOT))
    assert shm == [errno.ENOSPC, 64]
    assert dev == [errno.ENOSPC, 64]
    assert tmp == [errno.ENOSPC, 256]
    assert many == [errno.ENOSPC, True]


def test_terminals_are_counted(lab: Lab) -> None:
    """One container cannot take the machine's terminals."""
    code = """
        import os
        opened = 0
        try:
            for _ in range(4096):
                os.openpty()
                opened += 1
        except OSError:
            pass
        print(opened)
    """
    assert 0 < int(lab.python(code)) <= 256
