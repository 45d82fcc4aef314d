"""Two ways to the same events: our watch over HTTP/1.1 and etcd3's over gRPC, held against each other."""

import asyncio
import base64
import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
import uvloop

from config_sync.cache import ConfigStore, Deletion, Event
from config_sync.etcd.sync import EtcdProvider
from config_sync.settings import EtcdSettings
from tests.fakes.etcd import until
from tests.fakes.processes import PATIENCE, ROOT, Etcd

WRITERS, TRANSACTIONS = 3, 120
KEYS = [f"routes/{at}" for at in range(12)] + ["services/1", "plugins", "gen_id", "routes/", "ssls/ünï"]
LAST = "routes/last"


class Recorder:
    """What a store is told, event by event."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.since = 0  # the revision of the snapshot that came first

    def applied(self, events: Sequence[Event], revision: int) -> None:
        self.events.extend(as_told(event) for event in events)

    def replaced(self, revision: int) -> None:
        assert not self.since, "a second snapshot"
        self.since = revision

    def is_complete(self) -> bool:
        return bool(self.events) and self.events[-1]["key"] == LAST


def as_told(event: Event) -> dict[str, Any]:
    """Say an event as ``propylon ctl watch --json`` does."""
    if isinstance(event, Deletion):
        return {"revision": event.mod_revision, "type": "delete", "key": event.key}
    told = {"revision": event.mod_revision, "type": "put", "key": event.key}
    told |= {"create_revision": event.create_revision, "version": event.version}
    try:
        return told | {"value": json.loads(event.value)}
    except ValueError:
        return told | {"base64": base64.b64encode(event.value).decode()}


def write_at_random(etcd: Etcd, seed: int) -> None:
    """Put and delete in transactions of 1 to 5 keys, and whole ranges."""
    choose = random.Random(seed)
    for number in range(TRANSACTIONS):
        if choose.random() < 0.03:
            etcd.call("kv/deleterange", {"key": encoded("/apisix/routes/"), "range_end": encoded("/apisix/routes0")})
            continue
        keys = choose.sample(KEYS, choose.randint(1, 5))
        operations = [
            {"request_delete_range": {"key": encoded(f"/apisix/{key}")}}
            if choose.random() < 0.3
            else {"request_put": {"key": encoded(f"/apisix/{key}"), "value": encoded(value_of(choose, number))}}
            for key in keys
        ]
        etcd.call("kv/txn", {"success": operations})


def value_of(choose: random.Random, number: int) -> str:
    text = json.dumps({"uri": f"/{number}", "upstream_id": "1", "desc": "ü" * choose.randrange(200)})
    return choose.choice([text, text, "init_dir", "[]", ""])


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    with Etcd(tmp_path) as member:
        yield member


def events_over_grpc(etcd: Etcd, since: int) -> list[dict[str, Any]]:
    """Read what happened after a revision, up to the last write."""
    process = subprocess.Popen(
        [sys.executable, "master.py", "ctl", "watch", "--json", "--endpoint", etcd.url, "--from", str(since + 1)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    told: list[dict[str, Any]] = []
    bound = Timer(2 * PATIENCE, process.kill)
    bound.start()
    try:
        while not told or told[-1]["key"] != LAST:
            line = process.stdout.readline()
            assert line, "the tool has ended"
            told.append(json.loads(line))
    finally:
        bound.cancel()
        process.kill()
        process.wait(PATIENCE)
        process.stdout.close()
    return told


@pytest.mark.parametrize("seed", range(2))
def test_both_streams_tell_the_same_in_the_same_order(etcd: Etcd, seed: int) -> None:
    etcd.put("routes/1", {"uri": "/", "upstream_id": "1"})
    recorder = Recorder()
    over_grpc: list[dict[str, Any]] = []

    async def script() -> None:
        store = ConfigStore()
        store.observe(recorder)
        provider = EtcdProvider(
            EtcdSettings(host=(etcd.url,)), store, asyncio.get_running_loop(), lambda revision: None
        )
        provider.start()
        await until(lambda: recorder.since, "the first snapshot")
        reader = asyncio.create_task(asyncio.to_thread(events_over_grpc, etcd, recorder.since))
        writers = [asyncio.to_thread(write_at_random, etcd, 100 * seed + at) for at in range(WRITERS)]
        await asyncio.gather(*writers)
        await asyncio.to_thread(etcd.put, LAST, {"uri": "/", "upstream_id": "1"})
        await until(recorder.is_complete, "all events over HTTP")
        over_grpc.extend(await reader)
        provider.stop()

    uvloop.run(script())
    assert len(over_grpc) > TRANSACTIONS
    assert recorder.events == over_grpc
