"""Routes and requests for the tests of routing."""

from tests.fakes.plain_matcher import PlainRequest, PlainRoute
from worker.exchange import Exchange
from worker.http.framing import host_name
from worker.messages import Framing, Request
from worker.routing.route import AddressCondition, Condition, Route
from worker.routing.router import Router

ADDRESS = "10.1.2.3"


class Client:
    """As much of a client connection as matching looks at."""

    def __init__(self, remote_address: str = ADDRESS) -> None:
        self.remote_address = remote_address


def exchange(plain: PlainRequest) -> Exchange:
    """Return what arrives with a request."""
    path, host = plain.path.encode(), plain.host.encode()
    target = path + b"?" + plain.query.encode() if plain.query else path
    made = Exchange(Client(plain.address), 0.0)  # type: ignore[arg-type]
    made.request = Request(
        plain.method.encode(), target, path, host, host_name(host), b"\r\n", True, Framing.NONE, 0, b""
    )
    return made


def ask(path: str, host: str = "t.com", method: str = "GET", address: str = ADDRESS, query: str = "") -> Exchange:
    """Return what arrives with a request."""
    return exchange(PlainRequest(method, host, path, query, address))


def has_query(query: str) -> Condition:
    """Return a condition that looks at the query string."""
    expected = query.encode()

    def holds(asked: Exchange) -> bool:
        assert asked.request is not None
        return asked.request.target.partition(b"?")[2] == expected

    return holds


def route(router: Router, plain: PlainRoute, repeatable: bool = True) -> Route:
    """Compile a route for a router."""
    return Route(
        plain.id,
        tuple(router.pattern(uri) for uri in plain.uris),
        plain.hosts,
        frozenset(method.encode() for method in plain.methods),
        plain.priority,
        AddressCondition(plain.addresses) if plain.addresses else None,
        condition=has_query(plain.argument) if plain.argument is not None else None,
        repeatable=repeatable,
    )
