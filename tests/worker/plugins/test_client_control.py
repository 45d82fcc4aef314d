"""client-control (plugins.md section 4)."""

import pytest

from tests.worker.plugins.refusals import complaint
from worker.plugins.testing import PluginKit

FIVE = {"client-control": {"max_body_size": 5}}
CHUNKED = {"Transfer-Encoding": "chunked"}


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (*pieces, b""))


@pytest.mark.parametrize(("size", "status"), [(0, 200), (5, 200), (6, 413), (100_000, 413)])
def test_a_body_whose_length_is_known(size: int, status: int) -> None:
    with PluginKit(FIVE) as kit:
        answer = kit.request("POST", body=b"x" * size)
        assert (answer.status, answer.upstream is None) == (status, status == 413)
        if status == 413:
            assert b"<h1>413 " in answer.body


def test_it_is_refused_before_it_has_come() -> None:
    with PluginKit(FIVE) as kit:
        answer = kit.request("POST", headers={"Content-Length": "6", "Expect": "100-continue"})
        assert (answer.status, answer.is_closed) == (413, True)


@pytest.mark.parametrize(
    ("body", "status"), [(chunks(b"123", b"45"), 200), (chunks(b"123", b"456"), 413), (chunks(b"x" * 90_000), 413)]
)
def test_a_body_in_chunks(body: bytes, status: int) -> None:
    with PluginKit(FIVE) as kit:
        assert kit.request("POST", headers=CHUNKED, body=body).status == status


def test_chunks_are_counted_while_they_come() -> None:
    with PluginKit({**FIVE, "proxy-control": {}}) as kit:
        connection = kit.connect()
        written: list[bytes] = []
        connection.transport.write = written.append  # type: ignore[method-assign,assignment]
        connection.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n123\r\n")
        assert written == []
        connection.data_received(b"3\r\n456\r\n")
        assert b"".join(written).startswith(b"HTTP/1.1 413 ")
        connection.connection_lost(None)


def test_zero_is_no_limit_and_the_settings_hold_too() -> None:
    settings = {"client_max_body_size": 10}
    for config, allowed in (({}, 10), ({"max_body_size": 0}, 10), ({"max_body_size": 20}, 10)):
        with PluginKit({"client-control": config}, settings=settings) as kit:
            assert kit.request("POST", body=b"x" * allowed).status == 200
            assert kit.request("POST", body=b"x" * (allowed + 1)).status == 413
            assert kit.request("POST", headers=CHUNKED, body=chunks(b"x" * allowed)).status == 200
            assert kit.request("POST", headers=CHUNKED, body=chunks(b"x" * (allowed + 1))).status == 413


def test_refusals() -> None:
    assert ".max_body_size" in complaint("client-control", {"max_body_size": -1})
