"""proxy-control and proxy-buffering (plugins.md section 6)."""

import asyncio
from typing import Any

import pytest

from tests.worker.plugins.refusals import complaint
from worker.plugins.testing import PluginKit


@pytest.mark.parametrize(
    ("config", "early"), [({}, False), ({"request_buffering": True}, False), ({"request_buffering": False}, True)]
)
@pytest.mark.parametrize("size", [1, 100_000])
def test_whether_a_body_waits(config: dict[str, Any], early: bool, size: int) -> None:
    with PluginKit({"proxy-control": config}) as kit:
        seen: list[bytes] = []
        connect = kit.loop.create_connection

        async def connecting(*arguments: Any, **more: Any) -> Any:
            transport, protocol = await connect(*arguments, **more)
            write = transport.write

            def written(data: bytes) -> None:
                seen.append(data)
                write(data)

            transport.write = written
            return transport, protocol

        kit.loop.create_connection = connecting  # type: ignore[method-assign]
        client = kit.connect()
        client.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (size + 1))
        client.data_received(b"x" * size)
        kit.run(turns())
        assert bool(seen) is early
        client.data_received(b"y")
        kit.run(turns())
        assert kit.received[0].body == b"x" * size + b"y"
        client.connection_lost(None)


async def turns() -> None:
    for _ in range(50):
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("config", [{}, {"request_buffering": False}])
def test_requests_without_a_body_or_with_all_of_it_do_not_wait(config: dict[str, Any]) -> None:
    with PluginKit({"proxy-control": config}) as kit:
        assert kit.request().status == 200
        answer = kit.request("POST", body=b"abc")
        assert answer.upstream is not None
        assert answer.upstream.body == b"abc"
        chunked = kit.request("POST", headers={"Transfer-Encoding": "chunked"}, body=b"3\r\nabc\r\n0\r\n\r\n")
        assert chunked.status == 200


@pytest.mark.parametrize("config", [{}, {"disable_proxy_buffering": True}, {"disable_proxy_buffering": False}])
def test_answers_never_wait(config: dict[str, Any]) -> None:
    with PluginKit({"proxy-buffering": config}) as kit:
        answer = kit.request()
        assert (answer.status, answer.body) == (200, b"ok")


def test_refusals() -> None:
    assert ".request_buffering" in complaint("proxy-control", {"request_buffering": 1})
    assert ".disable_proxy_buffering" in complaint("proxy-buffering", {"disable_proxy_buffering": "yes"})
