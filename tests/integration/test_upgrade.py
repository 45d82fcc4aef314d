"""USR2: another master takes over, or does not, and clients do not notice."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from config_sync.settings import Settings
from tests.fakes.load import Load
from tests.fakes.notified import Notified
from tests.fakes.processes import Etcd, Gateway, is_template, wait_until
from tests.fakes.upstream import Upstream
from worker.supervisor.memory_zones import memory_directory


class Pair:
    """A gateway that may have two masters."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.run = gateway.directory / "run"
        assert gateway.process is not None
        self.old = gateway.process.pid

    def pid(self, name: str = "propylon.pid") -> int:
        """Return what a pid file says; 0: nothing."""
        try:
            return int((self.run / name).read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def upgrade(self) -> int:
        """Start a second master, and wait until it is ready; returns its pid."""
        before = self.gateway.log().count("is ready: both run")
        os.kill(self.old, signal.SIGUSR2)
        wait_until(lambda: self.gateway.log().count("is ready: both run") > before, "the new master is ready")
        return self.pid()

    def kill(self) -> None:
        """End whoever is left."""
        for name in ("propylon.pid", "propylon.pid.oldbin"):
            if pid := self.pid(name):
                end(pid)
        if self.gateway.process is not None and self.gateway.process.poll() is not None:
            self.gateway.process = None
        self.gateway.kill()


def children(pid: int) -> set[int]:
    words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return {int(word) for word in words if not is_template(int(word))}


def exists(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second when it ends while the file is read
        return False


def end(pid: int) -> None:
    if exists(pid):
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not exists(pid), f"{pid} has ended")


@pytest.fixture
def pair(tmp_path: Path, etcd: Etcd, upstream: Upstream, tree: Path) -> Iterator[Pair]:
    etcd.put("routes/1", {"uri": "/*", "upstream": {"nodes": {f"127.0.0.1:{upstream.port}": 1}}})
    gateway = Gateway(tmp_path, etcd.url)
    gateway.launch_from(tree)
    running = Pair(gateway)
    try:
        gateway.await_ready()
        yield running
    finally:
        running.kill()


def test_an_upgrade_under_load_fails_no_request(pair: Pair) -> None:
    with Load(pair.gateway) as load:
        new = pair.upgrade()
        assert new != pair.old
        assert pair.pid("propylon.pid.oldbin") == pair.old
        old_workers = children(pair.old) - {new}
        os.kill(pair.old, signal.SIGWINCH)
        wait_until(lambda: not any(map(exists, old_workers)), "the old master's workers have ended")
        assert exists(pair.old)
        answered = load.answered
        wait_until(lambda: load.answered > answered + 50, "requests go on")
        os.kill(pair.old, signal.SIGQUIT)
        assert pair.gateway.process is not None
        assert pair.gateway.process.wait(20) == 0
        wait_until(lambda: not pair.pid("propylon.pid.oldbin"), "its pid file is gone")
        assert pair.pid() == new
        answered = load.answered
        wait_until(lambda: load.answered > answered + 50, "requests go on")
        assert pair.gateway.command("-s", "reload").returncode == 0
    assert load.failures == []
    assert load.answered > 100


def test_plugins_go_on_with_another_master(pair: Pair, etcd: Etcd, upstream: Upstream) -> None:
    nodes = {"nodes": {f"127.0.0.1:{upstream.port}": 1}}
    cache = {"cache_strategy": "memory", "cache_zone": "memory_cache", "cache_ttl": 300}
    limit = {"count": 3, "time_window": 600}
    etcd.put("routes/cached", {"uri": "/cached", "upstream": nodes, "plugins": {"proxy-cache": cache}})
    etcd.put("routes/few", {"uri": "/few", "upstream": nodes, "plugins": {"limit-count": limit, "prometheus": {}}})
    path = "/apisix/prometheus/metrics"
    gateway = pair.gateway
    gateway.applied(etcd.put("routes/metrics", {"uri": path, "plugins": {"public-api": {}}}))
    try:
        assert [gateway.get(path)[0] for path in ("/cached", "/few", "/few")] == [200, 200, 200]
        wait_until(lambda: b'route="few"' in gateway.get(path)[1], "the old workers have counted")
        asked = len(upstream.requests)
        new = pair.upgrade()
        os.kill(pair.old, signal.SIGQUIT)
        assert gateway.process is not None
        assert gateway.process.wait(20) == 0
        assert gateway.get("/cached")[0] == 200
        assert len(upstream.requests) == asked  # what is in the zone stays there
        assert [gateway.get("/few")[0] for _ in range(4)] == [200, 200, 200, 503]  # counters begin anew
        wait_until(lambda: b'code="503",route="few"' in gateway.get(path)[1], "the new workers have counted")
        assert pair.pid() == new
    finally:
        zone = memory_directory(Settings(runtime_dir=str(gateway.settings["runtime_dir"])), "memory_cache")
        shutil.rmtree(zone, ignore_errors=True)


def test_going_back_under_load_fails_no_request(pair: Pair) -> None:
    with Load(pair.gateway) as load:
        new = pair.upgrade()
        os.kill(pair.old, signal.SIGWINCH)
        wait_until(lambda: children(pair.old) == {new}, "the old master has no workers")
        os.kill(pair.old, signal.SIGHUP)
        wait_until(lambda: len(children(pair.old)) == 3, "the old master has workers again")
        wait_until(lambda: "generation 2 serves" in pair.gateway.log(), "they serve")
        os.kill(new, signal.SIGQUIT)
        wait_until(lambda: not exists(new), "the new master has ended")
        assert pair.pid() == pair.old
        assert not pair.pid("propylon.pid.oldbin")
        answered = load.answered
        wait_until(lambda: load.answered > answered + 50, "requests go on")
        assert pair.upgrade() not in (new, pair.old)
    assert load.failures == []


def test_a_killed_new_master_leaves_the_old_one_as_it_was(pair: Pair) -> None:
    new = pair.upgrade()
    os.kill(new, signal.SIGKILL)
    wait_until(lambda: pair.pid() == pair.old, "the old master is the one again")
    wait_until(lambda: len(children(pair.old)) == 2, "it has its workers, no more")
    assert pair.gateway.get("/x")[0] == 200


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("master.py", "exit status 1"),
        ("config", "no_such_key"),
        ("worker/http/serve.py", "worker_startup_timeout"),
    ],
)
def test_a_new_master_that_fails_changes_nothing(pair: Pair, tree: Path, broken: str, reason: str) -> None:
    workers = children(pair.old)
    if broken == "config":
        pair.gateway.conf.write_text(pair.gateway.conf.read_text()[:-1] + ', "no_such_key": 1}')
        os.kill(pair.old, signal.SIGUSR2)
        wait_until(lambda: "the upgrade has failed" in pair.gateway.log(), "the complaint")
        assert reason in pair.gateway.log()
    else:
        if broken != "master.py":
            pair.gateway.write_conf(worker_startup_timeout=8)
            pair.gateway.signal(signal.SIGHUP)
            wait_until(lambda: "generation 2 serves" in pair.gateway.log(), "a short patience")
            wait_until(lambda: not children(pair.old) & workers, "the first workers have ended")
            workers = children(pair.old)
        (tree / broken).write_text("raise RuntimeError('broken')\n")
        done = pair.gateway.command("-s", "upgrade")
        assert done.returncode == 1
        assert reason in done.stderr
    assert pair.pid() == pair.old
    assert not pair.pid("propylon.pid.oldbin")
    assert children(pair.old) == workers
    assert pair.gateway.get("/x")[0] == 200


def test_the_command_replaces_the_master(pair: Pair) -> None:
    done = pair.gateway.command("-s", "upgrade")
    assert done.returncode == 0, done.stderr
    assert pair.gateway.process is not None
    assert pair.gateway.process.wait(20) == 0
    assert pair.pid() not in (0, pair.old)
    assert pair.gateway.get("/x")[0] == 200


def test_more_or_fewer_slots_take_all_sockets(pair: Pair) -> None:
    with Load(pair.gateway) as load:
        pair.gateway.write_conf(worker_processes=1)
        first = pair.upgrade()
        os.kill(pair.old, signal.SIGQUIT)
        wait_until(lambda: not exists(pair.old) or not pair.pid("propylon.pid.oldbin"), "the first has gone")
        assert len(children(first)) == 1
        pair.gateway.write_conf(worker_processes=3)
        pair.old = first
        wait_until(lambda: "the master before us, process" in pair.gateway.log(), "it is alone")
        second = pair.upgrade()
        assert len(children(second)) == 3
        os.kill(first, signal.SIGQUIT)
        answered = load.answered
        wait_until(lambda: load.answered > answered + 50, "requests go on")
    assert load.failures == []


def test_systemd_follows(
    tmp_path: Path, etcd: Etcd, upstream: Upstream, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    etcd.put("routes/1", {"uri": "/*", "upstream": {"nodes": {f"127.0.0.1:{upstream.port}": 1}}})
    with Notified(tmp_path / "notify") as systemd:
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        gateway = Gateway(tmp_path, etcd.url)
        gateway.launch_from(tree)
        systemd.await_line("READY=1")
        pair = Pair(gateway)
        try:
            new = pair.upgrade()
            systemd.await_line(f"MAINPID={new}", 2)  # by the old one, and by the new one when it was told
            os.kill(new, signal.SIGTERM)
            systemd.await_line(f"MAINPID={pair.old}", 2)
            wait_until(lambda: pair.pid() == pair.old, "its pid file is back")
            assert not systemd.having("STOPPING=1")
            assert len(systemd.store) == 3
        finally:
            pair.kill()
        systemd.await_line("STOPPING=1")
