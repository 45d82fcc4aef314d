"""``added_fields``: the shorter way for plugins that only add fields to answers. Both ways must send the same."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from config_sync.errors import SettingsError
from worker.exchange import Exchange
from worker.plugins.base import Plugin, Scope
from worker.plugins.response_head import ResponseHead
from worker.plugins.testing import Outcome, PluginKit
from worker.variables import accessor

PLAIN = b"HTTP/1.1 200 OK\r\nDate: Sat, 21 Nov 2026 11:00:00 GMT\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
NAMED = b"HTTP/1.1 200 OK\r\nX-NUMBER: upstream\r\nContent-Length: 2\r\n\r\nok"
NOT_MODIFIED = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n"

called: list[str] = []


class NumberConfig(msgspec.Struct):
    """What the adding plugin takes."""

    fails: bool = False


class Number(Plugin[NumberConfig]):
    """Numbers answers."""

    name = "number"
    Config = NumberConfig
    added_names = (b"x-number",)

    def header_filter(self, exchange: Exchange, head: ResponseHead) -> None:
        called.append("header_filter")
        head.fields.remove(b"X-Number")
        head.fields.lines += self._line()

    def added_fields(self, exchange: Exchange) -> bytes:
        called.append("added_fields")
        return self._line()

    def _line(self) -> bytes:
        if self.config.fails:
            raise RuntimeError("on purpose")
        return b"X-Number: seven\r\n"


class Signing(Plugin[NumberConfig]):
    """Has no shorter way."""

    name = "signing"
    Config = NumberConfig

    def header_filter(self, exchange: Exchange, head: ResponseHead) -> None:
        head.fields.set(b"X-Signed", b"yes")


class Roman(Number):
    """Has a filter of its own, for which the inherited shorter way does not stand."""

    name = "roman"

    def header_filter(self, exchange: Exchange, head: ResponseHead) -> None:
        head.fields.set(b"X-Number", b"VII")


class Shouting(Plugin[NumberConfig]):
    """Sees the body."""

    name = "shouting"
    Config = NumberConfig

    def body_filter(self, exchange: Exchange, data: bytes, is_last: bool) -> bytes:
        return data.upper()


class Same(Number):
    """Adds a field of the same name."""

    name = "same"
    priority = -1

    def header_filter(self, exchange: Exchange, head: ResponseHead) -> None:
        head.fields.set(b"X-Number", b"eight")

    def added_fields(self, exchange: Exchange) -> bytes:
        return b"X-Number: eight\r\n"


@pytest.fixture(autouse=True)
def nothing_called() -> Iterator[None]:
    called.clear()
    yield
    called.clear()


def kit(plugins: dict[str, Any], answer: bytes = PLAIN, **more: Any) -> PluginKit:
    made = PluginKit(plugins, extra=(Number, Signing, Roman, Shouting, Same), **more)
    made.upstream_answers = answer
    return made


def fields(outcome: Outcome) -> list[tuple[str, str]]:
    return sorted(field for field in outcome.fields if field[0] != "date")


def test_the_usual_answer_takes_the_shorter_way_and_is_the_same() -> None:
    with kit({"number": {}}) as short, kit({"number": {}, "signing": {}}) as long:
        for _ in range(3):
            one, two = short.request(), long.request()
            assert (one.status, one.body) == (two.status, two.body) == (200, b"ok")
            assert [*fields(one), ("x-signed", "yes")] == fields(two)
    assert sorted(called) == ["added_fields"] * 3 + ["header_filter"] * 3


@pytest.mark.parametrize(
    ("request_", "answer", "body"),
    [
        ({"method": "HEAD"}, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", b""),
        ({}, CHUNKED, b"ok"),
        ({}, NAMED, b"ok"),
        ({}, NOT_MODIFIED, b""),
        ({"headers": {"Connection": "close"}}, PLAIN, b"ok"),
    ],
    ids=["HEAD", "chunked", "named", "304", "close"],
)
def test_other_answers_are_shown_to_the_plugin(request_: dict[str, Any], answer: bytes, body: bytes) -> None:
    with kit({"number": {}}, answer) as working:
        outcome = working.request(**request_)
        assert (outcome.headers("x-number"), outcome.body) == (["seven"], body)
    assert called == ["header_filter"]


@pytest.mark.parametrize(
    "other", [{"roman": {}}, {"shouting": {}}, {"number": {"_meta": {"filter": [["uri", "==", "/"]]}}}]
)
def test_there_is_no_shorter_way_past_what_has_more_to_do(other: dict[str, Any]) -> None:
    with kit({"number": {}, **other}) as working:
        outcome = working.request()
        assert outcome.headers("x-number") == (["VII"] if "roman" in other else ["seven"])
        assert outcome.body == (b"OK" if "shouting" in other else b"ok")
    assert "added_fields" not in called


def test_the_last_one_wins_where_two_add_the_same_field() -> None:
    with kit({"number": {}, "same": {}}) as working:
        assert working.request().headers("x-number") == ["eight"]
    limits = {"global_rules/1": {"plugins": {"limit-count": {"count": 50, "time_window": 60}}}}
    with kit({"limit-count": {"count": 100, "time_window": 60}}, records=limits) as working:
        assert working.request().headers("x-ratelimit-limit") == ["100"]


@pytest.mark.parametrize("names", [("x-number",), (b"X-Number",), [b"x-number"]])
def test_names_that_are_none_are_refused(names: Any) -> None:
    class Wrong(Number):
        name = "wrong"
        added_names = names

    with pytest.raises(SettingsError, match="its added_names must be a tuple of bytes, in lower case"):
        PluginKit(extra=(Wrong,))


def test_names_that_an_object_gives_itself_do_no_harm() -> None:
    class Wrong(Number):
        name = "wrong"

        def __init__(self, config: NumberConfig, scope: Scope) -> None:
            super().__init__(config, scope)
            self.added_names = ("x-number",)  # type: ignore[assignment]  # on purpose

    rule = {"plugins": {"wrong": {}, "ip-restriction": {"whitelist": ["10.0.0.1"]}}}
    with PluginKit(records={"global_rules/1": rule}, extra=(Wrong,)) as working:
        outcome = working.request()
        assert (outcome.status, outcome.headers("x-number")) == (403, ["seven"])


def test_an_async_one_is_refused() -> None:
    class Late(Number):
        name = "late"

        async def added_fields(self, exchange: Exchange) -> bytes:  # type: ignore[override]  # on purpose
            return b""

    with pytest.raises(SettingsError, match="added_fields must not be async"):
        PluginKit(extra=(Late,))


def test_answers_of_the_gateway_have_the_fields_too() -> None:
    with kit({"number": {}, "fault-injection": {"abort": {"http_status": 418, "body": "x"}}}) as working:
        outcome = working.request()
        assert (outcome.status, outcome.header("x-number")) == (418, "seven")


@pytest.mark.parametrize(("on_failure", "status"), [("fail", 500), ("bypass", 200)])
def test_a_plugin_that_fails_is_a_500_or_is_passed_over(on_failure: str, status: int) -> None:
    with kit({"number": {"fails": True}}, settings={"plugins": {"on_failure": on_failure}}) as working:
        outcome = working.request()
        assert (outcome.status, outcome.headers("x-number")) == (status, [])


def test_what_was_sent_can_be_asked_for_afterwards() -> None:
    seen: list[tuple[Any, int]] = []

    class Looking(Plugin[NumberConfig]):
        name = "looking"
        Config = NumberConfig

        def log(self, exchange: Exchange) -> None:
            assert exchange.run is not None
            seen.append((accessor("sent_http_x_number")(exchange), len(exchange.run.sent_head)))

    working = PluginKit({"number": {}, "looking": {}}, extra=(Number, Looking))
    with working:
        outcome = working.request()
    size = len(outcome.line) + 2 + sum(len(f"{name}: {value}") + 2 for name, value in outcome.fields) + 2
    assert seen == [("seven", size)]
