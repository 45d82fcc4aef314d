"""One watch per node, in a real gateway of three workers on a real etcd."""

import itertools
import os
import re
import signal
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.processes import Etcd, Gateway, request, wait_until
from tests.fakes.upstream import Upstream

WORKERS = 3
ROUTES = 20


@pytest.fixture
def gateway(tmp_path: Path, etcd: Etcd, upstream: Upstream) -> Iterator[Gateway]:
    """Three workers, one of which watches."""
    etcd.put("upstreams/1", {"nodes": {f"127.0.0.1:{upstream.port}": 1}})
    etcd.put("routes/whose", {"uri": "/whose", "upstream_id": "1"})
    running = Gateway(
        tmp_path, etcd.url, worker_processes=WORKERS, etcd={"host": [etcd.url], "resync_delay": 0.2, "watch": "node"}
    )
    running.start()
    yield running
    running.kill()


def watchers(etcd: Etcd) -> int:
    """How many watches etcd has."""
    with urllib.request.urlopen(f"{etcd.url}/metrics", timeout=5) as answer:
        found = re.search(rb"^etcd_debugging_mvcc_watcher_total (\S+)$", answer.read(), re.MULTILINE)
    assert found is not None
    return int(float(found[1]))


def leader(gateway: Gateway) -> int | None:
    """Who has the lock."""
    [path] = (gateway.directory / "run").glob("sync-*.lock")
    inode = path.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if "FLOCK" in words and "->" not in words and words[5].rpartition(":")[2] == str(inode):
            return int(words[4])
    return None


class Writer:
    """Writes routes, over and over, as fast as etcd answers; ``last`` is what each of them was at the end."""

    def __init__(self, etcd: Etcd) -> None:
        self._etcd = etcd
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self.last: dict[int, int] = {}
        self.writes = 0

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _write(self) -> None:
        for count in itertools.count():
            if self._is_over.wait(0.003):
                return
            number = count % ROUTES
            self._etcd.put(f"routes/{number}", {"uri": f"/{number}/{count}", "upstream_id": "1"})
            self.last[number] = count
            self.writes = count

    def more(self, count: int) -> None:
        """Wait for some more writes."""
        until = self.writes + count
        wait_until(lambda: self.writes >= until, f"{count} writes")


def connections(gateway: Gateway) -> dict[int, socket.socket]:
    """One connection to each worker."""
    return {pid: gateway.connection_to(pid) for pid in gateway.workers()}


def serves(sock: socket.socket, last: dict[int, int]) -> None:
    """The worker serves every route as it was written last, and not as it was before."""
    for number, count in last.items():
        wait_until(lambda: request(sock, f"/{number}/{count}")[0] == 200, f"/{number}/{count} is served")  # noqa: B023
        assert request(sock, f"/{number}/{count - ROUTES}")[0] == 404


def all_serve(gateway: Gateway, last: dict[int, int]) -> None:
    for sock in connections(gateway).values():
        with sock:
            serves(sock, last)


def test_leaders_are_killed_under_writes_and_nothing_is_lost(gateway: Gateway, etcd: Etcd) -> None:
    assert watchers(etcd) == 1
    with Writer(etcd) as writer:
        for _ in range(2):
            writer.more(50)
            first = leader(gateway)
            assert first in gateway.workers()
            os.kill(first, signal.SIGKILL)
            wait_until(lambda: leader(gateway) not in (None, first), "another worker leads")  # noqa: B023
            writer.more(50)
            wait_until(lambda: len(gateway.workers()) == WORKERS, "the slot has a worker again")
    all_serve(gateway, writer.last)
    wait_until(lambda: watchers(etcd) == 1, "one watch")
    loaded = re.findall(r"configuration loaded at revision", gateway.log())
    assert len(loaded) == 1, "only the first leader had to list; whoever came later got it from a sibling"


def test_a_stopped_leader_is_done_without(gateway: Gateway, etcd: Etcd) -> None:
    first = leader(gateway)
    assert first is not None
    others = connections(gateway)
    others.pop(first).close()
    os.kill(first, signal.SIGSTOP)
    try:
        with Writer(etcd) as writer:
            wait_until(lambda: gateway.log().count("watches etcd itself") == WORKERS - 1, "the others watch")
            writer.more(2 * ROUTES)
        for sock in others.values():
            serves(sock, writer.last)
    finally:
        os.kill(first, signal.SIGCONT)
    wait_until(lambda: watchers(etcd) == 1, "one watch")
    assert leader(gateway) == first
    etcd.put("routes/0", {"uri": "/again", "upstream_id": "1"})
    for sock in others.values():
        wait_until(lambda: request(sock, "/again")[0] == 200, "they follow again")  # noqa: B023
        sock.close()
    all_serve(gateway, {number: count for number, count in writer.last.items() if number})


def test_a_reload_leaves_one_watch_with_the_new_workers(gateway: Gateway, etcd: Etcd) -> None:
    before = gateway.workers()
    with Writer(etcd) as writer:
        writer.more(20)
        assert gateway.command("-s", "reload").returncode == 0
        wait_until(lambda: not before & gateway.workers(), "the old workers are gone")
        writer.more(20)
    assert leader(gateway) in gateway.workers()
    all_serve(gateway, writer.last)
    wait_until(lambda: watchers(etcd) == 1, "one watch")
