"""The Elixir buildpack on an app with a committed dependency, and with a registry that is silent."""

from buildlab import BUILD_CACHE, Builder, answer

MIX = """defmodule Hello.MixProject do
  use Mix.Project
  def project, do: [app: :hello, version: "1.0.0", deps: [{:greeting, path: "deps/greeting"}]]
  def application, do: [mod: {Hello, []}]
end
"""
MAIN = """defmodule Hello do
  use Application

  def start(_type, _args), do: {:ok, spawn_link(&listen/0)}

  defp listen do
    port = String.to_integer(System.get_env("PORT"))
    {:ok, socket} = :gen_tcp.listen(port, [:binary, active: false, reuseaddr: true])
    serve(socket)
  end

  defp serve(socket) do
    {:ok, client} = :gen_tcp.accept(socket)
    :gen_tcp.recv(client, 0)
    body = Greeting.hello()
    head = "HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: #{byte_size(body)}"
    :gen_tcp.send(client, head <> "\\r\\n\\r\\n" <> body)
    :gen_tcp.close(client)
    serve(socket)
  end
end
"""
APP: dict[str, str | bytes] = {
    "mix.exs": MIX,
    "lib/hello.ex": MAIN,
    "deps/greeting/mix.exs": "defmodule Greeting.MixProject do\n  use Mix.Project\n"
    '  def project, do: [app: :greeting, version: "1.0.0"]\nend\n',
    "deps/greeting/lib/greeting.ex": 'defmodule Greeting do\n  def hello, do: "Hello from Elixir\\n"\nend\n',
}


def test_release(builder: Builder) -> None:
    """An app becomes a release that answers; a registry that is silent is named."""
    cache = BUILD_CACHE / "elixir"
    first = builder.build(APP, cache=cache)
    assert answer(builder, first) == "Hello from Elixir\n"
    assert builder.run(first, "ls /layers/shipway_elixir") == "release\n"
    assert first.size < 50e6
    silent = "http://127.0.0.1:9"
    files = {
        "mix.exs": MIX.replace('path: "deps/greeting"', '">= 1.0.0"'),
        "mix.lock": "%{}\n",
        "lib/hello.ex": MAIN,
    }
    builder.failure(
        files,
        previous=first.image,
        cache=builder.folder / "cache",
        env={"HEX_MIRROR": silent, "HEX_BUILDS_URL": silent},
    )
    assert not any("Installing Elixir" in line for line in builder.lines)
    assert any("127.0.0.1:9 could not be reached" in line for line in builder.lines), builder.lines
    assert any("HEX_MIRROR or HEX_BUILDS_URL" in line for line in builder.lines)
