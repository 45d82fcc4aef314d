"""``make run``: an etcd, an upstream, a route and the gateway, all of them ended together by Ctrl-C.

An etcd that is configured is used as it is. Otherwise an embedded one keeps its data in the runtime directory, so
routes written today are there tomorrow.
"""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conf.demo.embedded_etcd import (
    DEFAULT_PORT,
    EmbeddedEtcd,
    EtcdError,
    Gateway,
    free_port,
    is_port_free,
    stop_process,
)
from conf.demo.etcdctl import DEFAULT_URL, url_file
from config_sync.errors import SettingsError
from config_sync.settings import Settings
from config_sync.settings_file import load_settings

ROOT = Path(__file__).resolve().parents[2]
CONFIGURATION = Path("conf/config.yaml")
UPSTREAM_PORT = 8081
WORKERS = 2
DEMO_PATH = "/hello"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DemoError(Exception):
    """The demo cannot start, or one of its parts has ended."""


@dataclass
class Demo:
    """The parts as they are started; ``children`` in the order of their start."""

    settings: Settings
    environ: dict[str, str]
    etcd_url: str = ""
    is_etcd_embedded: bool = False
    upstream_port: int = UPSTREAM_PORT
    control_address: str = ""
    master: subprocess.Popen[bytes] | None = None
    children: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def gateway_address(self) -> str:
        """Where a client on this machine reaches the gateway, as ``host:port``."""
        address = self.settings.addresses()[0]
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(address.host, address.host)
        return f"{host}:{address.port}"


def is_etcd_configured(environ: Mapping[str, str], hosts: Sequence[str]) -> bool:
    """Tell whether somebody has said which etcd to use, by the environment or by the configuration."""
    named = ("PROPYLON_ETCD_HOST", "APISIX_DEPLOYMENT_ETCD_HOST")
    return any(environ.get(name) for name in named) or list(hosts) != [DEFAULT_URL]


def start_etcd(demo: Demo, stack: contextlib.ExitStack) -> None:
    """Use the etcd that is configured, or start one: on the usual port, or a free one if that is taken."""
    if is_etcd_configured(demo.environ, demo.settings.etcd.host):
        demo.etcd_url = demo.settings.etcd.host[0]
        return
    left = url_file(demo.environ)
    etcd = EmbeddedEtcd(left.parent, DEFAULT_PORT if is_port_free(DEFAULT_PORT) else free_port())
    stack.enter_context(etcd)
    assert etcd.process is not None
    demo.children["etcd"] = etcd.process
    demo.is_etcd_embedded = True
    demo.etcd_url = demo.environ["PROPYLON_ETCD_HOST"] = etcd.url
    left.write_text(f"{etcd.url}\n")
    stack.callback(left.unlink, missing_ok=True)


def start_child(demo: Demo, stack: contextlib.ExitStack, name: str, command: list[str]) -> subprocess.Popen[bytes]:
    """Start a part in a session of its own, so that Ctrl-C reaches only us and we end the parts in order."""
    child = subprocess.Popen(command, env=demo.environ, stdin=subprocess.DEVNULL, start_new_session=True)
    stack.callback(stop_process, child)
    demo.children[name] = child
    return child


def start_upstream(demo: Demo, stack: contextlib.ExitStack) -> None:
    """Start the demo upstream and wait until it answers."""
    if not is_port_free(demo.upstream_port):
        demo.upstream_port = free_port()
    command = [sys.executable, "-m", "conf.demo.upstream", str(demo.upstream_port), "demo upstream"]
    start_child(demo, stack, "demo upstream", command)
    wait_for_answer(demo, f"127.0.0.1:{demo.upstream_port}")


def write_resources(demo: Demo) -> None:
    """Write the demo's upstream and its route, unless there are routes.

    The embedded etcd is ours: its demo upstream always gets the port that the upstream has today. A configured one
    may want a password or a certificate, which the demo does not know: then there is no demo route, but a gateway.
    """
    prefix = demo.settings.etcd.prefix
    gateway = Gateway(demo.etcd_url)
    try:
        has_routes = gateway.count(f"{prefix}/routes/") > 0
        if demo.is_etcd_embedded or not has_routes:
            upstream = {"type": "roundrobin", "nodes": {f"127.0.0.1:{demo.upstream_port}": 1}}
            gateway.put(f"{prefix}/upstreams/demo", json.dumps(upstream))
        if not has_routes:
            gateway.put(f"{prefix}/routes/demo", json.dumps({"uri": DEMO_PATH, "upstream_id": "demo"}))
    except EtcdError as error:
        if demo.is_etcd_embedded:
            raise
        print(f"make run: no demo route written: {error}", file=sys.stderr)
    finally:
        gateway.close()


def start_master(demo: Demo, stack: contextlib.ExitStack) -> None:
    """Start the gateway and wait until it answers."""
    port = demo.settings.addresses()[0].port
    if not is_port_free(port):
        raise DemoError(f"port {port} is taken; for example: PROPYLON_LISTEN=127.0.0.1:{free_port()} make run")
    control = demo.settings.control_address()
    if control is not None and "PROPYLON_CONTROL" not in demo.environ and not is_port_free(control.port):
        demo.environ["PROPYLON_CONTROL"] = demo.control_address = f"127.0.0.1:{free_port()}"
    command = [sys.executable, str(ROOT / "master.py"), "-c", str(CONFIGURATION)]
    demo.master = start_child(demo, stack, "master", command)
    wait_for_answer(demo, demo.gateway_address)


def wait_for_answer(demo: Demo, address: str, timeout: float = 30.0) -> None:
    """Return when the server at ``address`` answers, whatever it says."""
    deadline = time.monotonic() + timeout
    while not answers(address):
        check_children(demo)
        if time.monotonic() > deadline:
            raise DemoError(f"nothing answers on {address} after {timeout:.0f} s")
        time.sleep(0.05)


def answers(address: str) -> bool:
    """Tell whether a server at ``address`` answers a request."""
    connection = http.client.HTTPConnection(address, timeout=2.0)
    try:
        connection.request("GET", DEMO_PATH)
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def check_children(demo: Demo) -> None:
    """Raise DemoError if a part has ended."""
    for name, child in demo.children.items():
        if child.poll() is not None:
            raise DemoError(f"{name} has ended with status {child.returncode}")


def welcome(demo: Demo) -> str:
    """Return what the user can do now."""
    assert demo.master is not None
    prefix, address = demo.settings.etcd.prefix, demo.gateway_address
    whose = f"embedded, data in {url_file(demo.environ).parent}" if demo.is_etcd_embedded else "as configured"
    etcdctl = f"{os.path.relpath(Path(sys.executable).parent / 'etcdctl')} --endpoints={demo.etcd_url}"
    return f"""
  gateway        http://{address}   (master {demo.master.pid}, {demo.environ["PROPYLON_WORKERS"]} workers)
  control        http://{demo.control_address}/v1/sync
  demo upstream  http://127.0.0.1:{demo.upstream_port}
  etcd           {demo.etcd_url}   ({whose})

In another terminal, paste:

  curl -i http://{address}{DEMO_PATH}
  {etcdctl} put {prefix}/routes/new '{{"uri":"/new/*","upstream_id":"demo"}}'
  curl -i http://{address}/new/route
  {etcdctl} get {prefix}/ --prefix
  kill -HUP {demo.master.pid}

The last one brings new workers with the settings and the code of now, and loses no request.
Settings: {CONFIGURATION}. How a request travels: README.md and docs/. Ctrl-C ends everything.
"""


def run() -> None:
    """Start everything, and return only by an exception: the user's signal, or the end of a part.

    Raises:
        KeyboardInterrupt: SIGINT, SIGTERM or SIGHUP.
        DemoError, EtcdError, SettingsError: the reason why it did not start or had to end.
    """
    environ = {"PROPYLON_WORKERS": str(WORKERS), **os.environ}
    settings = load_settings(CONFIGURATION, environ)
    demo = Demo(settings, environ, control_address=settings.control.listen)
    with contextlib.ExitStack() as stack:
        try:
            start_etcd(demo, stack)
            start_upstream(demo, stack)
            write_resources(demo)
            start_master(demo, stack)
            print(welcome(demo), flush=True)
            while True:
                check_children(demo)
                time.sleep(0.2)
        finally:
            # The stack stops the parts now; a second Ctrl-C must not leave one of them behind.
            for number in STOP_SIGNALS:
                signal.signal(number, signal.SIG_IGN)


def main() -> int:
    """Run the demo from the project's directory; 0 when the user has ended it."""
    os.chdir(ROOT)
    for number in STOP_SIGNALS:
        signal.signal(number, signal.default_int_handler)
    try:
        run()
    except KeyboardInterrupt:
        print("stopped", flush=True)
        return 0
    except (DemoError, EtcdError, SettingsError) as error:
        print(f"make run: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
