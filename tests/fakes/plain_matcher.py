"""A matcher that is slow and obviously right: it reads every route for every request, as routing.md has it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address, ip_network


@dataclass(frozen=True)
class PlainRoute:
    """A route as written; ``argument`` stands for its ``vars``: the query string must be exactly this."""

    id: str
    uris: tuple[str, ...]
    hosts: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    priority: int = 0
    addresses: tuple[str, ...] = ()
    argument: str | None = None


@dataclass(frozen=True)
class PlainRequest:
    """A request; ``host`` as sent, ``path`` normalised."""

    method: str = "GET"
    host: str = "t.com"
    path: str = "/"
    query: str = ""
    address: str = "10.1.2.3"

    @property
    def host_name(self) -> str:
        """The host in lower case, without its port."""
        return re.sub(r":\d*$", "", self.host).lower()


def winner(mode: str, routes: Iterable[PlainRoute], request: PlainRequest) -> tuple[PlainRoute, str] | None:
    """Return the route that wins, and by which of its uris (routing.md sections 4 and 5)."""
    has_parameters = mode == "radixtree_uri_with_parameter"
    if mode != "radixtree_host_uri":
        return _by_path(list(routes), request, has_parameters, hosts_are_asked=True)
    routes = list(routes)
    name = request.host_name
    bound = {host for route in routes for host in route.hosts if ":" not in host}
    wildcards = sorted((host for host in bound if host.startswith("*")), key=len, reverse=True)
    for pattern in [name, *(host for host in wildcards if name.endswith(host[1:]))]:
        found = _by_path([route for route in routes if pattern in route.hosts], request, has_parameters)
        if found is not None:
            return found
    return _by_path([route for route in routes if not route.hosts], request, has_parameters)


def _by_path(
    routes: list[PlainRoute], request: PlainRequest, has_parameters: bool, hosts_are_asked: bool = False
) -> tuple[PlainRoute, str] | None:
    entries = [(route, uri) for route in routes for uri in route.uris if _leads(uri, request.path, has_parameters)]
    entries.sort(key=lambda entry: _rank(entry[0], entry[1], has_parameters))
    for route, uri in entries:
        if (
            _fulfilled(route, request)
            and (not hosts_are_asked or _host_is_covered(route, request))
            and _covers(uri, request.path, has_parameters)
        ):
            return route, uri
    return None


@cache
def _literal(uri: str, has_parameters: bool) -> str:
    return re.split(r"[*:]" if has_parameters else r"[*]", uri, maxsplit=1)[0]


def _is_exact(uri: str, has_parameters: bool) -> bool:
    return _literal(uri, has_parameters) == uri


def _leads(uri: str, path: str, has_parameters: bool) -> bool:
    """Tell whether a uri's bucket is looked into for a path."""
    if _is_exact(uri, has_parameters):
        return uri == path
    return path.startswith(_literal(uri, has_parameters))


def _rank(route: PlainRoute, uri: str, has_parameters: bool) -> tuple[bool, int, int, int, str]:
    exact = _is_exact(uri, has_parameters)
    return not exact, -len(_literal(uri, has_parameters)), -route.priority, -len(uri), route.id


def _fulfilled(route: PlainRoute, request: PlainRequest) -> bool:
    if route.methods and request.method not in route.methods:
        return False
    if route.addresses and not any(_lies_in(request.address, network) for network in route.addresses):
        return False
    return route.argument is None or route.argument == request.query


@cache
def _lies_in(address: str, network: str) -> bool:
    try:
        return ip_address(address) in ip_network(network, strict=False)
    except ValueError:  # a connection without an IP address
        return False


def _host_is_covered(route: PlainRoute, request: PlainRequest) -> bool:
    if not route.hosts:
        return True
    for pattern in route.hosts:
        asked = request.host.lower() if ":" in pattern else request.host_name
        if asked.endswith(pattern[1:]) if pattern.startswith("*") else asked == pattern:
            return True
    return False


def _covers(uri: str, path: str, has_parameters: bool) -> bool:
    if _is_exact(uri, has_parameters):
        return uri == path
    return _expression(uri, has_parameters)[0].fullmatch(path) is not None


def captures(uri: str, path: str, has_parameters: bool) -> dict[str, str] | None:
    """Return what a uri captures of a path that it matches; None when it has nothing that captures."""
    if _is_exact(uri, has_parameters):
        return None
    expression, names = _expression(uri, has_parameters)
    found = expression.fullmatch(path)
    assert found is not None
    return dict(zip(names, found.groups(), strict=True)) if names else None


@cache
def _expression(uri: str, has_parameters: bool) -> tuple[re.Pattern[str], list[str]]:
    """Return the regular expression of a pattern (routing.md section 3), and the names of its groups."""
    parts, names = [], []
    for segment in uri.split("/"):
        if segment.startswith("*"):
            parts.append("(.*)")
            names.append(segment[1:] or ":ext")
        elif has_parameters and segment.startswith(":"):
            parts.append("([^/]+)")
            names.append(segment[1:])
        else:
            parts.append(re.escape(segment))
    if not names:
        return re.compile(re.escape(_literal(uri, has_parameters)) + ".*", re.DOTALL), []
    return re.compile("/".join(parts), re.DOTALL), names
