"""Configuration of every kind is written through etcd while WebSockets are open: nobody is cut off for it."""

import base64
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trustme

from benchmarks.reload import judge
from benchmarks.reload.clients import Group
from benchmarks.reload.outcome import Limits, Outcome
from benchmarks.reload.rig import Rig, rig, wait_for
from benchmarks.reload.scenarios.driving import WARM_UP
from benchmarks.reload.tally import Client
from benchmarks.sync.followers import digests_of
from config_sync.digest import record_hash
from tests.fakes.cluster import Caller, text

PREFIX = "/apisix/"
IDS = 40  # of each directory, so most writes change what is there
DELETED, INVALID = 0.15, 0.05  # shares of the writes
BROKEN = (b"{", b'{"uri": 5, "upstream": [], "sni": 5, "plugins": [], "content": 5, "nodes": 5}', b"[]")
METADATA = ("http-logger", "syslog", "prometheus", "limit-count")


class Values:
    """Random values for every directory; ids are numbers below ``IDS``."""

    def __init__(self, chance: random.Random, node: str) -> None:
        self._chance = chance
        self._node = node
        issued = trustme.CA().issue_cert("written.test")
        self._certificate = issued.cert_chain_pems[0].bytes().decode()
        self._key = issued.private_key_pem.bytes().decode()
        self.kinds: dict[str, Callable[[], dict[str, Any]]] = {
            "routes": self._route,
            "services": self._service,
            "upstreams": self._upstream,
            "plugin_configs": self._plugins,
            "consumers": self._consumer,
            "consumer_groups": self._plugins,
            "global_rules": self._global_rule,
            "plugin_metadata": self._metadata,
            "ssls": self._ssl,
            "protos": self._proto,
            "secrets": self._secret,
            "stream_routes": self._stream_route,
        }

    def _number(self) -> int:
        return self._chance.randrange(IDS)

    def _route(self) -> dict[str, Any]:
        target: dict[str, Any] = self._chance.choice(
            [
                {"upstream_id": str(self._number())},
                {"service_id": str(self._number())},
                {"upstream": self._upstream()},
                {"upstream": self._upstream(), "plugin_config_id": str(self._number())},
            ]
        )
        return {"uri": f"/written/{self._chance.random()}/*", "priority": self._number(), **target}

    def _service(self) -> dict[str, Any]:
        return {"upstream": self._upstream(), "hosts": [f"h{self._number()}.test"]}

    def _upstream(self) -> dict[str, Any]:
        kind = self._chance.choice(["roundrobin", "chash", "least_conn", "ewma"])
        return {"type": kind, "nodes": {self._node: self._chance.randint(1, 9)}, "retries": self._chance.randint(0, 3)}

    def _plugins(self) -> dict[str, Any]:
        return {"plugins": {"limit-count": {"count": self._number() + 1, "time_window": 60}}}

    def _consumer(self) -> dict[str, Any]:
        return {"plugins": {"key-auth": {"key": str(self._chance.random())}}}

    def _global_rule(self) -> dict[str, Any]:
        return {"plugins": {"prometheus": {"prefer_name": self._chance.random() < 0.5}}}

    def _metadata(self) -> dict[str, Any]:
        return {"log_format": {"host": "$host", "n": str(self._number())}}

    def _ssl(self) -> dict[str, Any]:
        return {"sni": f"h{self._number()}.test", "cert": self._certificate, "key": self._key}

    def _proto(self) -> dict[str, Any]:
        return {"content": f'syntax = "proto3"; package p{self._number()};'}

    def _secret(self) -> dict[str, Any]:
        return {"uri": "http://127.0.0.1:8200", "prefix": f"kv/{self._number()}", "token": "t"}

    def _stream_route(self) -> dict[str, Any]:
        return {"server_port": 9_000 + self._number(), "upstream": self._upstream()}

    def key(self, directory: str) -> str:
        """Choose a key, below the prefix."""
        number = f"w{self._number()}"
        if directory == "consumers":
            return f"consumers/{number}"
        if directory == "plugin_metadata":
            return f"plugin_metadata/{self._chance.choice(METADATA)}"
        return f"secrets/vault/{number}" if directory == "secrets" else f"{directory}/{number}"


class Writer:
    """Creates, changes and deletes; some values are invalid."""

    def __init__(self, url: str, node: str, chance: random.Random) -> None:
        self._caller = Caller([url])
        self._chance = chance
        self._values = Values(chance, node)
        self._there: set[str] = set()
        self._invalid: set[str] = set()
        self.counts = {"created": 0, "changed": 0, "deleted": 0, "invalid": 0}
        self.revision = 0

    def write(self) -> None:
        """Make one write."""
        directory = self._chance.choice(list(self._values.kinds))
        key = self._values.key(directory)
        roll = self._chance.random()
        if roll < DELETED and key in self._there:
            self._delete(key)
        elif roll < DELETED + INVALID:
            self._put(key, self._chance.choice(BROKEN), "invalid")
            self._invalid.add(key)
        else:
            value = json.dumps(self._values.kinds[directory]()).encode()
            self._put(key, value, "changed" if key in self._there else "created")
            self._invalid.discard(key)

    def heal(self) -> None:
        """Delete what is invalid now, since workers keep what was there before."""
        for key in sorted(self._invalid):
            self._delete(key)

    def close(self) -> None:
        """Hang up."""
        self._caller.close()

    def digests(self) -> dict[str, str]:
        """Return the digests of what is in etcd now."""
        _, found = self._caller.list(PREFIX)
        records = {
            base64.b64decode(one["key"]).decode().removeprefix(PREFIX): (
                int(one["mod_revision"]),
                base64.b64decode(one["value"]),
            )
            for one in found
        }
        return {directory: f"{digest:032x}" for directory, digest in digests_of(records, record_hash).items() if digest}

    def _put(self, key: str, value: bytes, kind: str) -> None:
        self._call("kv/put", {"key": text(PREFIX + key), "value": text(value)}, kind)
        self._there.add(key)

    def _delete(self, key: str) -> None:
        self._call("kv/deleterange", {"key": text(PREFIX + key)}, "deleted")
        self._there.discard(key)
        self._invalid.discard(key)

    def _call(self, path: str, body: dict[str, object], kind: str) -> None:
        self.revision = int(self._caller.call(path, body)["header"]["revision"])
        self.counts[kind] += 1


def run(directory: Path, limits: Limits, workers: int = 2, websockets: int = 500, seed: int = 1) -> Outcome:
    """Write as often as the limits say; WebSockets and keep-alive clients talk meanwhile."""
    with rig(directory, worker_processes=workers) as running:
        group = Group("all", running.gateway.port, new=1, kept=8, websockets=websockets, message_pause=2.0)
        running.load.start(group)
        time.sleep(WARM_UP)
        pids: set[int] = set()

        def are_all() -> bool:  # not more: a template looks like one of them until it has its name
            pids.clear()
            pids.update(running.gateway.workers())
            return len(pids) == workers

        wait_for(are_all, f"there are {workers} workers")
        writer = Writer(running.etcd.url, f"127.0.0.1:{running.upstream.port}", random.Random(seed))
        begun = time.monotonic()
        rounds = 0
        while rounds < limits.rounds and time.monotonic() - begun < limits.seconds:
            writer.write()
            rounds += 1
        seconds = time.monotonic() - begun
        writer.heal()
        complaints = _compare(running, writer, workers)
        writer.close()
        running.load.stop(group.name)
        summary = running.load.mark()
        if running.gateway.workers() != pids:
            complaints.append(f"workers were {sorted(pids)}, and are {sorted(running.gateway.workers())}")
    complaints += judge.failures(summary.failures)
    if summary.closings:
        complaints.append(f"{len(summary.closings)} WebSockets were closed, the first with {summary.closings[0].code}")
    if summary.clients[Client.WEBSOCKET].connections != websockets:
        complaints.append("WebSockets were opened more than once")
    return Outcome(summary, complaints, rounds, seconds, {"writes": writer.counts})


def _compare(running: Rig, writer: Writer, workers: int) -> list[str]:
    """Compare what every worker serves with what is in etcd."""
    running.gateway.applied(writer.revision)
    wanted = writer.digests()
    ready = [worker for worker in running.gateway.sync()["workers"] if worker["state"] == "ready"]
    complaints = [] if len(ready) == workers else [f"{len(ready)} workers are ready"]
    for worker in ready:
        different = sorted(
            name for name in wanted | worker["digests"] if worker["digests"].get(name) != wanted.get(name)
        )
        if different:
            complaints.append(f"worker {worker['slot']} differs from etcd in {', '.join(different)}")
    return complaints
