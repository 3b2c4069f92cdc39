"""A Java or Kotlin app, built by Maven, Gradle or javac, with a runtime cut to size by jlink."""

import glob
import os
import re
import shutil
import zipfile
from collections.abc import Sequence

from shipway.buildpacks.java import truststore, version
from shipway.buildpacks.kit import debian, files, network, run, say, toml
from shipway.buildpacks.kit.context import Context
from shipway.buildpacks.kit.errors import CannotBuild
from shipway.buildpacks.kit.layer import Layer

RECIPE = "1"
WITHOUT = ("ca-certificates-java", "java-common", "default-jre*")
# What a server may need, found by reflection too; no compiler, no desktop tools.
MODULES = (
    "java.se",
    "jdk.charsets",
    "jdk.crypto.cryptoki",
    "jdk.crypto.ec",
    "jdk.httpserver",
    "jdk.jdwp.agent",
    "jdk.jfr",
    "jdk.localedata",
    "jdk.management",
    "jdk.management.agent",
    "jdk.naming.dns",
    "jdk.net",
    "jdk.unsupported",
    "jdk.zipfs",
)
# Read by the runtime itself, without a word in the log; a command line's own options win.
OPTIONS = "-XX:MaxRAMPercentage=70 -XX:+ExitOnOutOfMemoryError -Dfile.encoding=UTF-8"
STACK_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
BUILD_STORE = "/tmp/cacerts"
PATIENCE = "120"  # seconds for a wrapper to fetch its tool
GRADLE = ("build.gradle", "build.gradle.kts", "settings.gradle", "settings.gradle.kts")
_MAIN = re.compile(r"\bstatic\s+(?:final\s+)?void\s+main\s*\(")
_PACKAGE = re.compile(r"(?m)^\s*package\s+([\w.]+)\s*;")


def build(context: Context) -> None:
    """Make the layers `jdk` (build, cache), `jre` (launch, cache), and the app. Raises CannotBuild."""
    texts = {
        name: files.text(name, 65536) for name in files.there("system.properties", ".java-version")
    }
    wanted = version.asked(texts)
    number = version.choose(wanted, context.distro, context.stack)
    jdk, key = _install_jdk(context, number)
    _install_jre(context, jdk, key)
    source = f" for the {wanted[1]} that {wanted[0]} asks for" if wanted else ""
    say.step(f"Using Java {number}{source}")
    env = _environment(context, jdk)
    if files.there("pom.xml"):
        _maven(context, env)
        command = _jar_command(["target/*.jar", "*/target/*.jar"])
    elif files.there(*GRADLE):
        _gradle(context, env)
        command = _jar_command(["build/libs/*.jar", "*/build/libs/*.jar"])
    else:
        command = _javac(context, env)
    if command:
        process = {"type": "web", "command": ["bash", "-c", command], "default": True}
        toml.write(os.path.join(context.layers, "launch.toml"), {"processes": [process]})


def _install_jdk(context: Context, number: int) -> tuple[str, str]:
    """Have the JDK in its layer. Returns its home, and what it was made from."""
    names = [f"openjdk-{number}-jdk-headless"]
    layer = Layer(context, "jdk")
    made_from = debian.fingerprint(names, False, RECIPE)
    if not layer.made_from(made_from):
        say.step(f"Installing Java {number} from {context.stack}'s packages")
        debian.provide(context, layer, names, launch=False, without=WITHOUT)
        store = f"{_home(layer.path)}/lib/security/cacerts"
        if os.path.lexists(store):
            os.unlink(store)
        os.symlink(BUILD_STORE, store)
        layer.set_env({"JAVA_HOME": _home(layer.path)}, phase="build", action="override")
        layer.prepend_path(f"{_home(layer.path)}/bin", phase="build")
    layer.keep(made_from, build=True, cache=True)
    return _home(layer.path), made_from


def _home(folder: str) -> str:
    homes = [p for p in glob.glob(f"{folder}/usr/lib/jvm/java-*-openjdk-*") if os.path.isdir(p)]
    return min(path for path in homes if not os.path.islink(path))


def _install_jre(context: Context, jdk: str, key: str) -> None:
    """Have the runtime in its layer: what the JDK has of the modules above."""
    layer = Layer(context, "jre")
    made_from = files.fingerprint((STACK_CERTIFICATES,), key, RECIPE, *MODULES, OPTIONS)
    if not layer.made_from(made_from):
        say.step("Making the runtime using 'jlink'")
        layer.empty()
        modules = [name for name in MODULES if os.path.exists(f"{jdk}/jmods/{name}.jmod")]
        options = ("--strip-debug", "--no-man-pages", "--no-header-files", "--compress", "zip-6")
        if not os.path.exists(f"{jdk}/jmods/java.base.jmod") or _older(jdk):
            options = (*options[:-1], "2")
        arguments = ("--add-options", f" {OPTIONS}", "--add-modules", ",".join(modules))
        home = f"{layer.path}/java"
        env = {**context.env, "JAVA_HOME": jdk}
        done = run.run([f"{jdk}/bin/jlink", *options, *arguments, "--output", home], env)
        if done.code:
            raise CannotBuild("jlink could not make the runtime; it says above what is wrong.")
        shutil.rmtree(f"{home}/lib/security/cacerts", ignore_errors=True)
        _write_store(f"{home}/lib/security/cacerts", STACK_CERTIFICATES)
        layer.set_env({"JAVA_HOME": home, "LANG": "C.UTF-8", "MALLOC_ARENA_MAX": "2"})
        layer.prepend_path(f"{home}/bin", phase="launch")
    layer.keep(made_from, launch=True, cache=True)


def _older(jdk: str) -> bool:
    """Whether jlink knows compression by number only."""
    return re.search(r"java-(?:1[0-9]|20)-", os.path.basename(jdk)) is not None


def _write_store(path: str, bundle: str) -> None:
    if os.path.lexists(path):
        os.unlink(path)
    with open(bundle, encoding="utf-8", errors="replace") as file:
        store = truststore.from_pem(file.read())
    with open(path, "wb") as file:
        file.write(store)


def _environment(context: Context, jdk: str) -> dict[str, str]:
    """Java's settings within this build; the operator's certificates are trusted in it only."""
    _write_store(BUILD_STORE, context.env.get("SSL_CERT_FILE") or STACK_CERTIFICATES)
    cache = context.cached("java") or "/tmp/java"
    path = os.pathsep.join((f"{jdk}/bin", context.env["PATH"]))
    return {
        **context.env,
        "JAVA_HOME": jdk,
        "PATH": path,
        "MAVEN_USER_HOME": f"{cache}/m2",
        "GRADLE_USER_HOME": f"{cache}/gradle",
    }


def _maven(context: Context, env: dict[str, str]) -> None:
    program = _maven_program(context, env)
    goals = env.get("MAVEN_GOALS", "package").split()
    options = [
        "-B",
        "-ntp",
        "-DskipTests",
        f"-Dmaven.repo.local={env['MAVEN_USER_HOME']}/repository",
    ]
    options += [f"-Dmaven.wagon.http.{name}=15000" for name in ("connectionTimeout", "readTimeout")]
    options += ["-Dmaven.wagon.http.retryHandler.count=1", *env.get("MAVEN_OPTIONS", "").split()]
    if env.get("MAVEN_MIRROR"):
        options += ["--settings", _maven_settings(env["MAVEN_MIRROR"])]
    say.step(f"Building using '{os.path.basename(program[-1])} {' '.join(goals)}'")
    done = run.run([*program, *options, *goals], env)
    if done.code:
        advice = network.advice(done.output, ("MAVEN_MIRROR",))
        raise CannotBuild(*advice or ("The build failed; Maven says above what is wrong.",))


def _maven_program(context: Context, env: dict[str, str]) -> list[str]:
    """The app's wrapper if what it fetches can be had, else Debian's Maven."""
    if files.there("mvnw"):
        done = run.run(["timeout", PATIENCE, "sh", "./mvnw", "-v"], env, show=lambda _line: False)
        if done.code == 0:
            return ["sh", "./mvnw"]
        host = network.unreachable(done.output) or "what it fetches"
        say.step(f"mvnw cannot be used, as {host} could not be reached")
    layer = Layer(context, "maven")
    made_from = debian.fingerprint(["maven"], False, RECIPE)
    if not layer.made_from(made_from):
        say.step(f"Installing Maven from {context.stack}'s packages")
        without = ("openjdk-*", *WITHOUT)
        debian.provide(context, layer, ["maven"], launch=False, without=without)
    layer.keep(made_from, cache=True)
    return [f"{layer.path}/usr/share/maven/bin/mvn"]


def _maven_settings(mirror: str) -> str:
    from xml.sax.saxutils import escape

    path = "/tmp/maven-settings.xml"
    with open(path, "w", encoding="utf-8") as file:
        file.write(
            "<settings><mirrors><mirror><id>mirror</id><mirrorOf>*</mirrorOf>"
            f"<url>{escape(mirror)}</url></mirror></mirrors></settings>\n"
        )
    return path


def _gradle(context: Context, env: dict[str, str]) -> None:
    if not files.there("gradlew"):
        raise CannotBuild(
            "There is no gradlew, so nothing says which Gradle is meant.",
            "Run `gradle wrapper`, commit gradlew and gradle/wrapper, and push again.",
        )
    gradle = ("sh", "./gradlew")  # whether or not git kept that it is a program
    say.step("Fetching Gradle using './gradlew --version'")
    done = run.run(["timeout", PATIENCE, *gradle, "--version"], env, show=lambda _line: False)
    if done.code == 0:
        tasks = env.get("GRADLE_TASK", "assemble").split()
        say.step(f"Building using './gradlew {' '.join(tasks)}'")
        done = run.run([*gradle, "--no-daemon", "--console=plain", *tasks], env)
        if done.code == 0:
            return
    else:
        for line in done.lines[-10:]:
            say.detail(line)
    host = network.unreachable(done.output)
    if host is None:
        raise CannotBuild("The build failed; Gradle says above what is wrong.")
    raise CannotBuild(
        f"{host} could not be reached from the build.",
        "distributionUrl in gradle/wrapper/gradle-wrapper.properties names where Gradle is fetched,",
        "repositories in settings.gradle where the app's libraries are: name mirrors there.",
    )


def _jar_command(patterns: Sequence[str]) -> str | None:
    """How to start the one jar that says what its main class is."""
    found = [path for pattern in patterns for path in sorted(glob.glob(pattern))]
    runnable = [path for path in found if _is_runnable(path)]
    if len(runnable) != 1:
        names = ", ".join(runnable) or "none"
        say.detail(f"Jars with a main class: {names}. The Procfile says what to start.")
        return None
    say.detail(f"The web process is {runnable[0]}")
    return f"java -Dserver.port=$PORT $JAVA_OPTS -jar {runnable[0]}"


def _is_runnable(path: str) -> bool:
    name = os.path.basename(path)
    if name.startswith("original-") or name.endswith(
        ("-plain.jar", "-sources.jar", "-javadoc.jar")
    ):
        return False
    try:
        with zipfile.ZipFile(path) as jar:
            manifest = jar.read("META-INF/MANIFEST.MF").decode(errors="replace")
    except (OSError, KeyError, zipfile.BadZipFile):
        return False
    return "Main-Class:" in manifest


def _javac(context: Context, env: dict[str, str]) -> str | None:
    """Compile what is below src/, with the jars in lib/. Returns how to start it."""
    layer = Layer(context, "classes")
    layer.empty()
    target = f"{layer.path}/classes"
    sources = sorted(glob.glob("src/**/*.java", recursive=True))
    libraries = [os.path.abspath(path) for path in sorted(glob.glob("lib/*.jar"))]
    classpath = os.pathsep.join((target, *libraries))
    say.step(f"Compiling {len(sources)} files using 'javac'")
    options = ("-encoding", "UTF-8", "-d", target, "-cp", classpath)
    with open("/tmp/sources", "w", encoding="utf-8") as file:
        file.writelines(f'"{path}"\n' for path in sources)
    done = run.run(["javac", *options, "@/tmp/sources"], env)
    if done.code:
        raise CannotBuild("The app could not be compiled; javac says above what is wrong.")
    for root in ("src/main/resources", "resources"):
        if os.path.isdir(root):
            shutil.copytree(root, target, dirs_exist_ok=True)
    layer.set_env({"CLASSPATH": classpath})
    layer.keep(None, launch=True)
    main = env.get("MAIN_CLASS") or _main_class(sources)
    if main is None:
        say.detail("Not one class alone has a main method: the setting MAIN_CLASS or a Procfile")
        say.detail("says what to start.")
        return None
    return f"java $JAVA_OPTS {main}"


def _main_class(sources: Sequence[str]) -> str | None:
    found = []
    for path in sources:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
        if _MAIN.search(text):
            package = _PACKAGE.search(text)
            name = os.path.basename(path).removesuffix(".java")
            found.append(f"{package[1]}.{name}" if package else name)
    return found[0] if len(found) == 1 else None
