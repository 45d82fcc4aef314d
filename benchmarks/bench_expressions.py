"""What does an expression cost a request, and a variable, and a template?

    python -m benchmarks.bench_expressions [--seconds 0.1] [--json]

Each is compiled once and evaluated on a request of a browser with ten header fields. Nanoseconds per evaluation: the
least that 200 in a row took within so many seconds, without the loop itself. What is remembered of the query is
forgotten before each where the name says "first"; elsewhere another variable has asked before. "slowest" is the CPU
time of the longest search by patterns made to take for ever.
"""

import argparse
import contextlib
import json
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, cast

from config_sync.schema.regexes import Regex
from worker.exchange import Exchange
from worker.messages import Framing, Request
from worker.routing.expressions import compile_expression
from worker.variables import Template, accessor

CHUNK = 200  # evaluations
HEADERS = """
Host: shop.example.com
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Safari/537.36
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8
Accept-Language: en-US,en;q=0.5
Accept-Encoding: gzip, deflate, br
Referer: https://shop.example.com/
Cookie: session=0123456789abcdef; theme=dark; beta=1
X-Canary: always
X-Request-Id: 0123456789abcdef0123456789abcdef
Connection: keep-alive
"""
TARGET = b"/api/v2/orders/12345?id=7&name=jack&page=2&debug"

EXPRESSIONS: dict[str, list[Any]] = {
    "empty": [],
    "arg ==": [["arg_name", "==", "jack"]],
    "arg == number": [["arg_id", "==", 7]],
    "arg > number": [["arg_id", ">", 5]],
    "arg in": [["arg_name", "in", ["jill", "jack"]]],
    "http ==": [["http_x_canary", "==", "always"]],
    "http == missing": [["http_x_missing", "==", "always"]],
    "cookie ==": [["cookie_beta", "==", "1"]],
    "method ==": [["request_method", "==", "GET"]],
    "uri ~~": [["uri", "~~", r"^/api/v\d+/orders/\d+$"]],
    "user agent ~*": [["http_user_agent", "~*", "(?:chrome|firefox)/[0-9]+"]],
    "uri ~~ watched": [["uri", "~~", r"^/(?:[a-z0-9]+/)+\d+$"]],
    "remote_addr ipmatch": [["remote_addr", "ipmatch", ["10.0.0.0/8", "192.0.2.0/24"]]],
    "and of two": [["request_method", "==", "GET"], ["arg_name", "==", "jack"]],
    "or of four": ["OR", *(["arg_name", "==", name] for name in ("a", "b", "c", "jack"))],
    "nested": [["OR", ["arg_name", "==", "x"], ["AND", ["arg_id", ">", 5], ["cookie_beta", "==", "1"]]]],
}
TEMPLATES = {"$uri": "$uri", "$remote_addr$arg_id": "$remote_addr$arg_id", "${arg_no ?? x}": "${arg_no ?? x}"}
EVIL = ("(a|aa)+[bc]", "(.*)*[xy]", "a+a+a+a+a+[bc]", r"^(\w+\s?)*[!?]")


class Downstream:
    """What these variables look at of a client's connection."""

    remote_address = "192.0.2.7"


def exchange() -> Exchange:
    """Make the exchange of a browser's request."""
    block = (HEADERS.replace("\n", "\r\n") + "\r\n").encode()
    made = Exchange(cast("Any", Downstream()), 0.0)
    path, host = TARGET.partition(b"?")[0], b"shop.example.com"
    made.request = Request(b"GET", TARGET, path, host, host, block, True, Framing.NONE, 0, b"\r\n")
    return made


def nanoseconds(call: Callable[[Exchange], object], asked: Exchange, seconds: float, is_first: bool = False) -> float:
    """Measure one evaluation; with ``is_first`` nothing is remembered of the one before."""
    return _least(call, asked, seconds, is_first) - _least(lambda _: None, asked, seconds, is_first)


def _least(call: Callable[[Exchange], object], asked: Exchange, seconds: float, is_first: bool) -> float:
    request = asked.request
    assert request is not None
    least, until = float("inf"), time.perf_counter() + seconds
    while (began := time.perf_counter()) < until:
        for _ in range(CHUNK):
            if is_first:
                request.arguments = request.cookies = None
            call(asked)
        least = min(least, time.perf_counter() - began)
    return least / CHUNK * 1e9


def slowest() -> float:
    """Return the milliseconds of the longest search, over patterns and lengths."""
    longest = 0.0
    for pattern in EVIL:
        search = Regex(pattern)
        for length in (16, 24, 32, 64, 256, 4096, 65536):
            began = time.process_time()
            with contextlib.suppress(TimeoutError):
                search.matches("a" * length)
            longest = max(longest, time.process_time() - began)
    return longest * 1e3


def measure(seconds: float) -> dict[str, Any]:
    """Measure everything."""
    asked = exchange()
    results: dict[str, Any] = {"python": platform.python_version(), "regex": version("regex")}
    for name, expression in EXPRESSIONS.items():
        results[name] = round(nanoseconds(compile_expression(expression), asked, seconds))
    for name in ("arg ==", "cookie =="):
        condition = compile_expression(EXPRESSIONS[name])
        results[f"{name}, first"] = round(nanoseconds(condition, asked, seconds, is_first=True))
    for name, text in TEMPLATES.items():
        results[f"template {name}"] = round(nanoseconds(Template(text).render, asked, seconds))
    results["variable uri"] = round(nanoseconds(accessor("uri"), asked, seconds))
    results["slowest search, ms"] = round(slowest(), 2)
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.1)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = measure(options.seconds)
    if options.json:
        json.dump(results, sys.stdout, indent=2)
        return
    for name, value in results.items():
        print(f"{name:30} {value}")


if __name__ == "__main__":
    main()
