"""Requests that are sent ahead: all are answered, in order, and only as fast as the client takes the answers."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from config_sync.cache import ConfigStore
from config_sync.settings import Settings
from tests.fakes.client_transport import ClientTransport
from worker.context import WorkerContext
from worker.http.http1_server import Http1Server


def ask(count: int = 1) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * count


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    with asyncio.Runner() as runner:
        yield runner.get_loop()


@pytest.fixture
def wire(loop: asyncio.AbstractEventLoop, tmp_path: Path) -> Iterator[ClientTransport]:
    """Connect a client to a gateway that has no route, so that every request is answered at once."""
    context = WorkerContext(Settings(runtime_dir=str(tmp_path), access_log=False), loop, ConfigStore())
    wire = ClientTransport()
    wire.connection = Http1Server(context)
    wire.connection.connection_made(cast("asyncio.Transport", wire))
    yield wire
    wire.connection.connection_lost(None)
    context.builder.close()


def settle(loop: asyncio.AbstractEventLoop) -> None:
    """Let what was put off happen."""

    async def rounds() -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    loop.run_until_complete(rounds())


def test_bytes_that_come_before_the_next_request_had_its_turn(
    wire: ClientTransport, loop: asyncio.AbstractEventLoop
) -> None:
    wire.connection.data_received(ask(2))
    assert wire.answers == 1
    wire.connection.data_received(ask(1)[:9])
    wire.connection.data_received(ask(1)[9:])
    settle(loop)
    assert wire.answers == 3


def test_an_end_that_comes_before_the_next_request_had_its_turn(
    wire: ClientTransport, loop: asyncio.AbstractEventLoop
) -> None:
    wire.connection.data_received(ask(2))
    assert wire.connection.eof_received()
    settle(loop)
    assert wire.answers == 2
    assert wire.closed


def test_an_end_within_a_head(wire: ClientTransport) -> None:
    wire.connection.data_received(ask()[:9])
    assert not wire.connection.eof_received()


def test_an_empty_line_between_requests_begins_none(wire: ClientTransport, loop: asyncio.AbstractEventLoop) -> None:
    wire.connection.data_received(ask() + b"\r\n")
    settle(loop)
    assert "IDLE" in repr(wire.connection)
    wire.connection.data_received(ask())
    assert wire.answers == 2


def test_who_takes_no_answers_gets_no_more_of_them(wire: ClientTransport, loop: asyncio.AbstractEventLoop) -> None:
    wire.full = True
    wire.connection.data_received(ask(3))
    settle(loop)
    assert wire.answers == 1
    assert not wire.reads
    wire.drained()
    settle(loop)
    assert wire.answers == 3
    assert wire.reads


def test_who_takes_no_answer_and_has_sent_nothing_ahead(wire: ClientTransport, loop: asyncio.AbstractEventLoop) -> None:
    wire.full = True
    wire.connection.data_received(ask())
    assert not wire.reads
    wire.drained()
    assert wire.reads
    wire.connection.data_received(ask())
    assert wire.answers == 2
