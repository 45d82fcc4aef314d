"""A gateway whose configuration is a file, without any etcd."""

import os
import shutil
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.processes import Gateway, request, wait_until
from tests.fakes.upstream import Upstream

NO_ETCD = "http://127.0.0.1:1"


def document(upstream: Upstream, other: Upstream, **uris: str) -> str:
    """Write a file in which route "kept" leads to one upstream and all the others to the other."""
    routes = "".join(f"- {{id: {id_}, uri: {uri}, upstream_id: other}}\n" for id_, uri in uris.items())
    return (
        f"upstreams:\n"
        f'- {{id: kept, nodes: {{"127.0.0.1:{upstream.port}": 1}}}}\n'
        f'- {{id: other, nodes: {{"127.0.0.1:{other.port}": 1}}}}\n'
        f"routes:\n- {{id: kept, uri: /kept, upstream_id: kept}}\n{routes}#END\n"
    )


def replace(path: Path, text: str) -> None:
    """Replace a file by rename, as editors do."""
    path.with_name("new").write_text(text)
    path.with_name("new").rename(path)


def connections_to(port: int) -> set[int]:
    """Return the local ports of what is connected to a port."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(words[1][9:], 16) for words in lines if words[3] == "01" and int(words[2][9:], 16) == port}


@pytest.fixture
def other() -> Iterator[Upstream]:
    with Upstream("other") as running:
        yield running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    directory = tmp_path / "conf"
    directory.mkdir()
    return directory / "apisix.yaml"


@pytest.fixture
def gateway(tmp_path: Path, path: Path) -> Iterator[Gateway]:
    """A gateway that has not been started."""
    running = Gateway(tmp_path, NO_ETCD, config_provider="yaml", yaml={"path": str(path)})
    yield running
    running.kill()


def statuses(socks: list[socket.socket], path: str) -> list[int]:
    return [request(sock, path)[0] for sock in socks]


def test_a_change_reaches_every_worker_and_touches_nothing_else(
    gateway: Gateway, path: Path, upstream: Upstream, other: Upstream
) -> None:
    path.write_text(document(upstream, other, a="/a"))
    gateway.start()
    socks = [gateway.connection_to(pid) for pid in sorted(gateway.workers())]
    assert statuses(socks, "/kept") == statuses(socks, "/a") == [200, 200]
    kept = connections_to(upstream.port)
    assert len(kept) == 2
    replace(path, document(upstream, other, a="/b"))
    wait_until(lambda: statuses(socks, "/b") == [200, 200] and statuses(socks, "/a") == [404, 404], "a changed route")
    path.write_text("routes:\n- oops\n#END\n")
    wait_until(lambda: gateway.log().count(f"{path}: line 2: routes[0]: must be an object") == 2, "the complaints")
    assert statuses(socks, "/b") == [200, 200]
    shutil.rmtree(path.parent)
    wait_until(lambda: gateway.log().count("No such file or directory; what was read before stays") == 2, "missing")
    assert statuses(socks, "/b") == [200, 200]
    path.parent.mkdir()
    path.write_text(document(upstream, other, a="/c"))
    wait_until(lambda: statuses(socks, "/c") == [200, 200], "the file is back")
    assert statuses(socks, "/kept") == [200, 200]
    assert connections_to(upstream.port) == kept
    for sock in socks:
        sock.close()


def test_a_new_generation_has_what_the_old_one_had(
    gateway: Gateway, path: Path, upstream: Upstream, other: Upstream
) -> None:
    path.write_text(document(upstream, other, a="/a"))
    gateway.start()
    replace(path, document(upstream, other, a="/b"))
    wait_until(lambda: gateway.log().count("1 of 4 objects differ") == 2, "the change")
    before = gateway.workers()
    done = gateway.command("-s", "reload")
    assert done.returncode == 0, done.stderr + gateway.log()
    wait_until(lambda: len(gateway.workers()) == 2 and not gateway.workers() & before, "only new workers")
    assert gateway.get("/b")[0] == 200
    assert gateway.get("/a")[0] == 404
    replace(path, document(upstream, other, a="/c"))
    wait_until(lambda: gateway.get("/c")[0] == 200 and gateway.get("/b")[0] == 404, "a change for the new ones")
    os.kill(min(gateway.workers()), signal.SIGKILL)
    wait_until(lambda: gateway.log().count("is ready at revision") == 5, "a worker in the place of the killed one")
    socks = [gateway.connection_to(pid) for pid in sorted(gateway.workers())]
    assert statuses(socks, "/c") == [200, 200]
    for sock in socks:
        sock.close()


def test_a_file_that_is_missing_at_the_start_is_waited_for(
    gateway: Gateway, path: Path, upstream: Upstream, other: Upstream
) -> None:
    gateway.launch()
    complaint = f"{path}: No such file or directory; nothing is served before it can be read"
    wait_until(lambda: gateway.log().count(complaint) == 2, "the complaint")
    assert "is ready" not in gateway.log()
    path.write_text(document(upstream, other, a="/a"))
    wait_until(lambda: gateway.log().count("is ready at revision") == 2, "both are ready")
    assert gateway.get("/a") == (200, b"other")
