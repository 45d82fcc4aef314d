"""Checker: the ``checks`` of one upstream, compiled, and the targets it looks after."""

import re
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING
from urllib.parse import quote

from config_sync import schema
from config_sync.schema.upstreams import ActiveChecks, PassiveChecks
from worker.upstream.health.machine import Limits, Report, State
from worker.upstream.health.table import NOWHERE

if TYPE_CHECKING:
    from worker.upstream.peer import Peer, Upstream

# What counts for failed tries when ``checks.passive`` is absent (upstreams.md section 8, Passive).
DEFAULT_PASSIVE_LIMITS = Limits(5, 5, 2, 7)
UNLIMITED_TIMEOUT = 60.0  # seconds, for a timeout of 0
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_PATH_SAFE = "/?#[]@!$&'()*+,;=:~%"

# The report that a state ignores without even a counter being moved, and so need not be made.
_SETTLED: dict[State, Report] = {State.HEALTHY: Report.SUCCESS, State.UNHEALTHY: Report.HTTP_FAILURE}


class Target:
    """What has a health: an address seen through the checks of one resource."""

    __slots__ = ("checkers", "host", "hostname", "key", "port", "settled", "slot", "state")

    def __init__(self, key: int, host: str, port: int, hostname: str) -> None:
        """Describe a target, healthy until the table says otherwise; ``port`` is the one that is probed."""
        self.key = key
        self.host = host
        self.port = port
        self.hostname = hostname
        self.checkers: list[Checker] = []
        self.slot = NOWHERE
        self.state = State.HEALTHY
        self.settled: Report | None = Report.SUCCESS

    def see(self, state: State) -> bool:
        """Take over the state of the table; tells whether usability has changed."""
        flips = state.is_usable is not self.state.is_usable
        self.state = state
        self.settled = _SETTLED.get(state)
        return flips

    def delivered(self, report: Report) -> None:
        """Note that the prober has been handed this report, the last one we have made."""
        if _SETTLED.get(self.state) is report:
            self.settled = report

    def __repr__(self) -> str:
        """Show the address, and the name where it has another."""
        address = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return address if self.hostname == self.host else f"{address} ({self.hostname})"


def target_key(resource: str, host: str, node_port: int, port: int, hostname: str) -> int:
    """Return what a target has its state under: 62 bits, not 0, the same in every process."""
    text = "\0".join((resource, host, str(node_port), str(port), hostname))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 2 or 1


class Checker:
    """The checks of a compiled upstream; ``resource`` is the key that configures them, as ``upstreams/1``."""

    def __init__(self, resource: str, config: schema.Upstream, checks: schema.HealthChecks) -> None:
        self.resource = resource
        self.active = checks.active
        self.passive = checks.passive
        self.members: list[tuple[Peer, Target]] = []
        self.probe_limits = probe_limits(checks.active)
        self.request_limits = request_limits(checks.passive)
        self.timeout = checks.active.timeout or UNLIMITED_TIMEOUT
        self._rewritten_host = config.upstream_host if config.pass_host == "rewrite" else None
        self._prefers_node = config.pass_host == "node"
        self._upstream: Upstream | None = None
        self._statuses = _reports_by_status(checks.active.healthy.http_statuses, checks.active.unhealthy.http_statuses)

    def hostname_of(self, host: str) -> str:
        """Return the name that is part of the identity of a node's target."""
        return self.active.host or host

    def host_of(self, target: Target) -> str:
        """Return the name that a probe says it wants: the field Host, and the server name in TLS."""
        if self._rewritten_host:
            return self._rewritten_host
        if self._prefers_node and not is_address(target.host):
            return target.host
        return f"[{target.hostname}]" if ":" in target.hostname and "[" not in target.hostname else target.hostname

    def request_for(self, target: Target) -> bytes:
        """Return the request of an http or https probe."""
        return probe_request(self.active, self.host_of(target))

    def report_of(self, status: int) -> Report | None:
        """Return what the status of a probe's answer means; None when nothing."""
        return self._statuses.get(status)

    def schedule_key(self) -> object:
        """Return what shapes the probes: while it is equal, their rounds go on."""
        return self.active, self._rewritten_host, self._prefers_node

    def bind(self, upstream: "Upstream") -> None:
        """Tell this upstream's balancer from now on which peers not to use."""
        self._upstream = upstream
        self.tell_balancer()

    def tell_balancer(self) -> None:
        """Tell which peers not to use now."""
        if self._upstream is not None and self._upstream.balancer is not None:
            self._upstream.balancer.set_unhealthy([peer for peer, target in self.members if not target.state.is_usable])

    def __repr__(self) -> str:
        """Show resource and targets."""
        return f"<Checker {self.resource} {[target for _, target in self.members]}>"


def probe_limits(active: ActiveChecks) -> Limits:
    """Return the limits that probes count with."""
    ill = active.unhealthy
    return Limits(active.healthy.successes, ill.http_failures, ill.tcp_failures, ill.timeouts)


def request_limits(passive: PassiveChecks | None) -> Limits:
    """Return the limits that requests count with."""
    if passive is None:
        return DEFAULT_PASSIVE_LIMITS
    ill = passive.unhealthy
    return Limits(passive.healthy.successes, ill.http_failures, ill.tcp_failures, ill.timeouts)


def request_reports(passive: PassiveChecks | None) -> dict[int, Report]:
    """Return what statuses of answers to clients mean, without those that do not count."""
    if passive is None:
        return {}
    limits = request_limits(passive)
    found = _reports_by_status(passive.healthy.http_statuses, passive.unhealthy.http_statuses)
    return {status: report for status, report in found.items() if limits[report]}


def _reports_by_status(healthy: Sequence[int], unhealthy: Sequence[int]) -> dict[int, Report]:
    """Return what a status means; one in both lists is a success."""
    failures = dict.fromkeys(unhealthy, Report.HTTP_FAILURE)
    return {**failures, **dict.fromkeys(healthy, Report.SUCCESS)}


def probe_request(active: ActiveChecks, host: str) -> bytes:
    """Return the bytes of a probe; what could break out of its place in the head is left out (``complaints``)."""
    method = active.http_method if _METHOD.fullmatch(active.http_method) else "GET"
    fields = [_CONTROLS.sub("", line) for line in active.req_headers if ":" in line]
    names = {line.partition(":")[0].strip().lower() for line in fields}
    body = active.http_req_body.encode()
    lines = [f"{method} {quote(active.http_path, safe=_PATH_SAFE)} HTTP/1.1"]
    if "host" not in names:
        lines.append(f"Host: {host}")
    lines += fields
    if body and not names & {"content-length", "transfer-encoding"}:
        lines.append(f"Content-Length: {len(body)}")
    if "connection" not in names:
        lines.append("Connection: close")
    return "\r\n".join((*lines, "", "")).encode() + body


def complaints(active: ActiveChecks) -> list[str]:
    """Return what in the configuration of a probe cannot be sent as it is, with its place."""
    found = []
    if _METHOD.fullmatch(active.http_method) is None:
        found.append("checks.active.http_method is no method; GET is sent")
    for at, line in enumerate(active.req_headers):
        if ":" not in line:
            found.append(f"checks.active.req_headers[{at}] is not sent; write it as Name: value")
        elif _CONTROLS.search(line):
            found.append(f"checks.active.req_headers[{at}] is sent without its control characters")
    return found


def is_address(host: str) -> bool:
    """Tell an IP address, without brackets, from a name."""
    return ":" in host or host.replace(".", "").isdigit()
