"""The Java buildpack: plain sources, what Maven and Gradle's wrapper make, registries that are silent."""

import pytest

from buildlab import BUILD_CACHE, Builder, answer
from shipway.buildpacks.build import BuildResult

MAIN = """package org.example;

import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.security.KeyStore;
import javax.net.ssl.TrustManagerFactory;
import javax.net.ssl.X509TrustManager;

public class Main {
    public static void main(String[] args) throws Exception {
        TrustManagerFactory trust = TrustManagerFactory.getInstance("PKIX");
        trust.init((KeyStore) null);
        int count = ((X509TrustManager) trust.getTrustManagers()[0]).getAcceptedIssuers().length;
        byte[] body = ("Hello, " + (count > 50) + "\\n").getBytes("UTF-8");
        HttpServer server = HttpServer.create(
            new InetSocketAddress(Integer.parseInt(System.getenv("PORT"))), 0);
        server.createContext("/", exchange -> {
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
        });
        server.start();
    }
}
"""
APP: dict[str, str | bytes] = {
    "src/org/example/Main.java": MAIN,
    "system.properties": "java.runtime.version=17\n",
}
GRADLEW = """#!/bin/sh
set -e
[ "$1" != --version ] || exit 0
mkdir -p build/libs build/classes
javac -d build/classes src/org/example/Main.java
jar --create --file build/libs/app.jar --main-class org.example.Main -C build/classes .
"""
POM = """<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>org.example</groupId><artifactId>app</artifactId><version>1</version>
  <repositories><repository><id>central</id><url>http://127.0.0.1:9/m</url></repository></repositories>
  <pluginRepositories>
    <pluginRepository><id>central</id><url>http://127.0.0.1:9/m</url></pluginRepository>
  </pluginRepositories>
</project>
"""


@pytest.fixture(scope="module")
def first(builder: Builder) -> BuildResult:
    """The app, built once: its JDK and its runtime are at hand for the other builds."""
    result = builder.build(APP, cache=BUILD_CACHE / "java")
    assert "-----> Using Java 21 for the 17 that system.properties asks for" in builder.lines
    return result


def test_sources(builder: Builder, first: BuildResult) -> None:
    """Sources alone are compiled and answer; the image has a runtime that trusts the stack's certificates."""
    cache = BUILD_CACHE / "java"
    assert answer(builder, first) == "Hello, true\n"
    assert first.size < 80e6
    assert builder.run(first, "command -v javac; ls /layers/shipway_java").split() == [
        "classes",
        "jre",
    ]
    second = builder.build(
        APP | {"src/org/example/Main.java": MAIN.replace("Hello", "Changed")},
        previous=first.image,
        cache=cache,
    )
    assert answer(builder, second) == "Changed, true\n"
    assert not any("Installing" in line or "jlink" in line for line in builder.lines)
    assert builder.layer(second, "jre") == builder.layer(first, "jre")


def test_gradle_wrapper(builder: Builder, first: BuildResult) -> None:
    """The app's own gradlew is run, and the jar with a main class is the web process."""
    files = APP | {"build.gradle": "", "gradlew": GRADLEW}
    result = builder.build(files, previous=first.image, cache=BUILD_CACHE / "java")
    assert result.processes["web"].endswith("-jar build/libs/app.jar")
    assert answer(builder, result) == "Hello, true\n"


def test_failures(builder: Builder, first: BuildResult) -> None:
    """A Java that is too new, code that does not compile, silent registries: each is said."""
    cache = BUILD_CACHE / "java"
    builder.failure(
        APP | {"system.properties": "java.runtime.version=99\n"}, previous=first.image, cache=cache
    )
    assert any("asks for Java 99, but Debian 13 has 21 and 25" in line for line in builder.lines)
    builder.failure(
        APP | {"src/org/example/Main.java": "class Main { x }"}, previous=first.image, cache=cache
    )
    assert any("src/org/example/Main.java:1: error" in line for line in builder.lines)
    builder.failure({"pom.xml": POM}, previous=first.image, cache=cache)
    assert any("127.0.0.1:9 could not be reached" in line for line in builder.lines), builder.lines
    assert any("MAVEN_MIRROR" in line for line in builder.lines)
    builder.failure({"build.gradle": ""}, previous=first.image, cache=cache)
    assert any("There is no gradlew" in line for line in builder.lines)
    script = "#!/bin/sh\necho 'java.net.ConnectException: http://127.0.0.1:9/g: Connection refused'\nexit 1\n"
    builder.failure({"build.gradle": "", "gradlew": script}, previous=first.image, cache=cache)
    assert any("127.0.0.1:9 could not be reached" in line for line in builder.lines)
    assert any("distributionUrl" in line for line in builder.lines)
