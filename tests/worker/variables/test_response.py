"""Variables of answers, peers and routes."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.fakes.exchanges import exchange_of
from worker.edited_request import edit
from worker.errors import PeerClosed
from worker.exchange import Exchange
from worker.messages import Framing, Response
from worker.plugins.run import PluginRun
from worker.variables import accessor

HEAD = b"HTTP/1.1 200 OK\r\nServer: Propylon\r\nX-A: 1\r\nx-a: 2 \r\nSet-Cookie: a=b\r\n"


def peer(host: str) -> Any:
    return SimpleNamespace(
        host=host, port=8080, authority=b"node:8080", pool=SimpleNamespace(key=SimpleNamespace(scheme="https"))
    )


@pytest.fixture
def answered() -> Exchange:
    """An exchange whose second try was answered."""
    exchange = exchange_of("/a%20b?c", host="A.com:81")
    upstream = SimpleNamespace(pass_host=True, host_for=lambda node: node.authority)
    cell = SimpleNamespace(current=upstream)
    service = SimpleNamespace(id="s1", upstream=cell)
    exchange.route = cast("Any", SimpleNamespace(id="r1", upstream=None, service=service))
    exchange.peer = peer("10.0.0.9")
    exchange.connection = cast("Any", SimpleNamespace(response=Response(200, Framing.NONE, 0, HEAD, True)))
    exchange.attempts = [502]
    exchange.status = 200
    exchange.bytes_sent = 5
    return exchange


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("status", "200"),
        ("body_bytes_sent", "5"),
        ("upstream_status", "502, 200"),
        ("upstream_addr", "10.0.0.9:8080"),
        ("balancer_ip", "10.0.0.9"),
        ("balancer_port", "8080"),
        ("upstream_unresolved_host", None),
        ("upstream_scheme", "https"),
        ("upstream_host", "A.com:81"),
        ("upstream_uri", "/a%20b?c"),
        ("upstream_http_x_a", "1, 2"),
        ("sent_http_set_cookie", "a=b"),
        ("sent_http_x_b", None),
        ("route_id", "r1"),
        ("service_id", "s1"),
    ],
)
def test_of_an_answer(answered: Exchange, name: str, expected: str | None) -> None:
    assert accessor(name)(answered) == expected


def test_of_what_plugins_have_made_of_the_request(answered: Exchange) -> None:
    edited = edit(answered)
    edited.upstream_target, edited.upstream_host = b"/new?d", b"new.com"
    assert (accessor("upstream_uri")(answered), accessor("upstream_host")(answered)) == ("/new?d", "new.com")
    run = answered.run = PluginRun(cast("Any", None), 0.0, False)
    chosen = SimpleNamespace(pass_host=False, host_for=lambda _: b"chosen.com")
    run.upstream = cast("Any", SimpleNamespace(current=chosen))
    assert accessor("upstream_host")(answered) == "chosen.com"


def test_of_our_own_answer(answered: Exchange) -> None:
    answered.error = PeerClosed("gone")
    answered.connection = None
    answered.attempts = [502, 502]
    assert accessor("upstream_status")(answered) == "502, 502"
    assert accessor("sent_http_x_a")(answered) is None
    assert accessor("upstream_http_x_a")(answered) is None


def test_peers_by_name_and_by_ipv6(answered: Exchange) -> None:
    answered.peer = peer("node.local")
    assert accessor("upstream_unresolved_host")(answered) == "node.local"
    answered.peer = peer("::1")
    assert accessor("upstream_addr")(answered) == "[::1]:8080"
    assert accessor("upstream_unresolved_host")(answered) is None
