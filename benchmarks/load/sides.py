"""The proxies that are compared and the origin behind them: how each is configured, started and stopped.

Each is given its plainest fast configuration: HTTP/1.1 with kept-alive connections on both sides, no access
log, no copy of a body on disk. nginx and HAProxy add no header to what they forward; Propylon adds the five
that APISIX adds (X-Real-IP, X-Forwarded-*), so what it does more is counted against it.
"""

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import ClassVar

from benchmarks.load.measure import children, process_tree
from benchmarks.load.plugin_sets import NO_PLUGINS
from benchmarks.load.scenarios import LARGE_BODY_BYTES, Setup
from conf.demo.embedded_etcd import EmbeddedEtcd, Gateway, free_port, stop_process

ROOT = Path(__file__).resolve().parents[2]

# The Debian package of each tool.
PACKAGES = {"wrk": "wrk", "nginx": "nginx-light", "haproxy": "haproxy", "taskset": "util-linux"}

SMALL_BODY = "A small body of about one hundred bytes, as an answer of an interface or a beacon would be: 0123456789."


class SideError(Exception):
    """A side could not be started or does not answer as it should."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core is the proxy's and which one the load's and the origin's; None when there is only one."""

    proxy: int | None
    load: int | None

    @classmethod
    def choose(cls) -> "Cores":
        """Take the first two cores that this process may use."""
        usable = sorted(os.sched_getaffinity(0))
        return cls(usable[0], usable[1]) if len(usable) > 1 else cls(None, None)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every side is given: a scratch directory, the cores, the origin and etcd, if there is one."""

    directory: Path
    cores: Cores
    origin_port: int
    etcd_url: str


def pinned(core: int | None) -> tuple[str, ...]:
    """Return the words before a command that keep it, and all its children, on one core."""
    return () if core is None else ("taskset", "-c", str(core))


def tool(name: str) -> str:
    """Return the path of a tool; Debian keeps servers in /usr/sbin, which is not on every user's PATH."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise SideError(f"{name} is missing: apt-get install {PACKAGES[name]}")
    return found


class Server(ABC):
    """A process that listens on a port of 127.0.0.1; a context manager."""

    name: ClassVar[str]

    def __init__(self, directory: Path, core: int | None) -> None:
        """Choose where its files are and which core it runs on."""
        self.directory = directory
        self.port = free_port()
        self._core = core
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Write the configuration and return the command that runs the server in the foreground."""

    @property
    def pid(self) -> int:
        """The process that was started."""
        assert self._process is not None
        return self._process.pid

    @property
    def pids(self) -> list[int]:
        """The process that was started and all its descendants."""
        return process_tree(self.pid)

    @property
    def workers(self) -> list[int]:
        """The processes that answer requests."""
        return children(self.pid) or [self.pid]

    def start(self, check_path: str, timeout: float = 30.0, headers: Sequence[str] = ()) -> None:
        """Start it and return when ``check_path`` answers 200 to a request with these headers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        log_path = self.directory / "log"
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*pinned(self._core), *self.command()],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout
        while (status := get(self.port, check_path, headers)[0]) != http.HTTPStatus.OK:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise SideError(f"{self.name} answers {status} on {check_path}; its log:\n{log_path.read_text()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it, and wait until it is gone."""
        if self._process is not None:
            stop_process(self._process)


class Origin(Server):
    """The nginx behind the proxies.

    ``/large`` is a file, ``/sink`` reads a request body to its end before it answers, anything else is a
    small text. nginx answers a POST by ``return`` before it has read the body; a proxied request is read to
    its end first, so the sink forwards the bare head to itself.
    """

    name = "origin"

    def command(self) -> list[str]:
        """Write nginx.conf and the large file."""
        (self.directory / "large").write_bytes(b"x" * LARGE_BODY_BYTES)
        configuration = nginx_configuration(
            self.directory,
            1,
            f"""
    default_type text/plain;
    sendfile on;
    open_file_cache max=10;
    upstream self {{ server 127.0.0.1:{self.port}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{self.port} backlog=4096;
        location / {{ return 200 "{SMALL_BODY}"; }}
        location = /large {{ alias {self.directory}/large; }}
        location = /sink {{
            client_body_buffer_size 2m;
            proxy_pass http://self/;
            proxy_method GET;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header Connection "";
            proxy_http_version 1.1;
        }}
    }}
""",
        )
        return nginx_command(self.directory, configuration)


class Side(Server):
    """A proxy in one set-up."""

    def __init__(self, setup: Setup, around: Surroundings) -> None:
        """Prepare the proxy; one worker has a core to itself, more share all."""
        directory = around.directory / f"{self.name}-{setup.workers}-{setup.routes}-{setup.plugins.name}"
        super().__init__(directory, around.cores.proxy if setup.workers == 1 else None)
        self.setup = setup
        self._around = around

    @classmethod
    def can(cls, setup: Setup) -> bool:
        """Tell whether it can do what a set-up asks for."""
        return True

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """Return name and version for the report."""


# In each location: those that set more do not inherit it.
_NGINX_PASS = 'proxy_set_header Connection ""; proxy_set_header Host $http_host;'


class Nginx(Side):
    """nginx's proxy_pass: the measure of the others."""

    name = "nginx"

    def command(self) -> list[str]:
        """Write nginx.conf: a location for each route."""
        plugins = self.setup.plugins
        locations = "\n".join(
            f"        location {uri} {{ {_NGINX_PASS} {plugins.nginx_location} proxy_pass http://origin; }}"
            for uri in self.setup.route_uris
        )
        listen = "reuseport" if self.setup.workers > 1 else ""
        configuration = nginx_configuration(
            self.directory,
            self.setup.workers,
            f"""
    {plugins.nginx_http}
    upstream origin {{ server 127.0.0.1:{self._around.origin_port}; keepalive 128; }}
    proxy_http_version 1.1;
    proxy_request_buffering off;
    client_body_buffer_size 128k;
    proxy_max_temp_file_size 0;
    proxy_buffer_size 16k;
    proxy_buffers 8 16k;
    server {{
        listen 127.0.0.1:{self.port} backlog=4096 {listen};
{locations}
    }}
""",
        )
        return nginx_command(self.directory, configuration)

    @classmethod
    def version(cls) -> str:
        """Return nginx's version."""
        return _first_line(tool("nginx"), "-v").removeprefix("nginx version: ")


class Haproxy(Side):
    """HAProxy: the other C proxy that people would use instead."""

    name = "haproxy"

    @classmethod
    def can(cls, setup: Setup) -> bool:
        """Tell that it is compared without plugins alone."""
        return setup.plugins is NO_PLUGINS

    def command(self) -> list[str]:
        """Write haproxy.cfg: a map of prefixes for the routes."""
        routes = self.directory / "routes.map"
        routes.write_text("".join(f"{uri} origin\n" for uri in self.setup.route_uris))
        path = self.directory / "haproxy.cfg"
        path.write_text(f"""\
global
    nbthread {self.setup.workers}
    maxconn 4096
defaults
    mode http
    http-reuse always
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    timeout http-keep-alive 60s
frontend clients
    bind 127.0.0.1:{self.port} backlog 4096
    use_backend %[path,map_beg({routes})]
backend origin
    server origin 127.0.0.1:{self._around.origin_port} pool-max-conn 128
""")
        return [tool("haproxy"), "-db", "-f", str(path)]

    @classmethod
    def version(cls) -> str:
        """Return HAProxy's version."""
        return " ".join(_first_line(tool("haproxy"), "-v").split()[:3])


class Propylon(Side):
    """Our gateway, with its routes in a real etcd under a prefix of their own."""

    name = "propylon"

    @property
    def etcd_prefix(self) -> str:
        """The prefix of its configuration in etcd."""
        return f"/benchmark-{self.setup.workers}-{self.setup.routes}-{self.setup.plugins.name}"

    def command(self) -> list[str]:
        """Write the routes into etcd and config.yaml (JSON is YAML) into the directory."""
        gateway = Gateway(self._around.etcd_url)
        gateway.delete_prefix(f"{self.etcd_prefix}/")
        records = {f"{self.etcd_prefix}/{key}": value for key, value in self.setup.plugins.records}
        records |= {self.route_key(str(n)): self.route(uri) for n, uri in enumerate(self.setup.route_uris)}
        gateway.put_many(records)
        gateway.close()
        path = self.directory / "config.yaml"
        path.write_text(
            json.dumps(
                {
                    "worker_processes": self.setup.workers,
                    "listen": [f"127.0.0.1:{self.port}"],
                    "control": {"listen": f"127.0.0.1:{free_port()}"},
                    "backlog": 4096,
                    "runtime_dir": str(self.directory),
                    "access_log": "off",
                    "log_level": "warn",
                    "snapshot": "off",
                    "etcd": {"host": [self._around.etcd_url], "prefix": self.etcd_prefix},
                }
            )
        )
        return [sys.executable, str(ROOT / "master.py"), "-c", str(path)]

    def route_key(self, identity: str) -> str:
        """Return the key of a route."""
        return f"{self.etcd_prefix}/routes/{identity}"

    def route(self, prefix: str) -> str:
        """Return a route that sends everything under ``prefix`` to the origin, as JSON."""
        upstream = {"type": "roundrobin", "nodes": {f"127.0.0.1:{self._around.origin_port}": 1}}
        plugins = json.loads(self.setup.plugins.plugins)
        return json.dumps({"uri": f"{prefix}*", "upstream": upstream, **({"plugins": plugins} if plugins else {})})

    @classmethod
    def version(cls) -> str:
        """Return Propylon's commit and the versions it stands on."""
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip()
        python = ".".join(map(str, sys.version_info[:3]))
        packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("uvloop", "httptools", "msgspec"))
        return f"propylon {commit or 'uncommitted'} (Python {python}, {packages})"


SIDES: dict[str, type[Side]] = {side.name: side for side in (Nginx, Haproxy, Propylon)}


@contextlib.contextmanager
def surroundings(directory: Path, cores: Cores, with_etcd: bool) -> Iterator[Surroundings]:
    """Start the origin, and an etcd if a side needs it, on the core of the load."""
    with contextlib.ExitStack() as stack:
        origin = Origin(directory / "origin", cores.load)
        stack.callback(origin.stop)
        origin.start("/large")
        etcd_url = ""
        if with_etcd:
            etcd = stack.enter_context(EmbeddedEtcd(directory / "etcd", command_prefix=pinned(cores.load)))
            etcd_url = etcd.url
        yield Surroundings(directory, cores, origin.port, etcd_url)


@contextlib.contextmanager
def running(side: Side) -> Iterator[Side]:
    """Keep a side running."""
    try:
        side.start(side.setup.check_path, headers=side.setup.headers)
        yield side
    finally:
        side.stop()


def get(port: int, path: str, headers: Sequence[str] = ()) -> tuple[int, bytes]:
    """Return status and body of one GET over a connection of its own; status 0 if there was no answer.

    ``headers`` are lines, as wrk takes them.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5.0)
    try:
        pairs = (line.partition(": ") for line in headers)
        connection.request("GET", path, headers={name: value for name, _, value in pairs})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def nginx_configuration(directory: Path, workers: int, http_block: str, main_block: str = "") -> str:
    """Write an nginx.conf whose files are all in the directory."""
    temporary = "\n".join(
        f"    {kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    # As root nginx would drop to a user who cannot enter the scratch directory.
    user = "user root;" if os.geteuid() == 0 else ""
    return f"""\
daemon off;
{user}
worker_processes {workers};
{main_block}
pid {directory}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000;
    client_max_body_size 0;
{temporary}
{http_block}
}}
"""


def nginx_command(directory: Path, configuration: str) -> list[str]:
    """Put the configuration into the directory, and return the command that runs it."""
    path = directory / "nginx.conf"
    path.write_text(configuration)
    return [tool("nginx"), "-p", str(directory), "-c", str(path), "-e", "stderr"]


def _first_line(*command: str) -> str:
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return (run.stdout or run.stderr).splitlines()[0]
