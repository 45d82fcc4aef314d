"""What is hashed, for every ``hash_on``."""

import pytest

from config_sync import schema
from tests.worker.upstream.balancers.values import exchange
from worker.upstream.balancers.hash_key import hash_key

ADDRESS = b"10.9.8.7"  # of the client: what is hashed when there is nothing else


def key(hash_on: str, name: str | None, target: str = "/", fields: str = "") -> bytes:
    config = schema.Upstream(nodes=(), type="chash", hash_on=hash_on, key=name)  # type: ignore[arg-type]
    return hash_key("1", config)(exchange(target, fields))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("uri", b"/p"),
        ("request_uri", b"/p?a=1&b=x%20y&a=2&empty="),
        ("query_string", b"a=1&b=x%20y&a=2&empty="),
        ("host", b"a.com"),
        ("remote_addr", ADDRESS),
        ("remote_port", b"4711"),
        ("arg_a", b"1"),
        ("arg_b", b"x y"),
        ("arg_empty", b""),
        ("arg_c", ADDRESS),
        ("mqtt_client_id", ADDRESS),
    ],
)
def test_variables(name: str, expected: bytes) -> None:
    assert key("vars", name, "/p?a=1&b=x%20y&a=2&empty=") == expected


def test_headers() -> None:
    assert key("header", "X-User", fields="x-user: 7\r\n") == b"7"
    assert key("header", "X-User") == ADDRESS


def test_cookies() -> None:
    assert key("cookie", "sid", fields="Cookie: xsid=1; sid=2; b=3\r\n") == b"2"
    assert key("cookie", "sid", fields="Cookie: xsid=1\r\n") == ADDRESS
    assert key("cookie", "sid") == ADDRESS


def test_consumers() -> None:
    assert key("consumer", None) == ADDRESS


def test_combinations() -> None:
    assert key("vars_combinations", "$request_uri$remote_addr", "/p?x") == b"/p?x" + ADDRESS
    assert key("vars_combinations", "a-$arg_x-${arg_y}!", "/?y=2") == b"a--2!"
    assert key("vars_combinations", "a-$arg_x", "/?y=2") == ADDRESS
    assert key("vars_combinations", "constant") == ADDRESS


def test_a_missing_value_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    config = schema.Upstream(nodes=(), type="chash", hash_on="header", key="X-User")
    of = hash_key("7", config)
    for _ in range(3):
        of(exchange())
    assert [record.getMessage() for record in caplog.records] == [
        "upstream 7: a request has no header X-User to hash on; remote_addr is taken for such requests"
    ]
