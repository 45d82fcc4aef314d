"""50,000 mutated lines, and as many in mutated HTTP: nothing crashes or hangs, and a list repairs everything."""

import asyncio
import base64
import json
import random
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import uvloop

from config_sync.cache import ConfigStore
from config_sync.errors import StoreError
from config_sync.etcd import messages, watch
from config_sync.etcd.client import Endpoint, EtcdConnection
from config_sync.etcd.messages import LineSplitter, RangeAnswer, WatchError, WatchLine, read_line
from config_sync.etcd.sync import EtcdProvider
from config_sync.etcd.watch import DEADLINE
from config_sync.settings import EtcdSettings
from tests.fakes.etcd import END, STREAM, FakeEtcd, answer, chunk, until
from tests.fakes.history import DECODERS, History, Replica, raw_of
from tests.fakes.splitting import split

LINES = 50_000
SEED = 20_261_121

Mutation = Callable[[bytes, random.Random], bytes]


def flip(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes((data[at] ^ 1 << chance.randrange(8),)) + data[at + 1 :]


def cut_out(data: bytes, chance: random.Random) -> bytes:
    start, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    return data[:start] + data[end:]


def double(data: bytes, chance: random.Random) -> bytes:
    start, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    return data[:end] + data[start:]


def insert(data: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(data) + 1)
    return data[:at] + chance.randbytes(chance.randint(1, 8)) + data[at:]


def other_digit(data: bytes, chance: random.Random) -> bytes:
    digits = [at for at, byte in enumerate(data) if 0x30 <= byte <= 0x39]
    if not digits:
        return data
    at = chance.choice(digits)
    return data[:at] + b"%d" % chance.randrange(10 ** chance.choice((1, 2, 20))) + data[at + 1 :]


WORDS = [b"created", b"events", b"kv", b"key", b"value", b'"1"', b"fragment", b"result", b"header", b"PUT", b"{", b"["]
OTHER_WORDS = [b"null", b"true", b"false", b"[]", b"{}", b'""', b"-1", b"1e999", b'"\\ud800"', b"DELETE", b"canceled"]


def other_word(data: bytes, chance: random.Random) -> bytes:
    return data.replace(chance.choice(WORDS), chance.choice(OTHER_WORDS), chance.choice((1, -1)))


def cut_off(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


MUTATIONS: list[Mutation] = [flip, cut_out, double, insert, other_digit, other_word, cut_off]


def mutated(data: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        if data:
            data = chance.choice(MUTATIONS)(data, chance)
    return data


def in_json(line: WatchLine | RangeAnswer) -> bytes:
    """Write a message as etcd does: numbers are strings, what is empty is left out."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items() if one or one is False}
        if isinstance(value, list):
            return [plain(one) for one in value]
        return str(value) if type(value) is int else value

    return json.dumps(plain(msgspec.to_builtins(line)), separators=(",", ":")).encode()


def genuine(history: History, chance: random.Random) -> bytes:
    """Make a line that the member might have sent."""
    sort = chance.randrange(8)
    if sort == 0:
        return in_json(history.created())
    if sort == 1:
        return in_json(history.canceled())
    if sort == 2:
        return in_json(WatchLine(error=WatchError(chance.choice((4, 14, 16)), chance.choice((DEADLINE, "no leader")))))
    found = list(history.messages(max(1, history.revision - 3), chance))
    return in_json(chance.choice(found)) if found else in_json(history.created())


def feed(replica: Replica, splitter: LineSplitter, data: bytes, chance: random.Random) -> int:
    """Give bytes to a machine as the provider does; returns how many lines they were."""
    count = 0
    for piece in split(data, [chance.randrange(len(data) + 1)]):
        for line in splitter.feed(piece):
            count += 1
            try:
                replica.line(read_line(line))
            except StoreError:
                replica.lose_connection()
    return count


def test_mutated_lines() -> None:
    chance = random.Random(SEED)
    history = History()
    history.write(chance, 10)
    replica = Replica(history, chance)
    replica.start()
    splitter = LineSplitter()
    count = 0
    while count < LINES:
        replica.settle()
        before = {key for key, item in all_items(replica) if item.good is not None}
        replica.deleted.clear()
        count += feed(replica, splitter, mutated(genuine(history, chance), chance) + b"\n", chance)
        now = {key for key, item in all_items(replica) if item.good is not None}
        assert before - now <= replica.deleted
        if chance.random() < 0.02:
            history.write(chance)
            replica.list_again()
            assert replica.raw() == {key: found.value for key, found in history.live.items()}
            assert not replica.store.rejected


def all_items(replica: Replica) -> list[tuple[str, Any]]:
    return [
        (f"{directory}/{id_}", item)
        for directory, cache in replica.store.caches.items()
        for id_, item in cache.items.items()
    ]


class Listener:
    """What a connection tells its owner."""

    def __init__(self) -> None:
        self.lines = 0
        self.ended = False

    def connected(self, connection: EtcdConnection) -> None:
        connection.request("/v3/watch", b"{}", "", watching=True, poll=50)

    def answer_received(self, status: int, body: bytes) -> None:
        self.ended = True
        if status != 200:
            messages.read_error(body)

    def lines_received(self, lines: list[bytes]) -> None:
        self.lines += len(lines)
        for line in lines:
            try:
                read_line(line)
            except StoreError:
                self.ended = True

    def stream_ended(self) -> None:
        self.ended = True

    def disconnected(self, connection: EtcdConnection, reason: str) -> None:
        self.ended = True


class Transport(asyncio.Transport):
    """A transport that leads nowhere."""

    def write(self, data: Any) -> None:
        pass

    def abort(self) -> None:
        pass


def body_of(history: History, chance: random.Random, lines: int) -> bytes:
    """Make the body of an answer to a watch, in chunks."""
    body = b"".join(chunk(genuine(history, chance) + b"\n") for _ in range(lines))
    return body + (END if chance.random() < 0.5 else b"")


def test_mutated_http() -> None:
    chance = random.Random(SEED)
    history = History()
    history.write(chance, 10)
    endpoint = Endpoint("http://127.0.0.1:2379", EtcdSettings())
    sent = 0
    while sent < LINES:
        listener = Listener()
        connection = EtcdConnection(endpoint, listener)
        connection.connection_made(Transport())
        sent += 10
        data = mutated(STREAM + body_of(history, chance, 10), chance)
        for piece in split(data, [chance.randrange(len(data) + 1) for _ in range(3)]):
            connection.data_received(piece)
        connection.connection_lost(None)
        assert listener.ended  # whatever has come, the owner has been told that it is over


STREAMS = 300


def test_a_provider_behind_mutated_streams_ends_with_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for delay in ("FIRST_DELAY", "FIRST_DENIED_DELAY", "RELIST_SPREAD"):
        monkeypatch.setattr(watch, delay, 0.002)
    chance = random.Random(SEED)
    history = History()
    history.write(chance, 10)
    streams = 0

    def reply(path: str, body: dict[str, Any]) -> bytes | None:
        nonlocal streams
        if path == "/v3/kv/range":
            key, revision = base64.b64decode(body["key"]), int(body.get("revision", 0))
            return answer(json.loads(in_json(history.page(key, revision, body.get("limit", 1_000)))))
        if path != "/v3/watch":
            return answer({})
        streams += 1
        if streams <= STREAMS:
            return STREAM.replace(b"\r\n", b"\r\nConnection: close\r\n", 1) + mutated(
                body_of(history, chance, 10), chance
            )
        # Once more a doubt, so that everything is compared, and then the truth.
        lines = [history.created(), *([history.canceled()] if streams == STREAMS + 1 else [])]
        return STREAM + b"".join(chunk(in_json(line) + b"\n") for line in lines)

    async def script() -> None:
        member = await FakeEtcd(reply).start()
        store = ConfigStore(DECODERS)
        settings = EtcdSettings(host=(member.url,), resync_delay=0.002, audit_interval=0, deep_audit_interval=0)
        provider = EtcdProvider(settings, store, asyncio.get_running_loop(), lambda revision: None)
        provider.start()
        await until(lambda: streams == STREAMS + 2 and provider.state().stage == "watching", "the truth", 60.0)
        provider.stop()
        await member.stop()
        assert raw_of(store) == {key: found.value for key, found in history.live.items()}

    uvloop.run(script())
