"""What is kept of a body, in memory and in a real file."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.http.spool import Spool


async def read_all(spool: Spool, piece: int) -> bytes:
    """Read from the start to the end, so many bytes at a time."""
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < spool.size:
        later: asyncio.Future[bytes] = loop.create_future()
        at_once = spool.read(len(data), piece, later.set_result)
        data += at_once if at_once is not None else await later
    return data


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=50), max_size=12),
    limit=st.integers(0, 120),
    spills_after=st.integers(0, 12),
    size=st.integers(1, 200),
)
def test_what_was_appended_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], limit: int, spills_after: int, size: int
) -> None:
    async def scenario() -> None:
        spool = Spool(asyncio.get_running_loop(), tmp_path_factory.getbasetemp() / "spool")
        for at, piece in enumerate(pieces):
            if at == spills_after:
                spool.spill(limit)
            spool.append(piece)
        whole = b"".join(pieces)
        assert spool.size == len(whole)
        assert await read_all(spool, size) == whole
        assert await read_all(spool, len(whole) + 1) == whole
        if spills_after >= len(pieces) or len(whole) <= limit:
            assert bytes(spool.in_memory or b"") == whole
        spool.close()

    asyncio.run(scenario())


def test_reading_waits_for_what_is_being_written(tmp_path: Path) -> None:
    async def scenario() -> None:
        spool = Spool(asyncio.get_running_loop(), tmp_path)
        spool.spill(0)
        for number in range(100):
            spool.append(b"%03d" % number)
        reading = asyncio.ensure_future(read_all(spool, 7))
        await asyncio.sleep(0)
        for number in range(100, 200):
            spool.append(b"%03d" % number)
        assert await reading == b"".join(b"%03d" % number for number in range(200))
        spool.close()

    asyncio.run(scenario())


def test_a_slow_disk_congests_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        spool = Spool(asyncio.get_running_loop(), tmp_path)
        changed = asyncio.Event()
        spool.on_change(changed.set)
        spool.spill(0)
        assert not spool.congested
        for _ in range(3):
            spool.append(b"x" * (1 << 20))
        assert spool.congested
        await changed.wait()
        assert not spool.congested
        spool.close()

    asyncio.run(scenario())


def test_a_file_that_cannot_be_made(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "taken").write_text("a file, no directory")
        spool = Spool(asyncio.get_running_loop(), tmp_path / "taken")
        changed = asyncio.Event()
        spool.on_change(changed.set)
        spool.spill(1)
        spool.append(b"ab")
        await changed.wait()
        assert isinstance(spool.error, OSError)
        spool.append(b"c")
        assert not spool.congested

    asyncio.run(scenario())


def test_nobody_is_called_back_after_close(tmp_path: Path) -> None:
    async def scenario() -> None:
        spool = Spool(asyncio.get_running_loop(), tmp_path)
        spool.spill(0)
        spool.append(b"ab")
        received: list[bytes] = []
        assert spool.read(0, 2, received.append) is None
        spool.close()
        await asyncio.get_running_loop().shutdown_default_executor()
        await asyncio.sleep(0)
        assert not received

    asyncio.run(scenario())
    assert not list(tmp_path.iterdir())
