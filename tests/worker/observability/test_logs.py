"""The error log of a process."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.processes import wait_until
from worker.observability.line_file import LineFile
from worker.observability.line_writer import LineWriter
from worker.observability.logs import LOGGERS, ErrorLog

log = logging.getLogger("propylon.test")


@pytest.fixture(autouse=True)
def _loggers_as_before() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    yield
    for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.mark.parametrize("in_thread", [False, True])
def test_lines_have_time_level_process_and_name(tmp_path: Path, in_thread: bool) -> None:
    opened = ErrorLog(tmp_path / "log", "info", in_thread)
    log.debug("hidden")
    log.warning("%s %d", "told", 5)
    logging.getLogger("asyncio").error("from the loop")
    opened.close()
    first, second = (tmp_path / "log").read_text().splitlines()
    assert first[20:] == f"[warn] {os.getpid()}#propylon.test: told 5"
    assert second[20:] == f"[error] {os.getpid()}#asyncio: from the loop"


def test_a_call_with_wrong_arguments_is_logged_as_it_is(tmp_path: Path) -> None:
    opened = ErrorLog(tmp_path / "log", "info", in_thread=False)
    log.info("%d bytes", "many")
    opened.close()
    assert "'%d bytes' ('many',)" in (tmp_path / "log").read_text()


def test_another_log_takes_over_and_the_old_one_is_closed(tmp_path: Path) -> None:
    old = ErrorLog(tmp_path / "old", "info", in_thread=False)
    new = ErrorLog(tmp_path / "new", "info", in_thread=False)
    log.info("here")
    assert old.fileno() == -1
    with pytest.raises(FileNotFoundError):
        ErrorLog(tmp_path / "nowhere" / "log", "info", in_thread=False)
    log.info("still here")
    new.close()
    assert (tmp_path / "old").read_text() == ""
    assert (tmp_path / "new").read_text().count("here") == 2


def test_what_the_old_log_has_lost_is_told_by_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "old").symlink_to("/dev/full")
    ErrorLog(tmp_path / "old", "info", in_thread=False)
    log.info("lost")
    new = ErrorLog(tmp_path / "new", "info", in_thread=False)
    log.info("found")
    new.close()
    lines = (tmp_path / "new").read_text().splitlines()
    assert lines[0].endswith("found")
    assert lines[1].endswith("1 lines of this log were lost: No space left on device")


def test_a_worker_logs_when_there_is_a_directory_again(tmp_path: Path) -> None:
    opened = ErrorLog(tmp_path / "logs" / "log", "info", in_thread=True)
    log.info("lost")
    (tmp_path / "logs").mkdir()

    def is_written() -> bool:
        log.info("found")
        path = tmp_path / "logs" / "log"
        return path.exists() and "lines of this log were lost: No such file" in path.read_text()

    wait_until(is_written, "it is tried again")
    opened.close()


def test_what_is_written_too_slowly_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as reader:
        told: list[tuple[int, str]] = []
        file = LineFile(path, patience=30.0, recovered=lambda lost, why: told.append((lost, why)))
        writer = LineWriter(file, "test", limit=5)
        for _ in range(100):
            writer.put(["x" * 999 + "\n"] * 10)
        read, put = b"", 1000

        def is_told() -> bool:
            nonlocal read, put
            read += reader.read(1 << 20) or b""
            writer.put(["on\n"])
            put += 1
            return bool(told)

        wait_until(is_told, "the loss is told")
        writer.close()
        read += reader.read(1 << 20) or b""
        assert told[0][1] == "it is written too slowly"
        assert read.count(b"\n") + told[0][0] + file.lost == put
