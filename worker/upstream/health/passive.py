"""What requests show of targets' health, on its way to the prober.

The path of a request ends here: it costs a look-up of the status, and one of the peer when the status counts. What
cannot change anything, a success of a healthy target above all, is not noted. What is noted waits for the monitor,
which puts it into the worker's ring ten times a second.
"""

from collections import deque
from typing import TYPE_CHECKING

from worker.upstream.health.checker import Checker, Target, request_reports
from worker.upstream.health.machine import MAX_COUNT, Report
from worker.upstream.health.reports import ReportRing, Run
from worker.upstream.health.table import NOWHERE, HealthTable

if TYPE_CHECKING:
    from worker.upstream.peer import Peer

MAX_RUNS = 4_096  # kept while no prober takes them; then the oldest are lost


class Outbox:
    """The reports of a worker that wait to be handed over: runs of the same one."""

    __slots__ = ("_runs",)

    def __init__(self) -> None:
        self._runs: deque[tuple[Target, Report, int]] = deque(maxlen=MAX_RUNS)

    def note(self, target: Target, report: Report) -> None:
        """Keep a report."""
        runs = self._runs
        target.settled = None
        if runs:
            last, kind, count = runs[-1]
            if last is target and kind is report and count < MAX_COUNT:
                runs[-1] = target, report, count + 1
                return
        runs.append((target, report, 1))

    def flush(self, table: HealthTable, ring: ReportRing) -> None:
        """Hand over what the ring has room for; what is about targets that have no slot yet stays."""
        for _ in range(len(self._runs)):
            target, report, count = run = self._runs.popleft()
            if target.slot == NOWHERE:
                if target.checkers:
                    self._runs.append(run)
            elif ring.put(Run(target.slot, table.generation_at(target.slot), report, count)):
                target.delivered(report)
            else:
                self._runs.appendleft(run)
                return

    def __len__(self) -> int:
        """Count the runs."""
        return len(self._runs)


class PassiveReports:
    """The passive checks of one upstream, as an exchange calls them."""

    __slots__ = ("_outbox", "_reports", "_targets", "_tcp_counts", "_timeouts_count")

    def __init__(self, checker: Checker, outbox: Outbox) -> None:
        self._outbox = outbox
        self._reports = request_reports(checker.passive)
        self._targets: dict[Peer, Target] = dict(checker.members)
        self._tcp_counts = checker.request_limits.tcp_failures > 0
        self._timeouts_count = checker.request_limits.timeouts > 0

    def answered(self, peer: "Peer", status: int) -> None:
        """Take the status that a client was answered with."""
        report = self._reports.get(status)
        if report is not None:
            target = self._targets.get(peer)
            if target is not None and target.settled is not report:
                self._outbox.note(target, report)

    def failed(self, peer: "Peer", timed_out: bool) -> None:
        """Take a try that got no answer: in time, or at all."""
        target = self._targets.get(peer)
        if target is not None and (self._timeouts_count if timed_out else self._tcp_counts):
            self._outbox.note(target, Report.TIMEOUT if timed_out else Report.TCP_FAILURE)
