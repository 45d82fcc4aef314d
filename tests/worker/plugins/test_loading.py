"""Where plugins come from, and what keeps a worker from starting."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from config_sync.errors import SettingsError
from worker.exchange import Exchange
from worker.plugins.answer import Answer
from worker.plugins.base import Plugin
from worker.plugins.loading import FOREIGN, load_registry
from worker.plugins.testing import PluginKit

HELLO = """
from worker.plugins.answer import message
from worker.plugins.base import Plugin

class Hello(Plugin):
    name = "hello"

    def access(self, exchange):
        return message(418, "{said}")
"""


@pytest.fixture(autouse=True)
def imports_as_before() -> Iterator[None]:
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] in (FOREIGN, "hello_plugin")]:
        del sys.modules[name]


def installed(directory: Path, point: str, code: str = HELLO, name: str = "hello") -> None:
    """Install a package with an entry point into a directory."""
    package = directory / f"{name}_plugin"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(code)
    about = directory / f"{name}_plugin-1.5.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: 1.5\n")
    (about / "entry_points.txt").write_text(f"[propylon.plugins]\n{name} = {point}\n")


def test_our_own_are_there_with_their_phases() -> None:
    registry = load_registry()
    key_auth, echo = registry.get("key-auth"), registry.get("echo")
    assert key_auth is not None
    assert echo is not None
    assert (key_auth.phases, key_auth.source, key_auth.fails_closed) == (("rewrite",), "worker.plugins.key_auth", True)
    assert (echo.phases, echo.fails_closed) == (("header_filter", "body_filter"), False)
    names = registry.names()
    assert names.index("real-ip") < names.index("key-auth") < names.index("echo")


def test_a_file_of_the_directory_is_loaded_anew_each_time(tmp_path: Path) -> None:
    file = tmp_path / "hello.py"
    (tmp_path / "_words.py").write_text('WORD = "a"\n')
    (tmp_path / "test_hello.py").write_text("raise RuntimeError\n")
    (tmp_path / "readme.txt").write_text("no plugin\n")
    for word in "ab":  # of the same length, within the same second: bytecode that was kept would be taken for it
        file.write_text(
            HELLO.replace('"{said}"', f'"{word}" + WORD').replace("\nclass", "from ._words import WORD\nclass")
        )
        (tmp_path / "_words.py").write_text(f'WORD = "{word}"\n')
        os.utime(file, (1, 1))
        os.utime(tmp_path / "_words.py", (1, 1))
        registered = load_registry(str(tmp_path)).get("hello")
        assert registered is not None
        assert registered.source == str(file)
        with PluginKit({"hello": {}}, extra=(registered.plugin,)) as kit:
            assert kit.request().json() == {"message": word * 2}
    assert not (tmp_path / "__pycache__").exists()


def test_a_package_of_the_directory_is_one_plugin(tmp_path: Path) -> None:
    package = tmp_path / "hello"
    package.mkdir()
    (package / "__init__.py").write_text("from .inner import Hello\n")
    (package / "inner.py").write_text(HELLO)
    registered = load_registry(str(tmp_path)).get("hello")
    assert registered is not None
    assert registered.source == str(package)


def test_ours_are_made_as_plugins_must_be() -> None:
    registry = load_registry()
    assert len(registry.names()) > 40
    for name in registry.names():
        registered = registry.get(name)
        assert registered is not None
        registered.check()


@pytest.mark.parametrize(
    "point", ["hello_plugin", "hello_plugin:Hello", "hello_plugin.inner:Hello", "hello_plugin:Other"]
)
def test_an_installed_one_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    code = "from hello_plugin.inner import Hello\nOther = Hello\n"
    installed(tmp_path, point, code)
    (tmp_path / "hello_plugin" / "inner.py").write_text(HELLO)
    monkeypatch.syspath_prepend(str(tmp_path))
    registered = load_registry().get("hello")
    assert registered is not None
    assert registered.source == f"entry point hello (hello-plugin 1.5, {point})"


@pytest.mark.parametrize("point", ["hello_plugin:none", "hello_plugin:number", "hello_plugin.no_such_module", "json"])
def test_an_entry_point_that_leads_to_no_plugin_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    installed(tmp_path, point, "number = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SettingsError, match="entry point hello"):
        load_registry()


def test_the_directory_wins_over_what_is_installed_and_that_over_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path / "site", "hello_plugin", HELLO.replace('"hello"', '"echo"'))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    registry = load_registry()
    assert registry.get("echo").source.startswith("entry point")  # type: ignore[union-attr]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "echo.py").write_text(HELLO.replace('"hello"', '"echo"'))
    assert load_registry(str(tmp_path / "own")).get("echo").source == str(tmp_path / "own" / "echo.py")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("x = (\n", r"SyntaxError: .* \(.*hello\.py:1\)"),
        ("import json\n\nnone.here\n", r"NameError: .* \(.*hello\.py:3\)"),
        ("\nimport no_such_module\n", r"ModuleNotFoundError: .* \(.*hello\.py:2\)"),
        ("from propylon_plugins import _none\n", r"ImportError: .* \(.*hello\.py:1\)"),
        (HELLO.replace("def access", "async def log"), "log must not be async"),
        (HELLO.replace("def access", "async def header_filter"), "header_filter must"),
        (HELLO.replace("self, exchange", "self"), r"access must take \(self, exchange\)"),
        (HELLO.replace("self, exchange", "self, exchange, more"), r"access must take \(self, exchange\)"),
        (HELLO.replace('name = "hello"', 'name = "hel lo"'), "its name must be"),
        (HELLO.replace('name = "hello"', 'name = "hello"; priority = "high"'), "its priority must be"),
        (HELLO.replace('name = "hello"', 'name = "hello"; Config = dict'), "its Config must be"),
        (HELLO.replace('name = "hello"', 'name = "hello"; Consumer = dict'), "its Consumer must be"),
        (
            HELLO.replace(
                "class Hello", "import msgspec\nclass Key(msgspec.Struct):\n    key: str\nclass Hello"
            ).replace('name = "hello"', 'name = "hello"; Consumer = Key; credential = "ky"'),
            "its credential must be",
        ),
        (
            HELLO.replace(
                "class Hello", "import msgspec\nclass Odd(msgspec.Struct):\n    key: 'None.x'\nclass Hello"
            ).replace('name = "hello"', 'name = "hello"; Config = Odd'),
            "plugin hello of .*hello.py",
        ),
        (HELLO + HELLO.replace("Hello", "Second"), "plugin hello is in .* and in"),
    ],
)
def test_what_cannot_be_a_plugin_keeps_the_worker_from_starting(tmp_path: Path, code: str, reason: str) -> None:
    (tmp_path / "hello.py").write_text(code)
    with pytest.raises(SettingsError, match=reason):
        load_registry(str(tmp_path))


def test_two_files_do_not_share_a_name(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(HELLO)
    (tmp_path / "two.py").write_text(HELLO)
    with pytest.raises(SettingsError, match=r"plugin hello is in .*one\.py and in .*two\.py"):
        load_registry(str(tmp_path))


def test_the_directory_must_be_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is not a directory"):
        load_registry(str(tmp_path / "none"))


def test_only_those_are_there_that_are_enabled(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    closing = HELLO.replace('name = "hello"', 'name = "closing"; fails_closed = True')
    (tmp_path / "hello.py").write_text(HELLO + closing.replace("Hello", "Closing"))
    registry = load_registry(str(tmp_path), ("echo", "no-such"))
    assert registry.names() == ["echo"]
    assert "plugins.enabled: there is no plugin no-such" in caplog.text
    assert registry.keeps_out("closing")
    assert registry.keeps_out("key-auth")
    assert not registry.keeps_out("hello")


class Guard(Plugin[object]):  # type: ignore[type-var]  # it has no configuration
    """Somebody's own plugin that keeps somebody out, and fails."""

    name = "own-guard"
    fails_closed = True

    def access(self, exchange: Exchange) -> Answer | None:
        raise RuntimeError("on purpose")


def test_a_plugin_of_ones_own_may_say_that_it_is_never_bypassed() -> None:
    with PluginKit({"own-guard": {}}, extra=(Guard,), settings={"plugins": {"on_failure": "bypass"}}) as kit:
        assert kit.request().status == 500
