"""The provider against a real etcd, through a wire that can be cut."""

import asyncio
import base64
import contextlib
import json
import random
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvloop

from config_sync.cache import Change, ConfigStore, Event
from config_sync.etcd.sync import EtcdProvider
from config_sync.settings import EtcdSettings, TlsSettings
from tests.fakes.certificates import Certificates
from tests.fakes.etcd import until
from tests.fakes.processes import Etcd, free_port, wait_until
from tests.fakes.wire import Wire


def route(uri: str) -> dict[str, Any]:
    return {"uri": uri, "upstream": {"nodes": {"127.0.0.1:80": 1}}}


class Follower:
    """A store that a provider keeps equal to etcd."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.store = ConfigStore()
        self.batches: list[list[Change]] = []
        self.synced: list[int] = []
        self.store.subscribe(self._changed)
        self.provider = EtcdProvider(
            EtcdSettings(host=(url,), **settings),
            self.store,
            asyncio.get_running_loop(),
            lambda revision: None,
        )
        self.store.observe(self)

    def replaced(self, revision: int) -> None:
        self.synced.append(revision)

    def applied(self, events: Sequence[Event], revision: int) -> None:
        pass

    def _changed(self, changes: Sequence[Change]) -> None:
        self.batches.append(list(changes))

    async def __aenter__(self) -> "Follower":
        self.provider.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.provider.stop()

    async def reach(self, revision: int) -> None:
        """Wait until everything up to a revision has been applied."""
        await until(lambda: self.provider.state().revision >= revision, f"revision {revision}")

    async def watching(self) -> None:
        await until(lambda: self.provider.state().stage == "watching", "watching")

    def routes(self) -> dict[str, Any]:
        return {id_: json.loads(item.raw) for id_, item in self.store.caches["routes"].items.items()}


async def put(etcd: Etcd, key: str, value: object) -> int:
    return await asyncio.to_thread(etcd.put, key, value)


async def delete(etcd: Etcd, key: str) -> int:
    await asyncio.to_thread(etcd.delete, key)
    return await revision_of(etcd)


async def revision_of(etcd: Etcd) -> int:
    answer = await asyncio.to_thread(etcd.call, "kv/range", {"key": "AA=="})
    return int(answer["header"]["revision"])


async def transaction(etcd: Etcd, puts: dict[str, object]) -> int:
    operations = [{"request_put": {"key": key_of(key), "value": encoded(value)}} for key, value in puts.items()]
    answer = await asyncio.to_thread(etcd.call, "kv/txn", {"success": operations})
    return int(answer["header"]["revision"])


def key_of(key: str) -> str:
    return base64.b64encode(f"/apisix/{key}".encode()).decode()


def encoded(value: object) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


def run(script: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await script()

    uvloop.run(bounded())


def test_put_change_and_delete_arrive(etcd: Etcd) -> None:
    async def script() -> None:
        await put(etcd, "routes/1", route("/a"))
        async with Follower(etcd.url) as follower:
            await follower.watching()
            assert follower.routes() == {"1": route("/a")}
            await follower.reach(await put(etcd, "routes/2", route("/b")))
            await follower.reach(await put(etcd, "routes/2", route("/c")))
            assert follower.routes() == {"1": route("/a"), "2": route("/c")}
            await follower.reach(await delete(etcd, "routes/2"))
            assert follower.routes() == {"1": route("/a")}
            changes = [change for batch in follower.batches[1:] for change in batch]
            assert [(change.id, change.new is None) for change in changes] == [("2", False), ("2", False), ("2", True)]

    run(script)


def test_neighbours_of_the_prefix_are_not_read(etcd: Etcd) -> None:
    async def script() -> None:
        neighbour = base64.b64encode(b"/apisix2/routes/1").decode()
        await asyncio.to_thread(etcd.call, "kv/put", {"key": neighbour, "value": encoded(route("/x"))})
        async with Follower(etcd.url) as follower:
            await follower.watching()
            await asyncio.to_thread(etcd.call, "kv/put", {"key": neighbour, "value": encoded(route("/y"))})
            await follower.reach(await put(etcd, "routes/1", route("/a")))
            assert follower.routes() == {"1": route("/a")}

    run(script)


def test_a_list_of_several_pages_is_one_snapshot(etcd: Etcd) -> None:
    async def script() -> None:
        for start in range(0, 2500, 125):
            revision = await transaction(etcd, {f"routes/{n}": route(f"/{n}") for n in range(start, start + 125)})
        async with Follower(etcd.url) as follower:
            await follower.watching()
            assert follower.synced == [revision]
            assert len(follower.batches) == 1
            assert len(follower.batches[0]) == 2500

    run(script)


def test_a_transaction_is_seen_whole(etcd: Etcd) -> None:
    async def script() -> None:
        async with Follower(etcd.url) as follower:
            await follower.watching()
            for turn in range(20):
                values: dict[str, object] = {f"routes/{n}": route(f"/{turn}") for n in range(10)}
                await follower.reach(await transaction(etcd, values))
            assert all(len(batch) % 10 == 0 for batch in follower.batches)

    run(script)


def test_a_cut_connection_loses_nothing(etcd: Etcd) -> None:
    async def script() -> None:
        wire = await Wire(etcd.url).start()
        async with Follower(wire.url, resync_delay=0.05) as follower:
            await follower.watching()
            for turn in range(10):
                wire.cut()
                await put(etcd, f"routes/{turn}", route("/while-away"))
                await delete(etcd, f"routes/{turn - 1}")
                wire.mend()
                await follower.reach(await put(etcd, "routes/last", route(f"/{turn}")))
                assert follower.routes() == {str(turn): route("/while-away"), "last": route(f"/{turn}")}
            assert follower.synced == [1]
        await wire.stop()

    run(script)


def test_a_compaction_while_disconnected_is_noticed(etcd: Etcd) -> None:
    async def script() -> None:
        await put(etcd, "routes/1", route("/a"))
        await put(etcd, "routes/2", route("/b"))
        wire = await Wire(etcd.url).start()
        async with Follower(wire.url, resync_delay=0.05) as follower:
            await follower.watching()
            kept = follower.store.caches["routes"].items["1"]
            wire.cut()
            await delete(etcd, "routes/2")
            revision = await put(etcd, "routes/3", route("/c"))
            await asyncio.to_thread(etcd.compact, revision)
            wire.mend()
            await follower.reach(revision)
            assert follower.routes() == {"1": route("/a"), "3": route("/c")}
            assert follower.store.caches["routes"].items["1"] is kept
        await wire.stop()

    run(script)


def test_a_deletion_at_the_compacted_revision_is_not_lost(etcd: Etcd) -> None:
    """What resuming behind the cursor would lose without a word (etcd-http-gateway.md section 4.6)."""

    async def script() -> None:
        await put(etcd, "routes/1", route("/a"))
        wire = await Wire(etcd.url).start()
        async with Follower(wire.url, resync_delay=0.05) as follower:
            await follower.watching()
            wire.cut()
            deleted = await delete(etcd, "routes/1")
            revision = await put(etcd, "routes/2", route("/b"))
            await asyncio.to_thread(etcd.compact, deleted)
            wire.mend()
            await follower.reach(revision)
            assert follower.routes() == {"2": route("/b")}
        await wire.stop()

    run(script)


def test_etcd_killed_and_started_on_its_data(etcd: Etcd) -> None:
    async def script() -> None:
        async with Follower(etcd.url, resync_delay=0.05) as follower:
            await follower.reach(await put(etcd, "routes/1", route("/a")))
            for turn in range(3):
                await asyncio.to_thread(etcd.kill)
                await until(lambda: follower.provider.state().stage != "watching", "the loss is noticed")
                assert "1" in follower.routes()
                await asyncio.to_thread(etcd.start)
                await follower.reach(await put(etcd, "routes/2", route(f"/{turn}")))
                assert follower.routes() == {"1": route("/a"), "2": route(f"/{turn}")}
            assert len(follower.synced) == 1

    run(script)


def test_a_wiped_store_is_followed(etcd: Etcd, tmp_path: Path) -> None:
    async def script() -> None:
        await put(etcd, "routes/0", route("/0"))
        await put(etcd, "routes/1", route("/old"))
        async with Follower(etcd.url, resync_delay=0.05) as follower:
            await follower.reach(await put(etcd, "routes/2", route("/b")))
            await asyncio.to_thread(etcd.kill)
            await asyncio.to_thread(shutil.rmtree, tmp_path / "etcd")
            await asyncio.to_thread(etcd.start)
            await until(lambda: follower.routes() == {}, "the new history")
            # The same key at the same revision as before, and not the same value.
            await put(etcd, "routes/other", route("/other"))
            assert await put(etcd, "routes/1", route("/new")) == 3
            await until(lambda: follower.routes().get("1") == route("/new"), "the new value")

    run(script)


def test_short_polls_under_writes_have_no_gaps(etcd: Etcd) -> None:
    async def script() -> None:
        chance = random.Random(7)
        live: dict[str, Any] = {}
        wire = await Wire(etcd.url).start()
        async with Follower(wire.url, watch_timeout=1) as follower:
            await follower.watching()
            until_then = asyncio.get_running_loop().time() + 3.0
            revision, turn = 0, 0
            while asyncio.get_running_loop().time() < until_then:
                turn += 1
                id_ = str(chance.randrange(20))
                if id_ in live and chance.random() < 0.3:
                    del live[id_]
                    revision = await delete(etcd, f"routes/{id_}")
                else:
                    live[id_] = route(f"/{turn}")
                    revision = await put(etcd, f"routes/{id_}", live[id_])
            await follower.reach(revision)
            assert follower.routes() == live
            assert wire.connections == 2  # the watch's, which the end of a poll keeps, and one to ask for the version
            assert len(follower.synced) == 1
        await wire.stop()

    run(script)


def test_etcd_that_starts_later(etcd: Etcd) -> None:
    async def script() -> None:
        await put(etcd, "routes/1", route("/a"))
        await asyncio.to_thread(etcd.kill)
        async with Follower(etcd.url, resync_delay=0.05) as follower:
            await until(lambda: "cannot connect" in follower.provider.state().last_error, "a complaint")
            assert follower.synced == []
            await asyncio.to_thread(etcd.start)
            await follower.watching()
            assert follower.routes() == {"1": route("/a")}
            assert len(follower.synced) == 1

    run(script)


def test_user_and_password_also_when_they_come_to_be_needed_later(etcd: Etcd) -> None:
    def enable_auth() -> None:
        etcd.call("auth/user/add", {"name": "root", "password": "secret"})
        etcd.call("auth/user/grant", {"user": "root", "role": "root"})
        etcd.call("auth/enable", {})

    async def script() -> None:
        await put(etcd, "routes/1", route("/a"))
        settings = {"user": "root", "password": "secret", "resync_delay": 0.05}
        wire = await Wire(etcd.url).start()
        async with Follower(wire.url, **settings) as early:
            await early.watching()  # without authentication, which is not enabled
            await asyncio.to_thread(enable_auth)
            async with Follower(etcd.url, **settings) as follower:
                await follower.watching()
                assert follower.routes() == {"1": route("/a")}
            # A watch that is open goes on; the next one needs a token, and gets it.
            wire.cut()
            await until(lambda: early.provider.state().stage != "watching", "the cut")
            wire.mend()
            await early.watching()
        await wire.stop()

    run(script)


@contextlib.contextmanager
def etcd_over_tls(directory: Path, *arguments: str) -> Iterator[str]:
    """Run an etcd that takes TLS; gives its URL."""
    url, peer = f"https://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [
            str(Path(sys.executable).parent / "etcd"),
            *("--data-dir", str(directory / "tls-etcd"), "--log-level", "error", "--unsafe-no-fsync"),
            *("--heartbeat-interval", "10", "--election-timeout", "100", *arguments),
            *("--listen-client-urls", url, "--advertise-client-urls", url),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"default={peer}"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield url
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def tls_etcd(tmp_path: Path) -> Iterator[str]:
    """An etcd with a certificate it has signed itself; gives its URL."""
    with etcd_over_tls(tmp_path, "--auto-tls") as url:
        wait_until((tmp_path / "tls-etcd/fixtures/client/cert.pem").exists, "its certificate")
        yield url


@pytest.mark.parametrize("verify", [True, False])
def test_tls(tls_etcd: str, tmp_path: Path, verify: bool) -> None:
    async def script() -> None:
        ca = str(tmp_path / "tls-etcd/fixtures/client/cert.pem") if verify else ""
        async with Follower(tls_etcd, resync_delay=0.05, tls=TlsSettings(ca=ca, verify=verify)) as follower:
            await follower.watching()
            assert follower.synced == [1]

    run(script)


def test_a_certificate_that_is_not_trusted(tls_etcd: str) -> None:
    async def script() -> None:
        async with Follower(tls_etcd, resync_delay=0.05) as follower:
            await until(lambda: "certificate verify failed" in follower.provider.state().last_error, "a complaint")
            assert follower.synced == []

    run(script)


def test_mutual_tls(tmp_path: Path) -> None:
    certificates = Certificates()
    ca = str(certificates.write_authority(tmp_path / "ca.pem"))
    server = str(certificates.write_server(tmp_path / "server.pem"))
    client = str(certificates.write_client(tmp_path / "client.pem", "gateway"))
    demands = ("--cert-file", server, "--key-file", server, "--client-cert-auth", "--trusted-ca-file", ca)

    async def script(url: str) -> None:
        async with Follower(url, resync_delay=0.05, tls=TlsSettings(ca=ca, cert=client, key=client)) as follower:
            await follower.watching()
            assert follower.synced == [1]
        async with Follower(url, resync_delay=0.05, tls=TlsSettings(ca=ca)) as stranger:
            await until(lambda: stranger.provider.state().last_error != "", "a refusal")
            assert stranger.synced == []

    with etcd_over_tls(tmp_path, *demands) as url:
        run(lambda: script(url))
