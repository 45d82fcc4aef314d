"""Logs that cannot be written: real workers and a real master go on serving, and log again when they can."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.processes import ROOT, Etcd, Gateway, wait_until
from tests.fakes.upstream import Upstream

IS_ROOT = os.geteuid() == 0


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    directory = tmp_path / "logs"
    directory.mkdir()
    return directory


@pytest.fixture
def gateway(tmp_path: Path, etcd: Etcd, upstream: Upstream, logs: Path) -> Iterator[Gateway]:
    """One whose logs are in a directory of their own."""
    etcd.put("routes/1", {"uri": "/*", "upstream": {"nodes": {f"127.0.0.1:{upstream.port}": 1}}})
    names = {"error_log": str(logs / "error.log"), "access_log": str(logs / "access.log")}
    made = Gateway(tmp_path, etcd.url, log_level="debug", reload={"grace": 0.1}, **names)
    yield made
    made.kill()


def start(gateway: Gateway) -> None:
    gateway.launch()
    wait_until(lambda: is_ready(gateway), "all workers are ready")


def is_ready(gateway: Gateway) -> bool:
    try:
        return gateway.control("/status/ready")[0] == 200
    except OSError:
        return False


def serves(gateway: Gateway, times: int = 20) -> None:
    """Ask more often than there are workers."""
    for _ in range(times):
        assert gateway.get("/x") == (200, b"upstream")


def lives_on(gateway: Gateway) -> None:
    """Master and workers do all that they do: serve, replace a dead one, reload."""
    serves(gateway)
    victim = min(gateway.workers())
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in gateway.workers() and len(gateway.workers()) == 2, "a dead worker is replaced")
    wait_until(lambda: is_ready(gateway), "it is ready")
    done = gateway.command("-s", "reload")
    assert done.returncode == 0, done.stderr
    serves(gateway)


def grows(path: Path, gateway: Gateway, text: str = "/again") -> None:
    """Wait until a new request is in the access log."""

    def is_logged() -> bool:
        gateway.get("/again")
        return path.exists() and text in path.read_text()

    wait_until(is_logged, f"{text} is in {path.name}")


def is_told(gateway: Gateway, path: Path, text: str) -> None:
    """Wait until the master, which has something to say, tells what was lost."""
    gateway.signal(signal.SIGHUP)
    wait_until(lambda: path.exists() and text in path.read_text(), f"{text} is in {path.name}")


def fill(fd: int) -> None:
    """Write until there is no room."""
    with contextlib.suppress(OSError):
        while True:
            os.write(fd, b"x" * 4096)


def test_logs_on_a_full_device(gateway: Gateway, logs: Path) -> None:
    for name in ("error.log", "access.log"):
        (logs / name).symlink_to("/dev/full")
    start(gateway)
    lives_on(gateway)
    for name in ("error.log", "access.log"):
        (logs / name).unlink()
    grows(logs / "access.log", gateway)
    grows(logs / "error.log", gateway, "lines were lost: No space left on device")
    assert "access.log is written again" in (logs / "error.log").read_text()
    is_told(gateway, logs / "error.log", "#propylon.master: reloading")


@pytest.mark.skipif(not IS_ROOT, reason="only root can mount")
def test_logs_on_a_disk_that_fills_and_is_cleared(gateway: Gateway, logs: Path) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(logs)], check=False)
    if mounted.returncode:
        pytest.skip("no tmpfs can be mounted")
    errors = gateway.directory / "error.log"
    try:
        gateway.write_conf(error_log=str(errors))
        start(gateway)
        grows(logs / "access.log", gateway)
        with (logs / "ballast").open("ab", buffering=0) as ballast:
            fill(ballast.fileno())
        lives_on(gateway)

        def is_full() -> bool:
            assert gateway.get(f"/{'x' * 1000}")[0] == 200
            told = re.findall(r"(\d+)#propylon.access: .*: No space left on device", errors.read_text())
            return any(int(pid) in gateway.workers() for pid in told)

        wait_until(is_full, "the loss is told by a worker that lives on")
        (logs / "ballast").unlink()
        grows(logs / "access.log", gateway)
        grows(errors, gateway, "access.log is written again")
        lines = (logs / "access.log").read_text().splitlines()
        # Where the disk was full a line may end early; none has come into the middle of another since.
        assert all(line.startswith("127.0.0.1 ") for line in lines[-10:])
        gateway.kill()
    finally:
        subprocess.run(["umount", "-l", str(logs)], check=True)


def test_a_directory_that_vanishes(gateway: Gateway, logs: Path) -> None:
    start(gateway)
    grows(logs / "access.log", gateway)
    for path in logs.iterdir():
        path.unlink()
    logs.rmdir()
    gateway.signal(signal.SIGUSR1)
    serves(gateway)
    victim = min(gateway.workers())
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in gateway.workers() and len(gateway.workers()) == 2, "a dead worker is replaced")
    wait_until(lambda: is_ready(gateway), "it is ready")
    serves(gateway)
    done = gateway.command("-s", "reload")
    assert done.returncode == 1
    assert "No such file or directory" in done.stderr
    serves(gateway)
    logs.mkdir()
    grows(logs / "access.log", gateway)
    is_told(gateway, logs / "error.log", "lines of this log were lost: ")


def test_logs_are_fifos_that_nobody_reads(gateway: Gateway, logs: Path) -> None:
    for name in ("error.log", "access.log"):
        os.mkfifo(logs / name)
    start(gateway)
    for name in ("error.log", "access.log"):
        pipe = os.open(logs / name, os.O_WRONLY | os.O_NONBLOCK)
        fill(pipe)
        os.close(pipe)
    gateway.signal(signal.SIGUSR1)
    lives_on(gateway)
    with (logs / "error.log").open("rb", buffering=0) as errors, (logs / "access.log").open("rb", buffering=0) as lines:
        for reader in (errors, lines):
            os.set_blocking(reader.fileno(), False)
        taken, logged = b"", b""

        def are_read() -> bool:
            nonlocal taken, logged
            gateway.get("/again")
            gateway.signal(signal.SIGUSR1)
            taken += errors.read(1 << 20) or b""
            logged += lines.read(1 << 20) or b""
            return b"lines of this log were lost: nobody takes what is written" in taken and b"/again" in logged

        wait_until(are_read, "both are read again")


def test_standard_error_is_closed(gateway: Gateway) -> None:
    gateway.write_conf(error_log="stderr", access_log=False)
    gateway.process = subprocess.Popen(
        ["sh", "-c", f"exec {sys.executable} master.py -c {gateway.conf} 0<&- 1>&- 2>&-"], cwd=ROOT
    )
    wait_until(lambda: is_ready(gateway), "all workers are ready")
    lives_on(gateway)
    assert {os.readlink(f"/proc/{gateway.process.pid}/fd/{fd}") for fd in range(3)} == {"/dev/null"}


def test_nobody_reads_standard_error(gateway: Gateway) -> None:
    gateway.write_conf(error_log="stderr", access_log=False)
    read, write = os.pipe()
    try:
        os.set_blocking(write, False)
        fill(write)
        os.set_blocking(write, True)
        gateway.process = subprocess.Popen([sys.executable, "master.py", "-c", gateway.conf], cwd=ROOT, stderr=write)
        wait_until(lambda: is_ready(gateway), "all workers are ready")
        lives_on(gateway)
        taken = b""

        def is_read() -> bool:
            nonlocal taken
            gateway.signal(signal.SIGUSR1)
            taken += os.read(read, 1 << 20)
            return b"lines of this log were lost: nobody takes what is written" in taken

        wait_until(is_read, "it is read again")
    finally:
        os.close(write)
        os.close(read)
    lives_on(gateway)


@pytest.mark.skipif(not IS_ROOT, reason="only root can become somebody else")
def test_workers_log_requests_where_they_may_not_make_files(
    etcd: Etcd, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("gateway")
    for parent in (directory, *directory.parents):
        if not parent.stat().st_mode & 0o001:
            parent.chmod(0o755)
    logs = directory / "logs"
    logs.mkdir()
    names = {"error_log": str(logs / "error.log"), "access_log": str(logs / "access.log")}
    gateway = Gateway(directory, etcd.url, user="nobody", **names)
    try:
        start(gateway)
        gateway.get("/before")
        wait_until(lambda: "/before" in (logs / "access.log").read_text(), "the request is logged")
        for name in ("error.log", "access.log"):
            (logs / name).rename(logs / f"{name}.1")
        assert gateway.command("-s", "reopen").returncode == 0
        wait_until(lambda: (logs / "access.log").exists(), "there is a new file")
        gateway.get("/after")
        wait_until(lambda: "/after" in (logs / "access.log").read_text(), "the request is logged there")
    finally:
        gateway.kill()
