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
from benchmarks.reload.upstream import Upstream
from tests.fakes.processes import Etcd, Gateway, wait_until

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

    def reload(self, number: signal.Signals = signal.SIGHUP, **changes: object) -> Reload:
        """Change settings, signal the master, and wait for the outcome, which is kept in ``reloads``.

        Raises:
            ScenarioError: there is none in time, or the reload failed.
        """
        if changes:
            self.gateway.write_conf(**changes)
        before = self._result()
        began = time.monotonic()
        self.gateway.signal(number)
        wait_for(lambda: self._result() != before, f"{number.name} has an outcome")
        done = Reload(began, time.monotonic())
        self.reloads.append(done)
        result: dict[str, Any] = json.loads(self._result())
        if not result["ok"]:
            raise ScenarioError(f"{number.name} failed: {result['reason']}")
        return done

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
        gateway = Gateway(directory, etcd.url, **{"access_log": "off", "backlog": 2048, **settings})
        made = Rig(etcd, upstream, gateway, stack.enter_context(Load()))
        made.route()
        stack.callback(gateway.kill)
        gateway.start()
        yield made


def wait_for(holds: Callable[[], object], what: str) -> None:
    """Wait for a condition; raises ScenarioError."""
    try:
        wait_until(holds, what, PATIENCE)
    except AssertionError as error:
        raise ScenarioError(str(error)) from error


def resident(pid: int) -> int:
    """Return the bytes of memory that a process has; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def descriptors(pid: int) -> list[str]:
    """Return the kinds of the open descriptors of a process, sorted."""
    found = []
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(fd).partition(":")[0])
    return sorted(found)
