"""What a scrape tells of the gateway itself, read from the scoreboard and from the worker that answers."""

import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING

from config_sync.cache import ConfigStore
from config_sync.status import SyncStatus
from worker.api.record import decode_status
from worker.observability.families import pairs
from worker.scoreboard import Entry, Scoreboard, WorkerState
from worker.supervisor.record import read_record

if TYPE_CHECKING:
    from worker.observability.metrics import Metrics
    from worker.upstream.health.registry import CheckRegistry

OWN = "propylon_"
VERSION = "3.18.0"  # of the APISIX whose behaviour this is
ETCD_DIRECTORIES = ("routes", "services", "ssls", "consumers", "global_rules", "upstreams", "stream_routes", "protos")
PORTION = 5_000  # items looked at in one step
PORTION_LINES = 200
_STATES = ("idle", "active", "tunnels")
Row = tuple[Mapping[str, object], float]


def written(name: str, help_: str, rows: Iterable[Row], type_: str = "gauge") -> str:
    """Write a family; nothing when it has no rows."""
    lines = [f"{name}{_braced(labels)} {_number(value)}\n" for labels, value in rows]
    return f"# HELP {name} {help_}\n# TYPE {name} {type_}\n{''.join(lines)}" if lines else ""


class Gauges:
    """Writes the families that are not counted but read."""

    def __init__(
        self,
        board: Scoreboard,
        store: ConfigStore,
        metrics: "Metrics",
        checks: "CheckRegistry | None",
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._board = board
        self._store = store
        self._metrics = metrics
        self._checks = checks
        self._now_ns = now_ns

    def texts(self) -> Iterator[str]:
        """Write everything, in steps."""
        prefix = self._metrics.settings.metric_prefix
        living = [(entry, decode_status(entry.published())) for entry in self._board.living()]
        yield from self._of_apisix(prefix, living)
        yield from self._of_upstreams(prefix)
        yield from self._of_etcd(prefix)
        yield from self._of_workers(living)
        yield from self._of_master()
        yield from self._of_series()

    def _of_apisix(self, prefix: str, living: "list[tuple[Entry, SyncStatus]]") -> Iterator[str]:
        entries = [entry for entry, _ in living]
        states = {
            "active": sum(entry.connections for entry in entries),
            "reading": 0,
            "writing": sum(entry.active + entry.tunnels for entry in entries),
            "waiting": sum(entry.idle for entry in entries),
        }
        accepted = self._metrics.total("accepted")
        states |= {"accepted": accepted, "handled": accepted}
        yield written(
            f"{prefix}nginx_http_current_connections",
            "Number of HTTP connections",
            [({"state": state}, count) for state, count in states.items()],
        )
        yield written(
            f"{prefix}http_requests_total",
            "The total number of client requests since APISIX started",
            [({}, self._metrics.total("requests"))],
        )
        yield written(
            f"{prefix}nginx_metric_errors_total",
            "Number of values for which there was no room",
            [({}, self._metrics.table.refused)],
            "counter",
        )
        reachable = any(not status.last_error and not status.stale for _, status in living)
        yield written(f"{prefix}etcd_reachable", "Whether etcd can be reached, 0 is unreachable", [({}, reachable)])
        yield written(
            f"{prefix}node_info",
            "Info of APISIX node",
            [({"hostname": socket.gethostname(), "version": VERSION}, 1)],
        )
        table = self._metrics.table
        yield written(
            f"{prefix}shared_dict_capacity_bytes", "Memory for series of metrics", [({"name": "series"}, table.size)]
        )
        yield written(
            f"{prefix}shared_dict_free_space_bytes",
            "Memory for series of metrics that is not in use",
            [({"name": "series"}, table.free_bytes)],
        )

    def _of_upstreams(self, prefix: str) -> Iterator[str]:
        checks = self._checks
        if checks is None:
            return
        rows: dict[tuple[str, str, int], int] = {}
        for checker in list(checks):
            for target in dict.fromkeys(target for _, target in checker.members):
                state = checks.status_of(target).state
                rows[f"/{checker.resource}", target.host, target.port] = int(state.is_usable)
                if len(rows) % PORTION_LINES == 0:
                    yield ""
        yield written(
            f"{prefix}upstream_status",
            "Upstream status from health check",
            [({"name": name, "ip": ip, "port": port}, value) for (name, ip, port), value in rows.items()],
        )

    def _of_etcd(self, prefix: str) -> Iterator[str]:
        newest: dict[str, int] = {}
        for directory in ETCD_DIRECTORIES:
            newest[directory] = 0
            items = iter(list(self._store.caches[directory].items.values()))
            while portion := list(islice(items, PORTION)):
                newest[directory] = max(newest[directory], max(item.mod_revision for item in portion))
                yield ""
        newest["max_modify_index"] = max(newest.values())
        newest["prev_index"] = self._store.changed
        newest["x_etcd_index"] = self._store.revision
        yield written(
            f"{prefix}etcd_modify_indexes",
            "Etcd modify index for APISIX keys",
            [({"key": key}, revision) for key, revision in newest.items()],
        )

    def _of_workers(self, living: "list[tuple[Entry, SyncStatus]]") -> Iterator[str]:
        newest = max((status.revision for _, status in living), default=0)
        now = self._now_ns()

        def per_worker(name: str, help_: str, value: Callable[[Entry, SyncStatus], float], type_: str = "gauge") -> str:
            rows = [(_worker(entry), value(entry, status)) for entry, status in living]
            return written(f"{OWN}worker_{name}", help_, rows, type_)

        yield per_worker("revision", "Revision that a worker has applied", lambda _, status: status.revision)
        yield per_worker(
            "revision_lag", "Revisions that a worker is behind the others", lambda _, status: newest - status.revision
        )
        yield per_worker("rejected_objects", "Values that are not valid", lambda _, status: status.rejected)
        yield per_worker("stale", "Whether the configuration is of unknown age", lambda _, status: status.stale)
        yield per_worker("sync_incidents", "Losses noticed and healed", lambda _, status: status.incidents, "counter")
        yield per_worker("resident_bytes", "Memory", lambda entry, _: entry.rss)
        yield per_worker("requests", "Requests of a worker", lambda entry, _: entry.requests, "counter")
        yield per_worker(
            "heartbeat_age_seconds",
            "Since when a worker has said nothing",
            lambda entry, _: max(0.0, (now - (entry.heartbeat_ns or entry.born_ns)) / 1e9),
        )
        yield written(
            f"{OWN}worker_connections",
            "Connections of clients",
            [({**_worker(entry), "state": state}, getattr(entry, state)) for entry, _ in living for state in _STATES],
        )
        yield written(
            f"{OWN}worker_upstream_connections",
            "Connections to upstreams",
            [
                ({**_worker(entry), "state": state}, getattr(entry, f"upstream_{state}"))
                for entry, _ in living
                for state in ("idle", "active")
            ],
        )
        counts = {state: sum(entry.state == state for entry, _ in living) for state in WorkerState if state}
        yield written(
            f"{OWN}workers",
            "Workers by state",
            [({"state": state.name.lower()}, count) for state, count in counts.items()],
        )

    def _of_master(self) -> Iterator[str]:
        board = self._board
        record = read_record(board)
        yield written(f"{OWN}generation", "Generation of workers in force", [({}, record.generation)])
        yield written(
            f"{OWN}reloads_total",
            "Reloads by result",
            [({"result": "ok"}, record.reloads), ({"result": "failed"}, record.failed_reloads)],
            "counter",
        )
        yield written(
            f"{OWN}worker_restarts_total",
            "Workers that have died",
            [({"worker": slot}, board.restarts(slot)) for slot in range(board.slots)],
            "counter",
        )
        yield written(f"{OWN}master_resident_bytes", "Memory of the master", [({}, record.rss)])

    def _of_series(self) -> Iterator[str]:
        yield written(f"{OWN}metric_series", "Series that are counted", [({}, self._metrics.table.used)])


def _worker(entry: Entry) -> dict[str, object]:
    return {"worker": entry.slot, "generation": entry.generation, "pid": entry.pid}


def _braced(labels: Mapping[str, object]) -> str:
    inner = ",".join(pairs(labels, map(str, labels.values())))
    return f"{{{inner}}}" if inner else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.6f}"
