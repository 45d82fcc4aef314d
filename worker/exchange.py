"""Exchange: one request and its response as they travel.

Each downstream connection has one coroutine (``http.serve``), which carries its requests one after the other. It is
not run by a Task: it suspends in ``suspend()``, and the protocol that has what it waits for resumes it directly, in
the same call that received the bytes: 0.7 us instead of 4.4 us for a Task (design.md section 2). At most one thing
is awaited at a time; ``waiting`` says which, so that an answer which comes too late resumes nobody.
"""

from collections.abc import Generator
from types import coroutine
from typing import TYPE_CHECKING, Any

from worker.messages import Request

if TYPE_CHECKING:
    from worker.errors import ProxyError
    from worker.http.http1_client import Http1Client
    from worker.http.http1_server import Http1Server
    from worker.http.relay import RequestBody
    from worker.plugins.run import PluginRun
    from worker.routing.route import Route
    from worker.upstream.balancers.tracked import Place
    from worker.upstream.peer import Peer
    from worker.variables.memo import Memo


@coroutine
def suspend() -> Generator[None, Any, Any]:
    """Give control back to the event loop until ``Exchange.resume`` or ``Exchange.fail``."""
    return (yield)


class Exchange:
    """What is known of one request on its way; written by the step that finds it out."""

    __slots__ = (
        "attempts",
        "body",
        "buffered_body",
        "bytes_sent",
        "connection",
        "downstream",
        "error",
        "memo",
        "peer",
        "place",
        "placed_at",
        "request",
        "route",
        "run",
        "started",
        "status",
        "waiting",
    )

    def __init__(self, downstream: "Http1Server", started: float) -> None:
        """Begin an exchange at a time of the loop's clock, in seconds."""
        self.downstream = downstream
        self.started = started
        self.request: Request | None = None  # stays None when the head is refused
        self.body: RequestBody | None = None  # one that did not come with the head, or is not small
        self.memo: Memo | None = None  # of variables
        # The whole of it, when it came with the head, or somebody has had to see it (relay.buffer_body).
        self.buffered_body: bytes | None = None
        self.route: Route | None = None
        self.run: PluginRun | None = None  # of its plugins; None where there are none
        self.peer: Peer | None = None
        self.place: Place | None = None  # held at the peer, when its upstream is tracked …
        self.placed_at: float  # … and since when, in seconds, when that matters
        self.connection: Http1Client | None = None
        self.status = 0  # of the answer, once its head has been sent
        self.bytes_sent = 0  # body bytes of the answer
        self.attempts: list[int] | None = None  # the statuses of tries that failed
        self.error: ProxyError | None = None
        self.waiting: object | None = None

    @property
    def captures(self) -> dict[str, str] | None:
        """What wildcards and parameters of the route's pattern stand for (routing.md section 3), by name.

        ``:ext`` is the name of a wildcard without one. None when the pattern has none, or no route matched.
        """
        request = self.request
        if self.route is None or request is None or request.pattern is None:
            return None
        return request.pattern.captures(request.path_matched)

    @property
    def remote_address(self) -> str:
        """The client's address, which ``real_ip_header`` or a plugin may have found out."""
        run = self.run
        return self.downstream.remote_address if run is None or run.client is None else run.client[0]

    @property
    def remote_port(self) -> int:
        """The client's port, likewise; 0 when it is not known."""
        run = self.run
        return self.downstream.remote_port if run is None or run.client is None else run.client[1]

    def resume(self, value: object = None) -> None:
        """Hand over what the exchange waits for; it runs on until it waits again or has ended."""
        self.waiting = None
        self.downstream.coroutine.send(value)

    def failed_with(self, status: int) -> None:
        """Note a try that failed."""
        self.attempts = [*(self.attempts or ()), status]

    def fail(self, error: Exception) -> None:
        """Raise an error where the exchange waits; without effect once it has ended."""
        if self.waiting is not None:
            self.waiting = None
            self.downstream.coroutine.throw(error)
