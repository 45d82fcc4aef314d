"""Plugins that change answers, or keep them, in a real gateway with two workers."""

import gzip
import http.client
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import brotli
import pytest

from config_sync.settings import Settings
from tests.fakes.processes import Etcd, Gateway, wait_until
from tests.fakes.upstream import Upstream
from worker.supervisor.memory_zones import memory_directory

STRATEGIES = {
    "memory": {"cache_strategy": "memory", "cache_zone": "memory_cache"},
    "disk": {"cache_strategy": "disk", "cache_zone": "disk_cache_one"},
}
SIZE = 1_000_000


class Answer:
    """What a client has received."""

    def __init__(self, answer: http.client.HTTPResponse) -> None:
        self.status = answer.status
        self.fields = answer.headers
        self.body = answer.read()

    @property
    def cached(self) -> str | None:
        """What became of it in the cache."""
        return self.fields.get("Apisix-Cache-Status")


def ask(gateway: Gateway, path: str, pid: int | None = None, method: str = "GET", **fields: str) -> Answer:
    """Send a request to a worker, or to any."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=20)
    if pid is not None:
        connection.sock = gateway.connection_to(pid)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): fields[name] for name in fields})
        return Answer(connection.getresponse())
    finally:
        connection.close()


def is_asked(gateway: Gateway, path: str) -> bool:
    """Tell whether a request is answered."""
    try:
        return ask(gateway, path).status == 200
    except OSError:
        return False


@pytest.fixture
def transforming(tmp_path: Path, etcd: Etcd, upstream: Upstream) -> Iterator[Gateway]:
    """A gateway whose routes below /memory and /disk are cached, and below /gzip compressed."""
    nodes = {"type": "roundrobin", "nodes": {f"127.0.0.1:{upstream.port}": 1}}
    for name, config in STRATEGIES.items():
        rewriting = {"regex_uri": [f"^/{name}(/.*)", "$1"]}
        plugins = {"proxy-cache": config, "proxy-rewrite": rewriting}
        etcd.put(f"routes/{name}", {"uri": f"/{name}/*", "upstream": nodes, "plugins": plugins})
    compressing = {
        "gzip": {"types": ["text/x"], "comp_level": 9},
        "brotli": {"types": ["text/x"]},
        "proxy-rewrite": {"regex_uri": ["^/gzip(/.*)", "$1"]},
        "response-rewrite": {"headers": {"set": {"Content-Type": "text/x"}}},
    }
    etcd.put("routes/gzip", {"uri": "/gzip/*", "upstream": nodes, "plugins": compressing})
    running = Gateway(tmp_path, etcd.url)
    try:
        running.start()
        yield running
    finally:
        running.kill()
        settings = Settings(runtime_dir=str(running.settings["runtime_dir"]))
        shutil.rmtree(memory_directory(settings, "memory_cache"), ignore_errors=True)


@pytest.mark.parametrize("strategy", ["memory", "disk"])
def test_what_one_worker_has_kept_the_other_gives(transforming: Gateway, upstream: Upstream, strategy: str) -> None:
    first, second = sorted(transforming.workers())
    path = f"/{strategy}/bytes/5000"
    filled = ask(transforming, path, first)
    assert (filled.status, filled.cached, len(filled.body)) == (200, "MISS", 5000)
    wait_until(lambda: ask(transforming, path, second).cached == "HIT", "the other worker gives it")
    asked = len(upstream.requests)
    again = ask(transforming, path, second)
    assert (again.status, again.cached, again.body) == (200, "HIT", filled.body)
    assert len(upstream.requests) == asked
    assert ask(transforming, path, first, "PURGE").status == 200
    assert ask(transforming, path, second, "PURGE").status == 404
    assert ask(transforming, path, second).cached == "MISS"
    transforming.signal(signal.SIGHUP)
    wait_until(lambda: not transforming.workers() & {first, second}, "the old workers are gone")
    wait_until(lambda: ask(transforming, path).cached == "HIT", "new workers give what old ones have kept")


def test_memory_is_given_back_when_the_gateway_ends(transforming: Gateway) -> None:
    settings = Settings(runtime_dir=str(transforming.settings["runtime_dir"]))
    directory = memory_directory(settings, "memory_cache")
    assert ask(transforming, "/memory/bytes/5000").status == 200
    assert directory.is_dir()
    transforming.kill()
    assert directory.is_dir()
    transforming.start()
    wait_until(lambda: not directory.exists(), "what the dead one has left is gone")
    wait_until(lambda: is_asked(transforming, "/memory/bytes/5000"), "the next one serves")
    assert directory.is_dir()
    transforming.stop()
    assert not directory.exists()


def test_many_clients_of_both_workers_ask_the_upstream_once(transforming: Gateway, upstream: Upstream) -> None:
    answers: list[Answer] = []
    pids = sorted(transforming.workers())
    clients = [
        threading.Thread(target=lambda pid=pid: answers.append(ask(transforming, "/memory/slow?s=0.5", pid)))
        for pid in pids * 10
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    assert {answer.body for answer in answers} == {b"upstream"}
    assert sorted(str(answer.cached) for answer in answers) == ["HIT"] * 19 + ["MISS"]
    assert sum(b"/slow" in head for head in upstream.requests) == 1


@pytest.mark.parametrize(("coding", "decode"), [("gzip", gzip.decompress), ("br", brotli.decompress)])
def test_answers_are_compressed(transforming: Gateway, coding: str, decode: Callable[[bytes], bytes]) -> None:
    for _ in range(3):
        plain = ask(transforming, f"/gzip/bytes/{SIZE}")
        small = ask(transforming, f"/gzip/bytes/{SIZE}", Accept_Encoding=coding)
        assert small.fields["Content-Encoding"] == coding
        assert plain.fields.get("Content-Encoding") is None
        assert (decode(small.body), len(plain.body)) == (plain.body, SIZE)
        assert len(small.body) < SIZE // 10
    streamed = ask(transforming, "/gzip/chunked", Accept_Encoding=coding)
    assert decode(streamed.body) == ask(transforming, "/gzip/chunked").body
