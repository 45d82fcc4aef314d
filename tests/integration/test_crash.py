"""Workers that die, hang, or grow too large; masters that die."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.load import Load
from tests.fakes.processes import Etcd, Gateway, is_template, request, wait_until
from tests.fakes.upstream import Upstream


def test_killed_worker_comes_back_on_its_slot(gateway: Gateway) -> None:
    before = gateway.workers()
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: gateway.log().count("is ready at revision") == 3, "its successor is ready")
    after = gateway.workers()
    assert len(after) == 2
    assert victim not in after
    for pid in after:
        with gateway.connection_to(pid) as sock:
            assert request(sock, "/x")[0] == 200


def test_siblings_accept_for_a_slot_that_waits(gateway: Gateway) -> None:
    stays = max(gateway.workers())
    for death in (1, 2, 3):  # the last of them is followed by a delay of 0.6 s at least
        victim = min(gateway.workers() - {stays})
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda death=death: gateway.log().count("forking again in") == death, "a death")  # type: ignore[misc]
        if death < 3:
            wait_until(lambda: len(gateway.workers()) == 2, "a new worker, which dies young")
    assert gateway.workers() == {stays}
    assert [gateway.get("/x")[0] for _ in range(30)] == [200] * 30
    assert gateway.workers() == {stays}
    ready = gateway.log().count("is ready at revision")
    wait_until(lambda: gateway.log().count("is ready at revision") > ready, "the slot has its own worker again")
    for pid in gateway.workers():
        with gateway.connection_to(pid) as sock:
            assert request(sock, "/x")[0] == 200


HANG = """

_beat = Worker._beat


def _hang_here(self):
    _beat(self)
    if os.path.exists(os.path.join(self._boot.settings.runtime_dir, f"hang-{os.getpid()}")):
        time.sleep(60)


Worker._beat = _hang_here
"""


def test_a_worker_that_hangs_leaves_its_stacks_and_is_replaced(tmp_path: Path, etcd: Etcd, tree: Path) -> None:
    with (tree / "worker/process.py").open("a") as code:
        code.write(HANG)
    gateway = Gateway(tmp_path, etcd.url, worker_heartbeat_timeout=2)
    try:
        gateway.launch_from(tree)
        gateway.await_ready()
        victim = min(gateway.workers())
        (tmp_path / "run" / f"hang-{victim}").touch()
        wait_until(lambda: victim not in gateway.workers() and len(gateway.workers()) == 2, "a new worker")
        assert f"worker {victim} has not moved" in gateway.log()
        assert "in _hang_here" in gateway.log()
    finally:
        gateway.kill()


def test_a_stopped_worker_is_replaced(tmp_path: Path, etcd: Etcd) -> None:
    gateway = Gateway(tmp_path, etcd.url, worker_heartbeat_timeout=2)
    gateway.start()
    try:
        victim = min(gateway.workers())
        os.kill(victim, signal.SIGSTOP)
        wait_until(lambda: victim not in gateway.workers() and len(gateway.workers()) == 2, "a new worker")
        assert f"worker {victim} has not moved" in gateway.log()
    finally:
        gateway.kill()


def test_a_worker_beyond_its_limit_is_replaced_without_a_failure(
    tmp_path: Path, etcd: Etcd, upstream: Upstream
) -> None:
    etcd.put("routes/1", {"uri": "/*", "upstream": {"nodes": {f"127.0.0.1:{upstream.port}": 1}}})
    gateway = Gateway(tmp_path, etcd.url, max_worker_requests=200)
    gateway.start()
    try:
        before = gateway.workers()
        with Load(gateway) as load:
            wait_until(lambda: len(before - gateway.workers()) == 1, "one of them has gone")
            wait_until(lambda: len(gateway.workers()) == 2, "and has a successor")
        assert load.failures == []
        assert "is beyond max_worker_requests" in gateway.log()
    finally:
        gateway.kill()


@pytest.fixture
def orphans(tmp_path: Path, etcd: Etcd, upstream: Upstream) -> Iterator[tuple[Gateway, set[int]]]:
    """Workers that are to serve on, and whose master was killed."""
    etcd.put("routes/1", {"uri": "/*", "upstream": {"nodes": {f"127.0.0.1:{upstream.port}": 1}}})
    gateway = Gateway(tmp_path, etcd.url, on_master_death="serve")
    gateway.start()
    workers = gateway.workers()
    assert gateway.process is not None
    gateway.process.kill()
    gateway.process.wait()
    gateway.process = None
    yield gateway, workers
    for pid in workers:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)


def test_orphans_serve_until_there_is_another_master(orphans: tuple[Gateway, set[int]]) -> None:
    gateway, workers = orphans
    run = gateway.directory / "run"
    wait_until(lambda: gateway.log().count("serves until there is another") == 2, "they know")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as master:
        (run / "propylon.pid").write_text(str(master.pid))
        (run / "master.json").write_text(json.dumps({"pid": master.pid, "ready": False}))
        assert [gateway.get("/x")[0] for _ in range(30)] == [200] * 30
        (run / "master.json").write_text(json.dumps({"pid": master.pid, "ready": True}))
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "they have ended")
        master.communicate(b"\n")


def test_workers_end_when_the_master_is_killed(gateway: Gateway) -> None:
    workers = gateway.workers()
    assert gateway.process is not None
    gateway.process.kill()
    gateway.process.wait()
    gateway.process = None
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "the workers have ended")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", gateway.port), timeout=10)


def template_of(gateway: Gateway) -> int:
    """Return the process from which workers are forked that take the places of others, once it can do that."""
    assert gateway.process is not None
    wait_until(lambda: "a template for workers of generation 1 is ready" in gateway.log(), "a template")
    children = Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children").read_text().split()
    return next(int(pid) for pid in children if is_template(int(pid)))


def test_who_dies_is_replaced_by_one_of_the_same_code(tmp_path: Path, etcd: Etcd, tree: Path) -> None:
    gateway = Gateway(tmp_path, etcd.url)
    try:
        gateway.launch_from(tree)
        gateway.await_ready()
        template_of(gateway)
        before = gateway.workers()
        (tree / "worker/http/serve.py").write_text("def broken(:")
        os.kill(min(before), signal.SIGKILL)
        wait_until(lambda: gateway.log().count("is ready at revision") == 3, "its successor is ready")
        after = gateway.workers()
        assert len(after) == 2
        assert max(before) in after
        for pid in after:
            with gateway.connection_to(pid) as sock:
                assert request(sock, "/x")[0] == 404
        done = gateway.command("-s", "reload")
        assert done.returncode == 1
        assert "SyntaxError" in done.stderr
        assert gateway.workers() == after
    finally:
        gateway.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_without_a_template_the_master_forks_by_itself(gateway: Gateway, number: signal.Signals) -> None:
    template = template_of(gateway)
    os.kill(template, number)
    before = gateway.workers()
    os.kill(min(before), signal.SIGKILL)
    wait_until(lambda: gateway.log().count("is ready at revision") == 3, "its successor is ready")
    assert max(before) in gateway.workers()
    assert len(gateway.workers()) == 2
    assert gateway.get("/x")[0] == 200
    wait_until(lambda: gateway.log().count("a template for workers of generation 1 is ready") == 2, "another template")
    assert template_of(gateway) != template


def test_a_template_leaves_with_its_master(gateway: Gateway) -> None:
    template = template_of(gateway)
    assert gateway.process is not None
    gateway.process.kill()
    gateway.process.wait()
    gateway.process = None
    wait_until(lambda: not is_template(template), "the template has ended")
