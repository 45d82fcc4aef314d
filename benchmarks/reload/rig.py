"""A gateway under load: real etcd, real upstream, real clients, and what is done to the gateway meanwhile."""

import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.reload.load import Load
from benchmarks.reload.tally import KEEPALIVE_MIN
from benchmarks.reload.upstream import Upstream
from tests.fakes.processes import Etcd, Gateway, wait_until

PLAIN: dict[str, object] = {
    "access_log": "off",
    "backlog": 2048,
    "keepalive_min": KEEPALIVE_MIN,
    "close_spread": 1.0,
}
PATIENCE = 60.0  # seconds that a reload may take


class ScenarioError(Exception):
    """The scenario cannot go on."""


@dataclass(frozen=True)
class Reload:
    """A reload that is over; times are of the monotonic clock."""

    began: float
    ended: float


class Rig:
    """The processes of a scenario."""

    def __init__(self, etcd: Etcd, upstream: Upstream, gateway: Gateway, load: Load) -> None:
        self.etcd = etcd
        self.upstream = upstream
        self.gateway = gateway
        self.load = load
        self.reloads: list[Reload] = []

    @property
    def master(self) -> int:
        """The master's pid."""
        assert self.gateway.process is not None
        return self.gateway.process.pid

    def reload(self, **changes: object) -> Reload:
        """Change settings, send HUP, and wait for the outcome, which is kept in ``reloads``.

        Raises:
            ScenarioError: there is none in time, or the reload failed.
        """
        if changes:
            self.gateway.write_conf(**changes)
        before = self._result()
        began = time.monotonic()
        self.gateway.signal(signal.SIGHUP)
        wait_for(lambda: self._result() != before, "the reload has an outcome")
        done = Reload(began, time.monotonic())
        self.reloads.append(done)
        result: dict[str, Any] = json.loads(self._result())
        if not result["ok"]:
            raise ScenarioError(f"a reload failed: {result['reason']}")
        return done

    def resize(self, number: signal.Signals, workers: int) -> None:
        """Send TTIN or TTOU, and wait until so many workers serve; raises ScenarioError."""
        began = time.monotonic()
        line = f"{workers} workers serve"
        before = self.gateway.log().count(line)
        self.gateway.signal(number)
        wait_for(lambda: self.gateway.log().count(line) > before, line)
        self.reloads.append(Reload(began, time.monotonic()))

    def _result(self) -> str:
        path = self.gateway.directory / "run" / "reload.json"  # replaced as a whole
        return path.read_text() if path.exists() else ""

    def route(self, key: str = "routes/1", **fields: object) -> int:
        """Write a route that leads everything to the upstream; returns the revision."""
        upstream = {"type": "roundrobin", "nodes": {f"127.0.0.1:{self.upstream.port}": 1}}
        return self.etcd.put(key, {"uri": "/*", "enable_websocket": True, "upstream": upstream, **fields})


@contextlib.contextmanager
def rig(directory: Path, **settings: object) -> Iterator[Rig]:
    """Start everything, with a route to the upstream; the load has no clients yet."""
    with contextlib.ExitStack() as stack:
        etcd = Etcd(directory)
        stack.callback(etcd.kill)
        etcd.start()
        upstream = stack.enter_context(Upstream())
        gateway = Gateway(directory, etcd.url, **{**PLAIN, **settings})
        made = Rig(etcd, upstream, gateway, stack.enter_context(Load()))
        made.route()
        stack.callback(gateway.kill)
        wait_for_start(gateway)
        yield made


def wait_for_start(gateway: Gateway) -> None:
    """Start it; raises ScenarioError with the end of its log."""
    try:
        gateway.start()
    except AssertionError as error:
        output = (gateway.directory / "output").read_text()
        raise ScenarioError(f"{error}\n{(output + gateway.log())[-1_000:]}") from error


def wait_for(holds: Callable[[], object], what: str) -> None:
    """Wait for a condition; raises ScenarioError."""
    try:
        wait_until(holds, what, PATIENCE)
    except AssertionError as error:
        raise ScenarioError(str(error)) from error


def complains(holds: Callable[[], object], what: str) -> list[str]:
    """Wait for a condition, and return what is to be said when it does not come true."""
    try:
        wait_for(holds, what)
    except ScenarioError as error:
        return [str(error)]
    return []


def resident(pid: int) -> int:
    """Return the bytes of memory that a process has; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def cpu_seconds(pid: int) -> float:
    """Return what CPU time a process and its children that have ended have taken; 0 when it is gone."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, words[11:15])) / os.sysconf("SC_CLK_TCK")


def descriptors(pid: int) -> list[str]:
    """Return the kinds of the open descriptors of a process, sorted."""
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(fd).partition(":")[0])
    return sorted(found)
