"""A log file that real media refuse to take."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worker.observability.line_file import TELL, LineFile


class Log(LineFile):
    """One that notes what it tells, and whose clock is moved by hand."""

    def __init__(self, path: Path) -> None:
        self.now = 0.0
        self.failures: list[str] = []
        self.recoveries: list[tuple[int, str]] = []
        super().__init__(
            path, 0.0, self.failures.append, lambda lost, why: self.recoveries.append((lost, why)), lambda: self.now
        )

    def later(self, line: bytes, seconds: float = TELL + 1) -> None:
        self.now += seconds
        self.write(line)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def log(path: Path) -> Iterator[Log]:
    opened = Log(path)
    yield opened
    opened.close()


def test_lines_are_appended(log: Log, path: Path) -> None:
    path.write_text("before\n")
    log.write(b"one\n")
    log.write(b"two\nthree\n")
    assert path.read_text() == "before\none\ntwo\nthree\n"
    assert log.failures == []


def test_a_full_disk_costs_lines_that_are_counted(path: Path) -> None:
    path.symlink_to("/dev/full")
    log = Log(path)
    log.open()
    for _ in range(3):
        log.write(b"lost\nand lost\n")
    assert log.failures == ["No space left on device"]
    path.unlink()
    log.later(b"found\n")
    assert path.read_text() == "found\n"
    assert log.recoveries == [(6, "No space left on device")]
    log.close()


def test_a_line_that_was_cut_is_completed(path: Path) -> None:
    os.mkfifo(path)
    log = Log(path)
    log.open()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    long = b"x" * 200_000 + b"\n"
    log.write(b"short\n" + long + b"lost\n")
    assert log.lost == 1
    read = b""
    while not read.endswith(b"\n" + b"next\n"):
        read += os.read(reader, 1 << 20)
        log.write(b"next\n" if len(read) > 200_000 else b"")
    assert read.startswith(b"short\n" + long + b"next\n")
    os.close(reader)
    log.close()


def test_a_directory_that_vanishes_and_comes_back(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    log = Log(directory / "log")
    log.write(b"one\n")
    (directory / "log").unlink()
    directory.rmdir()
    log.later(b"two\n")
    log.later(b"three\n")
    assert log.failures == ["No such file or directory"]
    directory.mkdir()
    log.later(b"four\n")
    assert (directory / "log").read_text() == "four\n"
    assert log.recoveries == [(2, "No such file or directory")]
    log.close()


def test_a_file_that_was_moved_away_is_written_to_until_it_is_opened_anew(log: Log, path: Path) -> None:
    fd = log.fd
    log.write(b"one\n")
    path.rename(path.with_suffix(".1"))
    log.later(b"two\n")
    assert path.with_suffix(".1").read_text() == "one\ntwo\n"
    log.open()
    log.write(b"three\n")
    assert path.read_text() == "three\n"
    assert log.fd == fd


def test_when_it_cannot_be_opened_anew_the_old_one_is_used(tmp_path: Path) -> None:
    directory = tmp_path / "logs"
    directory.mkdir()
    log = Log(directory / "log")
    log.write(b"one\n")
    directory.rename(tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        log.open()
    log.later(b"two\n")
    assert (tmp_path / "moved" / "log").read_text() == "one\ntwo\n"
    directory.mkdir()
    log.later(b"three\n")
    assert (directory / "log").read_text() == "three\n"
    assert (log.failures, log.recoveries) == ([], [])
    log.close()


def test_a_fifo_that_nobody_reads_takes_what_it_holds(path: Path) -> None:
    os.mkfifo(path)
    log = Log(path)
    log.open()
    line = b"x" * 999 + b"\n"
    for _ in range(100):
        log.write(line)
    assert log.failures == ["nobody takes what is written"]
    with path.open("rb", buffering=0) as reader:
        taken = reader.read(1 << 20)
        assert taken == line * (100 - log.lost)
        log.later(b"on\n")
        assert reader.read(1 << 20) == b"on\n"
    assert log.recoveries == [(100 - len(taken) // 1000, "nobody takes what is written")]
    log.close()


def test_a_reader_that_goes_and_another_that_comes(path: Path) -> None:
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log = Log(path)
    log.write(b"one\n")
    assert os.read(reader, 99) == b"one\n"
    os.close(reader)
    log.write(b"two\n")
    assert log.failures == ["Broken pipe"]
    log.later(b"three\n")  # kept in the pipe
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(reader, 99) == b"three\n"
    os.close(reader)
    log.close()


def test_losses_are_told_no_more_often_than_now_and_then(path: Path) -> None:
    os.mkfifo(path)
    log = Log(path)
    log.open()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    for _ in range(20):
        while log.lost < 5:
            log.write(b"x" * 4000 + b"\n")
        while True:
            try:
                os.read(reader, 1 << 20)
            except BlockingIOError:
                break
        log.later(b"on\n", seconds=1)
    assert 1 <= len(log.recoveries) <= 2 + 20 / TELL
    os.close(reader)
    log.close()


def test_a_closed_log_loses_its_lines(log: Log) -> None:
    log.close()
    log.write(b"one\n")
    log.close()
    assert log.lost == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(steps=st.lists(st.one_of(st.lists(st.integers(0, 9_000), max_size=12), st.integers(1, 90_000)), max_size=30))
def test_every_line_is_read_whole_or_counted(
    steps: list[list[int] | int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever is written to a pipe and read from it meanwhile."""
    path = tmp_path_factory.mktemp("fifo") / "log"
    os.mkfifo(path)
    log = LineFile(path, recovered=lambda lost, _: told.append(lost), clock=lambda: 0.0)
    told: list[int] = []
    log.open()
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    written: list[bytes] = []
    read = b""
    for step in [*steps, 1 << 20, [3], 1 << 20, [3], 1 << 20]:
        if isinstance(step, int):
            try:
                read += os.read(reader, step)
            except BlockingIOError:
                continue
        else:
            lines = [b"%d " % (len(written) + at) + b"x" * length + b"\n" for at, length in enumerate(step)]
            written += lines
            log.write(b"".join(lines))
    os.close(reader)
    log.close()
    got = read.splitlines(keepends=True)
    remaining = iter(written)
    assert all(line in remaining for line in got)
    assert len(got) + sum(told) + log.lost == len(written)


def test_standard_error_is_not_made_non_blocking() -> None:
    program = (
        "import os; from worker.observability.line_file import LineFile; log = LineFile(None);"
        "[log.write(b'x' * 999 + b'\\n') for _ in range(200)]; print(os.get_blocking(2), log.lost)"
    )
    read, write = os.pipe()
    told = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=write, timeout=20, check=True)
    os.close(write)
    blocking, lost = told.stdout.split()
    assert blocking == b"True"
    assert os.read(read, 1 << 20).count(b"\n") + int(lost) == 200
    os.close(read)
