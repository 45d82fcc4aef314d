"""What benchmarks.load.measure reads from wrk and from /proc."""

import os
import subprocess
import sys

import pytest

from benchmarks.load.measure import (
    CpuTime,
    Stopwatch,
    WrkOutputError,
    cost_per_request,
    parse_duration,
    parse_task,
    parse_wrk,
    process_tree,
    read_cpu_time,
)

OUTPUT = """\
Running 2s test @ http://127.0.0.1:40001/small
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.12ms  301.93us   9.42ms   93.41%
    Req/Sec    28.70k     1.54k   30.55k    90.00%
  Latency Distribution
     50%    1.04ms
     75%    1.20ms
     90%  980.00us
     99%    3.98ms
  57114 requests in 2.00s, 14.05MB read
Requests/sec:  28557.11
Transfer/sec:      7.03MB
"""


def test_a_clean_run() -> None:
    result = parse_wrk(OUTPUT)
    assert result.requests == 57114
    assert result.seconds == 2.0
    assert result.p50 == pytest.approx(0.00104)
    assert result.p99 == pytest.approx(0.00398)
    assert (result.status_errors, result.socket_errors) == (0, 0)
    assert result.requests_per_second == pytest.approx(28557)


def test_errors_are_counted() -> None:
    errors = "  Socket errors: connect 1, read 2, write 30, timeout 400\n  Non-2xx or 3xx responses: 7\n"
    result = parse_wrk(OUTPUT.replace("Requests/sec", errors + "Requests/sec"))
    assert result.status_errors == 7
    assert result.socket_errors == 433


def test_a_run_of_minutes() -> None:
    assert parse_wrk(OUTPUT.replace("in 2.00s", "in 1.50m")).seconds == 90.0


def test_what_is_not_a_result_is_refused() -> None:
    with pytest.raises(WrkOutputError, match="unable to connect"):
        parse_wrk("unable to connect to 127.0.0.1:1 Connection refused\n")


def test_a_run_without_latency_is_refused() -> None:
    with pytest.raises(WrkOutputError):
        parse_wrk(OUTPUT.replace("     99%    3.98ms\n", ""))


@pytest.mark.parametrize(
    ("text", "seconds"), [("12.50us", 0.0000125), ("1.04ms", 0.00104), ("2.00s", 2.0), ("1.50m", 90.0), ("1h", 3600.0)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


def test_a_duration_without_a_unit_is_refused() -> None:
    with pytest.raises(WrkOutputError):
        parse_duration("12")


def test_a_task_whose_name_holds_a_parenthesis() -> None:
    stat = "77 (a) 1 (b) S 1 77 77 0 -1 4194304 100 0 0 0 250 750 0 0 20 0 1 0 100 1000 10"
    assert parse_task(stat, "10000000000 500 42\n") == CpuTime(total=10_000_000_000, user=250, system=750)


def test_the_cost_of_a_request() -> None:
    cost = cost_per_request(CpuTime(total=1_500_000_000, user=50, system=100), requests=50_000, seconds=2.0)
    assert cost.total == pytest.approx(30.0)
    assert cost.user == pytest.approx(10.0)
    assert cost.system == pytest.approx(20.0)
    assert cost.busy == pytest.approx(0.75)


def test_a_run_of_no_requests_and_no_ticks_has_a_cost() -> None:
    assert cost_per_request(CpuTime(1000, 0, 0), requests=0, seconds=1.0).user == 0.0


def test_the_cpu_time_of_a_process_that_works() -> None:
    stopwatch = Stopwatch([os.getpid()])
    sum(range(2_000_000))
    used, seconds = stopwatch.stop()
    assert used.total > 0
    assert seconds > 0
    assert read_cpu_time([os.getpid()]).total >= used.total


def test_the_tree_of_a_process_holds_its_children() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.pid in process_tree(os.getpid())
        assert process_tree(child.pid) == [child.pid]
