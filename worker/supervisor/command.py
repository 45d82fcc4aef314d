"""The command line: what it may say, and how a running master is signalled."""

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from config_sync.settings import Settings
from worker.supervisor.files import OLD_SUFFIX, UPGRADE_RESULT, PidFile, is_alive, is_master, read_record, reload_result
from worker.supervisor.rollout import RESUME_WAIT

SIGNALS = {
    "reload": signal.SIGHUP,
    "quit": signal.SIGQUIT,
    "stop": signal.SIGTERM,
    "reopen": signal.SIGUSR1,
    "upgrade": signal.SIGUSR2,
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
    parser.add_argument("-s", dest="signal", choices=SIGNALS, help="signal a running master; reload and upgrade wait")
    parser.add_argument("-v", action="version", version=f"propylon {own_version()}")
    return parser.parse_args(words)


def send_signal(settings: Settings, word: str) -> int:
    """Carry out ``-s``; a reload and an upgrade are waited for."""
    path = settings.path(settings.pid)
    pid = PidFile(path).read()
    if pid is None or not is_master(pid, _owners(settings)):
        print(f"propylon: no master is running ({path})", file=sys.stderr)
        return 1
    if word in ("quit", "stop"):
        _end_the_old_one(settings, SIGNALS[word])
    sent_ns, upgraded = time.monotonic_ns(), read_record(settings.path(UPGRADE_RESULT))
    try:
        os.kill(pid, SIGNALS[word])
    except OSError as error:
        print(f"propylon: cannot signal process {pid} ({path}): {error.strerror}", file=sys.stderr)
        return 1
    if word == "upgrade":
        return _wait_for_upgrade(settings, pid, upgraded)
    return _wait_for_reload(settings, pid, sent_ns) if word == "reload" else 0


def _end_the_old_one(settings: Settings, number: signal.Signals) -> None:
    """Signal the master that was upgraded and still runs: the new one, when it is told to end, leaves all to it."""
    old = PidFile(settings.path(settings.pid + OLD_SUFFIX)).read()
    if old is not None and is_master(old, _owners(settings)):
        with contextlib.suppress(OSError):
            os.kill(old, number)


def _wait_for_upgrade(settings: Settings, pid: int, before: dict[str, object]) -> int:
    """Wait until the new master is ready, and tell the old one to go; ``before`` is what there was to read then."""
    path = settings.path(UPGRADE_RESULT)
    until = time.monotonic() + settings.worker_startup_timeout + longest_reload(settings)
    while time.monotonic() < until and is_alive(pid):
        result = read_record(path)
        if result != before and result.get("ok"):
            os.kill(pid, signal.SIGQUIT)
            return 0
        if result != before:
            print(f"propylon: the upgrade has failed, nothing has changed: {result.get('reason')}", file=sys.stderr)
            return 1
        time.sleep(0.05)
    print("propylon: the master has not answered in time; its log tells more", file=sys.stderr)
    return 1


def _owners(settings: Settings) -> set[int]:
    """Return whom a master may belong to: us, or the owner of the directory it writes to."""
    with contextlib.suppress(OSError):
        return {os.geteuid(), os.stat(settings.runtime_dir).st_uid}
    return {os.geteuid()}


def _wait_for_reload(settings: Settings, pid: int, sent_ns: int) -> int:
    """Wait for the outcome of a reload that has begun after a moment; an earlier one may still be under way."""
    until = time.monotonic() + 2 * longest_reload(settings)
    while time.monotonic() < until:
        result = reload_result(settings)
        began_ns = result.get("began_ns")
        if isinstance(began_ns, int) and began_ns >= sent_ns:
            if result.get("ok"):
                return 0
            print(f"propylon: reload failed: {result.get('reason')}", file=sys.stderr)
            return 1
        if not is_alive(pid):
            print("propylon: the master has ended meanwhile", file=sys.stderr)
            return 1
        time.sleep(0.05)
    print("propylon: the master has not answered in time", file=sys.stderr)
    return 1


def longest_reload(settings: Settings) -> float:
    """Return how many seconds a reload can take: forward up to the last slot, and then all the way back."""
    reload, slots = settings.reload, settings.worker_count()
    turn = settings.worker_startup_timeout + reload.drain_wait
    return reload.check_timeout + slots * turn + 2 * reload.grace + RESUME_WAIT + settings.worker_startup_timeout
