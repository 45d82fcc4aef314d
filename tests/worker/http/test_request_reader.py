"""What a connection reads in request heads, and what it remembers of them."""

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_sync.settings import Settings
from worker.errors import BadRequest, HeadersTooLarge, MethodNotAllowed, ProxyError, VersionNotSupported
from worker.http.client_address import Trusts
from worker.http.request_reader import RequestReader, port_of
from worker.http.target import path_rules
from worker.messages import CHUNKED, NO_BODY, OF_LENGTH, Request

if TYPE_CHECKING:
    from worker.context import WorkerContext


def reader(**settings: object) -> RequestReader:
    configured = Settings(**settings)  # type: ignore[arg-type]
    context = SimpleNamespace(
        settings=configured, trusts=Trusts(configured), path_rules=path_rules(configured.router), draining=False
    )
    return RequestReader(cast("WorkerContext", context), "http", ("192.0.2.7", 4711), ("10.0.0.1", 9080))


def head(line: str = "GET /a?b HTTP/1.1", *fields: str, host: str | None = "A.com:81") -> bytes:
    lines = (f"Host: {host}",) if host is not None else ()
    return "\r\n".join([line, *lines, *fields, "", ""]).encode()


def told(request: Request) -> dict[str, str]:
    """Return the fields that go upstream."""
    return dict(line.split(": ", 1) for line in request.wire.decode().split("\r\n")[1:-2])


def shown(request: Request) -> dict[str, object]:
    return {name: getattr(request, name) for name in Request.__slots__}


def test_a_head() -> None:
    request = reader().read(head("GET /a%20b/../c?d HTTP/1.1", "X-Own: 1"))
    assert (request.method, request.target, request.path) == (b"GET", b"/a%20b/../c?d", b"/c")
    assert (request.host, request.host_name, request.framing) == (b"A.com:81", b"a.com", NO_BODY)
    assert told(request) == {
        "Host": "A.com:81",
        "X-Own": "1",
        "X-Real-IP": "192.0.2.7",
        "X-Forwarded-For": "192.0.2.7",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "A.com:81",
        "X-Forwarded-Port": "81",
    }


@pytest.mark.parametrize(
    ("field", "framing", "length"),
    [
        ("Content-Length: 3", OF_LENGTH, 3),
        ("Content-Length: 0", NO_BODY, 0),
        ("Transfer-Encoding: chunked", CHUNKED, 0),
    ],
)
def test_how_bodies_end(field: str, framing: object, length: int) -> None:
    request = reader().read(head("POST / HTTP/1.1", field))
    assert (request.framing, request.content_length) == (framing, length)
    assert field in request.wire.decode().split("\r\n")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (head(host=None), BadRequest),
        (head(host="a b"), BadRequest),
        (head("GET  / HTTP/1.1"), BadRequest),
        (head("GET / HTTP/1.0", "Transfer-Encoding: chunked"), BadRequest),
        (head("GET / HTTP/1.2"), ProxyError),
        (head("CONNECT a.com:80 HTTP/1.1"), MethodNotAllowed),
        (head("GET * HTTP/1.1"), BadRequest),
        (head("GET / HTTP/1.1", "X: " + "x" * 40_000), HeadersTooLarge),
    ],
)
def test_what_is_refused_is_not_remembered(data: bytes, error: type[ProxyError]) -> None:
    refusing = reader()
    refusing.read(head())
    with pytest.raises(error):
        refusing.read(data)
    assert refusing.head == b""


def test_versions() -> None:
    assert reader().read(head("GET / HTTP/1.0", host=None)).version_11 is False
    with pytest.raises((BadRequest, VersionNotSupported)):
        reader().read(head("GET / HTTP/2.0"))


@pytest.mark.parametrize(
    ("line", "field", "asked"),
    [
        ("GET / HTTP/1.1", "X: 1", True),
        ("GET / HTTP/1.1", "Connection: close", False),
        ("GET / HTTP/1.0", "X: 1", False),
        ("GET / HTTP/1.0", "Connection: keep-alive", True),
    ],
)
def test_who_wants_to_stay(line: str, field: str, asked: bool) -> None:
    one = reader()
    one.read(head(line, field))
    assert one.asks_keep_alive is asked


def test_an_equal_head_is_the_same_request() -> None:
    one = reader()
    get, post = head(), head("POST / HTTP/1.1", "Content-Length: 3", "Expect: 100-continue")
    request = one.read(get)
    assert one.head == get
    assert one.read(bytes(bytearray(get))) is request
    posted = one.read(post)
    assert one.head == b""  # a body follows: the head is not all that comes
    assert one.read(bytes(bytearray(post))) is posted
    assert one.expects_continue
    assert one.read(get) is not request
    assert not one.expects_continue


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["GET / HTTP/1.1", "GET /b HTTP/1.1", "GET http://c.com:8/d HTTP/1.1", "GET / HTTP/1.0"]),
            st.sampled_from(["a.com", "A.com", "b.com:82", ""]),
            st.lists(
                st.sampled_from(
                    [
                        "X-Forwarded-For: 198.51.100.1",
                        "X-Forwarded-Host: e.com",
                        "X-Real-IP: 198.51.100.2",
                        "Connection: close",
                        "Content-Length: 3",
                    ]
                ),
                unique=True,
            ),
        ),
        max_size=8,
    ),
    st.sampled_from(
        [
            {},
            {"trusted_addresses": ("192.0.2.0/24",)},
            {"trusted_addresses": ("10.0.0.0/8",)},
            {"real_ip_from": ("192.0.2.0/24",), "real_ip_header": "X-Real-IP"},
        ]
    ),
)
def test_what_was_read_before_changes_nothing(
    heads: list[tuple[str, str, list[str]]], settings: dict[str, object]
) -> None:
    old = reader(**settings)
    for line, host, fields in heads:
        data = head(line, *fields, host=host)
        new = reader(**settings)
        assert shown(old.read(data)) == shown(new.read(data))
        assert (old.remote_address, old.remote_port) == (new.remote_address, new.remote_port)
        assert (old.asks_keep_alive, old.expects_continue) == (new.asks_keep_alive, new.expects_continue)
        if not old.asks_keep_alive:
            break  # nothing is read behind such a head


@pytest.mark.parametrize(
    ("host", "port"), [(b"a", b""), (b"a:1", b"1"), (b"[::1]", b""), (b"[::1]:2", b"2"), (b"", b"")]
)
def test_ports(host: bytes, port: bytes) -> None:
    assert port_of(host) == port
