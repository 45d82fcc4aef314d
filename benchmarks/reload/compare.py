"""The same load over reloads of nginx, gunicorn and Propylon: ``python -m benchmarks.reload.compare --help``.

Each side has two workers and is sent HUP at the same pace. gunicorn is no proxy: it answers by itself, from threads.
"""

import argparse
import contextlib
import importlib.util
import json
import signal
import sys
import tempfile
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.load import sides
from benchmarks.load.report import machine
from benchmarks.load.sides import Server, nginx_command, nginx_configuration
from benchmarks.reload.load import Load
from benchmarks.reload.rig import rig
from benchmarks.reload.scenarios.driving import SHUTDOWN_TIMEOUT, WARM_UP, everybody
from benchmarks.reload.tally import Client, Seen, Summary
from benchmarks.reload.upstream import Upstream

WORKERS = 2


class Reloadable(Server):
    """A server that reloads on HUP."""

    speaks_websocket = True

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Return name and version."""

    def reload(self) -> None:
        """Ask for a reload."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)


class Nginx(Reloadable):
    """nginx as a proxy; ``listen`` is what stands behind the address."""

    name = "nginx"
    listen = ""

    def __init__(self, directory: Path, upstream_port: int) -> None:
        super().__init__(directory, None)
        self._upstream_port = upstream_port

    def command(self) -> list[str]:
        """Write nginx.conf."""
        http_block = f"""
    upstream origin {{ server 127.0.0.1:{self._upstream_port}; keepalive 64; }}
    map $http_upgrade $upgrades {{ default upgrade; "" ""; }}
    server {{
        listen 127.0.0.1:{self.port} backlog=2048 {self.listen};
        location / {{
            proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $upgrades;
        }}
    }}
"""
        main_block = f"worker_shutdown_timeout {SHUTDOWN_TIMEOUT:g}s;"
        return nginx_command(self.directory, nginx_configuration(self.directory, WORKERS, http_block, main_block))

    @classmethod
    def version(cls) -> str:
        """Return nginx's version."""
        return sides.Nginx.version()


class NginxReuseport(Nginx):
    """nginx whose workers have sockets of their own."""

    name = "nginx, reuseport"
    listen = "reuseport"


class Gunicorn(Reloadable):
    """gunicorn with threads, which answers by itself."""

    name = "gunicorn (gthread, no proxy)"
    speaks_websocket = False

    def __init__(self, directory: Path, upstream_port: int) -> None:
        super().__init__(directory, None)

    def command(self) -> list[str]:
        """Return gunicorn's command; it has no file."""
        return [
            *(sys.executable, "-m", "gunicorn", "--worker-class", "gthread", "--threads", "128"),
            *("--workers", str(WORKERS), "--bind", f"127.0.0.1:{self.port}", "--backlog", "2048"),
            *("--keep-alive", "75", "--graceful-timeout", f"{SHUTDOWN_TIMEOUT:g}", "--no-control-socket"),
            "benchmarks.reload.static_app:application",
        ]

    @classmethod
    def version(cls) -> str:
        """Return gunicorn's version."""
        return f"gunicorn {metadata.version('gunicorn')}"


OTHERS: dict[str, type[Reloadable]] = {"nginx": Nginx, "nginx-reuseport": NginxReuseport, "gunicorn": Gunicorn}
SIDES = [*OTHERS, "propylon"]


@contextlib.contextmanager
def _running(side: str, directory: Path) -> Iterator[tuple[Load, int, bool, Callable[[], object]]]:
    """Start a side; gives the load, the port, whether it speaks WebSocket, and what reloads it."""
    if side == "propylon":
        settings = {"worker_processes": WORKERS, "worker_shutdown_timeout": SHUTDOWN_TIMEOUT}
        with rig(directory, **settings) as running:
            yield running.load, running.gateway.port, True, running.reload
        return
    with Upstream() as upstream, Load() as load:
        server = OTHERS[side](directory, upstream.port)
        try:
            server.start("/token/1")
            yield load, server.port, server.speaks_websocket, server.reload
        finally:
            server.stop()


def measure(side: str, directory: Path, reloads: int, pause: float) -> Summary:
    """Reload a side so often under load, one reload every ``pause`` seconds, or when the last one is over."""
    with _running(side, directory) as (load, port, speaks_websocket, reload):
        group = everybody(port)
        if not speaks_websocket:
            group = msgspec.structs.replace(group, websockets=0)
        load.start(group)
        time.sleep(WARM_UP)
        for _ in range(reloads):
            begun = time.monotonic()
            reload()
            time.sleep(max(0.0, begun + pause - time.monotonic()))
        load.stop(group.name)
        return load.mark()


def table(summaries: dict[str, Summary]) -> str:
    """Write a table in Markdown: failures of 10,000 requests."""
    lines = [
        "| per 10,000 requests | " + " | ".join(Client) + " |",
        "|---|" + "---:|" * len(Client),
    ]
    for name, summary in summaries.items():
        cells = [_cell(summary.clients.get(client), client, summary) for client in Client]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(seen: Seen | None, client: Client, summary: Summary) -> str:
    if seen is None:
        return "–"
    failed = sum(seen.failed.values())
    asked = seen.answered if client is Client.WEBSOCKET else seen.answered + failed
    if not failed:
        return f"0 of {asked:,}"
    kinds = ", ".join(f"{count} {fault}" for fault, count in seen.failed.items())
    return f"{failed / asked * 10_000:.1f} ({kinds} of {asked:,})"


def _versions(names: list[str]) -> dict[str, str]:
    return {name: OTHERS[name].version() if name in OTHERS else sides.Propylon.version() for name in names}


def main(arguments: list[str]) -> int:
    """Measure the sides one after the other, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reload.compare", description=__doc__)
    parser.add_argument("--sides", default=",".join(SIDES), help="some of %(default)s")
    parser.add_argument("--reloads", type=int, default=30, help="of each side (%(default)s)")
    parser.add_argument("--pause", type=float, default=3.0, help="seconds from one reload to the next (%(default)s)")
    parser.add_argument("--json", type=Path, help="where the figures go")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    names = [name for name in options.sides.split(",") if name in SIDES]
    if "gunicorn" in names and importlib.util.find_spec("gunicorn") is None:
        print("gunicorn is not installed (pip install gunicorn), and left out", file=sys.stderr)
        names.remove("gunicorn")
    summaries: dict[str, Summary] = {}
    for name in names:
        with tempfile.TemporaryDirectory(prefix="propylon-compare-") as directory:
            summaries[name] = measure(name, Path(directory), options.reloads, options.pause)
    versions = _versions(names)
    print("\n".join(versions.values()) + "\n\n" + table(summaries))
    if options.json is not None:
        figures: dict[str, Any] = {
            "command": " ".join(["python -m benchmarks.reload.compare", *arguments]),
            "machine": machine(),
            "versions": versions,
            "sides": {name: msgspec.to_builtins(summary.clients) for name, summary in summaries.items()},
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
