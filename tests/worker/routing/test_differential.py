"""The index agrees with a plain reading of the reference, through any history of edits, in every mode."""

import random
from dataclasses import replace
from typing import get_args

import pytest

from tests.fakes.plain_matcher import PlainRequest, PlainRoute, captures, winner
from tests.worker.routing.making import exchange, route
from worker.routing.route import Route
from worker.routing.router import Mode, build_router

ROUNDS = 176
EDITS = 12
REQUESTS = 190  # in each round: 100,000 in all modes together
SEGMENTS = ("", "a", "b", "ab", "c", "*", "*", "*n", ":p", ":q", "a*", "a*b", "a:b", ":", "x.y", "*:z")
PATH_SEGMENTS = ("", "a", "b", "ab", "c", "abc", "axb", "x.y", "xzy", "a*b", ":p", "a:b", "\n", "é")
HOSTS = ("t.com", "a.t.com", "b.a.t.com", "x.org", "T.com:90", "t.com:80", "a.t.com:90", "[::1]", "[::1]:90")
HOST_PATTERNS = (
    *("t.com", "a.t.com", "*.t.com", "*t.com", "*.a.t.com", "*", "*.com", "x.org", "t.com:90", "*.t.com:90"),
    *("*m", "*:90"),
)
METHODS = ("GET", "POST", "PUT", "MOVE")
ADDRESSES = ("10.1.2.3", "10.9.9.9", "192.0.2.7", "2001:db8::7")
NETWORKS = ("10.0.0.0/8", "10.1.2.3", "192.0.2.0/24", "2001:db8::/32", "0.0.0.0/0", "::/0")


class Making:
    """Random routes and requests, so few of each sort that they meet."""

    def __init__(self, seed: str) -> None:
        self.chance = random.Random(seed)

    def _some(self, values: tuple[str, ...], odds: float, most: int = 2) -> tuple[str, ...]:
        chance = self.chance
        if chance.random() > odds:
            return ()
        return tuple(chance.sample(values, chance.randint(1, most)))

    def uri(self) -> str:
        chance = self.chance
        text = "/" + "/".join(chance.choices(SEGMENTS, k=chance.choice((1, 1, 2, 2, 3, 4, 5))))
        return chance.choice((text, text, text, text + "*", "/*", "*", "/a/*", "/a"))

    def route(self, id_: str) -> PlainRoute:
        chance = self.chance
        return PlainRoute(
            id_,
            tuple(dict.fromkeys(self.uri() for _ in range(chance.choice((1, 1, 1, 2, 3))))),
            self._some(HOST_PATTERNS, 0.5, 3),
            self._some(METHODS[:3], 0.3),
            chance.choice((0, 0, 0, 1, 9, -1)),
            self._some(NETWORKS, 0.2),
            "q=1" if chance.random() < 0.15 else None,
        )

    def request(self) -> PlainRequest:
        chance = self.chance
        path = "/" + "/".join(chance.choices(PATH_SEGMENTS, k=chance.choice((1, 1, 2, 2, 3, 3, 4, 6))))
        return PlainRequest(
            chance.choice(METHODS),
            chance.choice(HOSTS),
            path,
            chance.choice(("", "", "q=1")),
            chance.choice(ADDRESSES),
        )


@pytest.mark.parametrize("mode", get_args(Mode))
def test_the_index_agrees_with_a_plain_matcher_after_random_edits(mode: Mode) -> None:
    making = Making(mode)
    chance = making.chance
    router = build_router(mode)
    plain: dict[str, PlainRoute] = {}
    entered: dict[str, Route] = {}
    for round_ in range(ROUNDS):
        ids = 10 if round_ % 4 else 90  # few routes, and buckets with very many
        for _ in range(EDITS if round_ % 4 else 120):
            id_ = str(chance.randrange(ids))
            if id_ in plain:
                router.remove(entered.pop(id_))
                del plain[id_]
                if chance.random() < 0.4:
                    continue
            plain[id_] = making.route(id_)
            entered[id_] = route(router, plain[id_])
            router.add(entered[id_])
        for id_ in [id_ for id_ in plain if int(id_) >= ids]:
            router.remove(entered.pop(id_))
            del plain[id_]
        for _ in range(REQUESTS):
            request = making.request()
            expected = winner(mode, plain.values(), request)
            asked = exchange(request)
            found = router.match(asked)
            assert (found and found.id) == (expected and expected[0].id), (request, expected, found)
            asked.route = found
            if expected is not None and len(expected[0].uris) == 1:
                assert asked.captures == captures(expected[1], request.path, router.has_parameters)
            assert asked.request is not None
            if asked.request.matched_at == router.version and expected != winner(
                mode, plain.values(), replace(request, address=chance.choice(ADDRESSES))
            ):
                raise AssertionError(f"remembered for every address: {request}, {expected}")
    for old in entered.values():
        router.remove(old)
    assert [table.size for _, table in router.all_tables()] == [0]
    assert not list(next(router.all_tables())[1])
