"""What clients have seen: answers, latencies, and each failure with its circumstances."""

from array import array
from enum import StrEnum

import msgspec

KEEPALIVE_MIN = 1.0  # seconds; the gateway's default
MAX_FAILURES = 5_000  # kept with their circumstances; beyond they are only counted


class Client(StrEnum):
    """The kinds of clients."""

    NEW = "new connections"
    KEPT = "keep-alive"
    WEBSOCKET = "WebSockets"
    UPLOAD = "slow uploads"
    DOWNLOAD = "slow downloads"


class Fault(StrEnum):
    """The ways in which a request fails."""

    REFUSED = "refused"
    RESET = "reset"
    EOF = "EOF before a response"
    TRUNCATED = "truncated"
    STATUS = "wrong status"
    BODY = "wrong body"
    MALFORMED = "malformed"
    TIMEOUT = "no answer in time"


class Failure(msgspec.Struct, frozen=True):
    """A request that has failed; times are of the monotonic clock, which all processes share."""

    group: str
    client: Client
    fault: Fault
    where: str  # connect, send, head, body, message, close
    detail: str
    opened: float  # when its connection was
    at: float
    port: int  # of the client's end; 0 when there was no connection
    quiet: float = 0.0  # seconds from the last answer on the connection to the request that has failed


class Closing(msgspec.Struct, frozen=True):
    """The end of a WebSocket that the client has not asked for."""

    opened: float
    at: float
    code: int | None  # of the Close frame
    port: int
    reason: str = ""


class Percentiles(msgspec.Struct, frozen=True):
    """Latencies in milliseconds."""

    p50: float
    p90: float
    p99: float
    max: float


class Seen(msgspec.Struct, frozen=True):
    """What the clients of one kind have seen."""

    connections: int
    answered: int
    failed: dict[Fault, int]
    latency: Percentiles | None  # of those that were answered, from the connect or the first byte to the last byte


class Summary(msgspec.Struct, frozen=True):
    """What all clients have seen in a period."""

    seconds: float
    clients: dict[Client, Seen]
    failures: list[Failure]
    closings: list[Closing]
    messages: int  # that came over WebSockets

    def beside(self, other: "Summary") -> "Summary":
        """Join with what clients of other kinds have seen in the same period."""
        return Summary(
            self.seconds,
            self.clients | other.clients,
            self.failures + other.failures,
            self.closings + other.closings,
            self.messages + other.messages,
        )

    def failed(self) -> int:
        """Return how many requests have failed."""
        return sum(sum(seen.failed.values()) for seen in self.clients.values())

    def answered(self) -> int:
        """Return how many requests were answered."""
        return sum(seen.answered for seen in self.clients.values())


class Tally:
    """Counts for all clients of a process."""

    def __init__(self, now: float) -> None:
        self._begun = now
        self.connections: dict[Client, int] = dict.fromkeys(Client, 0)
        self.messages = 0
        self.closings: list[Closing] = []
        self._failures: list[Failure] = []
        self._failed: dict[Client, dict[Fault, int]] = {client: {} for client in Client}
        self._latencies: dict[Client, array[float]] = {client: array("d") for client in Client}

    def answer(self, client: Client, seconds: float) -> None:
        """Count an answer that was right."""
        self._latencies[client].append(seconds)

    def fail(self, failure: Failure) -> None:
        """Count a failure."""
        failed = self._failed[failure.client]
        failed[failure.fault] = failed.get(failure.fault, 0) + 1
        if len(self._failures) < MAX_FAILURES:
            self._failures.append(failure)

    def summary(self, now: float) -> Summary:
        """Say what has been seen until now."""
        seen = {
            client: Seen(self.connections[client], len(taken), self._failed[client], percentiles(taken))
            for client, taken in self._latencies.items()
            if taken or self.connections[client] or self._failed[client]
        }
        return Summary(now - self._begun, seen, self._failures, self.closings, self.messages)


def percentiles(seconds: "array[float] | list[float]") -> Percentiles | None:
    """Return the percentiles of durations; None when there are none."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    last = len(ordered) - 1
    p50, p90, p99, most = (round(ordered[int(last * share)] * 1000, 2) for share in (0.5, 0.9, 0.99, 1.0))
    return Percentiles(p50, p90, p99, most)
