"""``propylon ctl plugin new``: the beginning of a plugin, with its test."""

import re
from pathlib import Path

from config_sync.errors import ConfigError

_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")

_PLUGIN = '''"""@name@: lets requests through that come with a word, and signs their answers.

Fields: ``word`` (``please``), what must stand in the field ``X-Word``; ``rejected_code`` (403, from 400 to 599).

Answers ``rejected_code`` with ``{"message": "the word is missing"}``. What gets through has ``X-Signed: @name@``.
"""

from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta
from worker.plugins.answer import Answer, message
from worker.plugins.base import Plugin, Scope

if TYPE_CHECKING:
    from worker.exchange import Exchange
    from worker.plugins.response_head import ResponseHead


class @Class@Config(msgspec.Struct):
    """What may be configured."""

    word: Annotated[str, Meta(min_length=1)] = "please"
    rejected_code: Annotated[int, Meta(ge=400, le=599)] = 403


class @Class@(Plugin[@Class@Config]):
    """Asks for the word."""

    name = "@name@"
    priority = 0
    Config = @Class@Config

    def __init__(self, config: @Class@Config, scope: Scope) -> None:
        super().__init__(config, scope)
        self._word = config.word.encode()

    def access(self, exchange: "Exchange") -> Answer | None:
        """Refuse a request without the word."""
        if exchange.request.header(b"X-Word") != self._word:  # type: ignore[union-attr]  # there is one
            return message(self.config.rejected_code, "the word is missing")
        return None

    def header_filter(self, exchange: "Exchange", head: "ResponseHead") -> None:
        """Sign the answer of an upstream."""
        if head.is_from_upstream:
            head.fields.set(b"X-Signed", b"@name@")
'''

_TEST = '''"""The plugin @name@, in a whole worker, without sockets."""

from worker.plugins.testing import PluginKit

from @module@ import @Class@


def test_the_word_opens() -> None:
    with PluginKit({"@name@": {}}, extra=(@Class@,)) as kit:
        answer = kit.request("GET", "/", {"X-Word": "please"})
        assert (answer.status, answer.header("X-Signed")) == (200, "@name@")
        assert answer.upstream is not None


def test_without_the_word_nobody_gets_through() -> None:
    with PluginKit({"@name@": {"word": "now", "rejected_code": 418}}, extra=(@Class@,)) as kit:
        answer = kit.request("GET", "/", {"X-Word": "please"})
        assert (answer.status, answer.json()) == (418, {"message": "the word is missing"})
        assert answer.upstream is None


def test_what_cannot_be_meant_is_refused() -> None:
    with PluginKit(extra=(@Class@,)) as kit:
        assert "word" in kit.refuses({"@name@": {"word": ""}})
        assert "rejected_code" in kit.refuses({"@name@": {"rejected_code": 200}})
'''


def new_plugin(name: str, directory: Path) -> list[Path]:
    """Write a plugin and its test into a directory; returns the files.

    Raises:
        ConfigError: it is no name for a plugin, or one of the files is there, or cannot be written.
    """
    if _NAME.fullmatch(name) is None:
        raise ConfigError(f"{name}: must be lower case letters, digits and single -, as in my-plugin")
    module = name.replace("-", "_")
    words = {"@name@": name, "@module@": module, "@Class@": "".join(part.capitalize() for part in name.split("-"))}
    files = {directory / f"{module}.py": _PLUGIN, directory / f"test_{module}.py": _TEST}
    for file in files:
        if file.exists():
            raise ConfigError(f"{file} is there already")
    for file, text in files.items():
        for mark, word in words.items():
            text = text.replace(mark, word)
        try:
            file.write_text(text)
        except OSError as error:
            raise ConfigError(f"{file} cannot be written: {error.strerror}") from error
    return list(files)
