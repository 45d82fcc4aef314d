"""The command line: what it may say, and how a running master is signalled."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from config_sync.settings import Settings
from worker.supervisor.files import PidFile, is_alive, reload_result

SIGNALS = {
    "reload": signal.SIGHUP,
    "quit": signal.SIGQUIT,
    "stop": signal.SIGTERM,
    "reopen": signal.SIGUSR1,
}


def own_version() -> str:
    """Return the version of this installation."""
    try:
        return version("propylon")
    except PackageNotFoundError:
        return "(not installed)"


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """Read the command line; ends the process when it is of no use."""
    parser = argparse.ArgumentParser(
        "propylon", description="An API gateway configured from etcd.", epilog="propylon ctl --help: what is in etcd."
    )
    parser.add_argument("-c", dest="conf", metavar="FILE", default="conf/config.yaml", help="settings (%(default)s)")
    parser.add_argument("-t", dest="test", action="store_true", help="check the settings and exit")
    parser.add_argument("-s", dest="signal", choices=SIGNALS, help="signal a running master; reload waits")
    parser.add_argument("-v", action="version", version=f"propylon {own_version()}")
    return parser.parse_args(words)


def send_signal(settings: Settings, word: str) -> int:
    """Carry out ``-s``; a reload is waited for."""
    pid = PidFile(settings.path(settings.pid)).read()
    if pid is None or not is_alive(pid):
        print(f"propylon: no master is running ({settings.path(settings.pid)})", file=sys.stderr)
        return 1
    before = reload_result(settings)
    os.kill(pid, SIGNALS[word])
    if word != "reload":
        return 0
    until = time.monotonic() + settings.worker_startup_timeout + 10
    while time.monotonic() < until:
        result = reload_result(settings)
        if result != before:
            if result.get("ok"):
                return 0
            print(f"propylon: reload failed: {result.get('reason')}", file=sys.stderr)
            return 1
        time.sleep(0.05)
    print("propylon: the master has not answered in time", file=sys.stderr)
    return 1
