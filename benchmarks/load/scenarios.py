"""What is asked of every side: the requests, and the set-up that a side is in while it answers them."""

from dataclasses import dataclass

from benchmarks.load.plugin_sets import AUTH_AND_CORS, KEY, NO_PLUGINS, SIX, TWO, PluginSet

BROWSER_HEADERS = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language: en-GB,en;q=0.7,de;q=0.3",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Referer: https://www.example.com/catalogue/pens?page=2",
    "Cookie: session=8f14e45fceea167a5a36dedd4bea2543; theme=dark; consent=1",
    "Cache-Control: no-cache",
    "Upgrade-Insecure-Requests: 1",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-Site: same-origin",
)

LARGE_BODY_BYTES = 100 * 1024
POST_BODY_BYTES = 1024 * 1024

# Every request differs in one header of constant length, as a request id does. A side that remembers how it
# treated an identical block of headers finds none.
_UNIQUE_HEADER_SCRIPT = """\
local head, tail, number
init = function(arguments)
  wrk.headers["X-Request-Id"] = "@"
  local whole = wrk.format()
  local at = string.find(whole, "X-Request-Id: @", 1, true) + 14
  head, tail, number = string.sub(whole, 1, at - 1), string.sub(whole, at + 1), 0
end
request = function()
  number = number + 1
  return head .. string.format("%016x", number) .. tail
end
"""

_POST_SCRIPT = f"""\
wrk.method = "POST"
wrk.body = string.rep("x", {POST_BODY_BYTES})
wrk.headers["Content-Type"] = "application/octet-stream"
"""


@dataclass(frozen=True, slots=True)
class Setup:
    """How a side runs: its number of workers, how many routes it knows, and the plugins that these have."""

    workers: int = 1
    routes: int = 1
    plugins: PluginSet = NO_PLUGINS
    headers: tuple[str, ...] = ()  # without which nobody gets through

    @property
    def route_uris(self) -> list[str]:
        """The prefixes that are routed to the origin. One route takes everything; many take a prefix each."""
        return ["/"] if self.routes == 1 else [f"/route/{number}/" for number in range(self.routes)]

    @property
    def check_path(self) -> str:
        """A path that answers 200 when the side is ready: under the route in the middle."""
        return f"{self.route_uris[self.routes // 2]}item"


def _spread_script(setup: Setup) -> str:
    """Ask for ten routes in turn, spread over all, so that each request has to be matched."""
    uris = setup.route_uris[:: setup.routes // 10]
    paths = ", ".join(f'"{uri}item"' for uri in uris)
    return f"""\
local paths, requests, number = {{{paths}}}, {{}}, 0
init = function(arguments)
  for i, path in ipairs(paths) do requests[i] = wrk.format("GET", path) end
end
request = function()
  number = number % #requests + 1
  return requests[number]
end
"""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load, as wrk's arguments."""

    name: str
    title: str
    path: str = "/small"
    headers: tuple[str, ...] = ()
    script: str = ""
    connections: int = 32
    setup: Setup = Setup()


FEW_ROUTES = Setup(routes=10)
MANY_ROUTES = Setup(routes=10_000)
WITH_AUTH = Setup(plugins=AUTH_AND_CORS, headers=(f"apikey: {KEY}",))
WITH_TWO = Setup(plugins=TWO)
WITH_SIX = Setup(plugins=SIX, headers=(f"apikey: {KEY}",))

SCENARIOS = (
    Scenario("small_get", "small GET, no headers"),
    Scenario("browser_get", "small GET, ten browser headers", headers=BROWSER_HEADERS),
    Scenario(
        "unique_header",
        "small GET, ten browser headers and one that always differs",
        headers=BROWSER_HEADERS,
        script=_UNIQUE_HEADER_SCRIPT,
    ),
    Scenario("large_response", "GET, 100 KiB response", path="/large"),
    Scenario("post", "POST of 1 MiB", path="/sink", script=_POST_SCRIPT),
    Scenario("new_connection", "small GET, a new connection each", headers=("Connection: close",)),
    Scenario("two_workers", "small GET, two workers, proxy and wrk not pinned", setup=Setup(workers=2), connections=64),
    Scenario("plugins_auth", "small GET, key-auth and cors", headers=WITH_AUTH.headers, setup=WITH_AUTH),
    Scenario("plugins_two", "small GET, limit-count and prometheus", setup=WITH_TWO),
    Scenario(
        "plugins_six",
        "small GET, key-auth, limit-count, prometheus, proxy-rewrite, cors and response-rewrite",
        headers=WITH_SIX.headers,
        setup=WITH_SIX,
    ),
    Scenario(
        "routes_10",
        "small GETs to ten routes in turn, of 10",
        path=FEW_ROUTES.check_path,
        script=_spread_script(FEW_ROUTES),
        setup=FEW_ROUTES,
    ),
    Scenario(
        "routes_10000",
        "small GETs to ten routes in turn, of 10,000",
        path=MANY_ROUTES.check_path,
        script=_spread_script(MANY_ROUTES),
        setup=MANY_ROUTES,
    ),
)


def select(names: list[str]) -> list[Scenario]:
    """Return the scenarios with these names, in the order of ``SCENARIOS``.

    Raises:
        ValueError: a name is unknown.
    """
    unknown = set(names) - {scenario.name for scenario in SCENARIOS}
    if unknown:
        raise ValueError(f"unknown scenario: {', '.join(sorted(unknown))}")
    return [scenario for scenario in SCENARIOS if scenario.name in names]


def in_groups(scenarios: list[Scenario]) -> list[list[Scenario]]:
    """Put the scenarios together whose sides run at the same time, so that their rounds alternate.

    The scenarios on one route share their sides. Those that differ in the number of routes are compared with
    each other, so they are one group too. More workers contend for the cores and run alone.
    """
    groups: dict[tuple[int, bool], list[Scenario]] = {}
    for scenario in scenarios:
        groups.setdefault((scenario.setup.workers, scenario.setup.routes > 1), []).append(scenario)
    return list(groups.values())
