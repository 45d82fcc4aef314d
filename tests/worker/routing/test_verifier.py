"""The comparison of the live index with one built anew."""

from typing import get_args

import pytest

from tests.fakes.plain_matcher import PlainRoute
from tests.worker.routing.making import route
from worker.routing.route import Route
from worker.routing.router import Mode, Place, Router, build_router
from worker.routing.verifier import Verification


@pytest.fixture(params=get_args(Mode))
def router(request: pytest.FixtureRequest) -> Router:
    return build_router(request.param)


def filled(router: Router) -> dict[str, Route]:
    routes = {
        str(at): route(router, PlainRoute(str(at), (f"/{at % 40}/*", f"/{at}"), ("a.com", "*.b") if at % 2 else ()))
        for at in range(100)
    }
    for one in routes.values():
        router.add(one)
    return routes


def verified(router: Router, routes: dict[str, Route]) -> Verification:
    verification = Verification(router, routes)
    for _ in verification.steps():
        pass
    return verification


def test_an_index_that_is_right(router: Router) -> None:
    routes = filled(router)
    verification = verified(router, routes)
    assert (verification.count, verification.is_outdated) == (0, False)


def test_a_route_that_is_missing(router: Router) -> None:
    routes = filled(router)
    router.remove(routes["7"])
    verification = verified(router, routes)
    assert verification.count
    assert "7" in verification.differences[0]


def test_a_route_too_many(router: Router) -> None:
    routes = filled(router)
    routes.pop("8")
    assert verified(router, routes).count


def test_a_bucket_in_another_order(router: Router) -> None:
    routes = filled(router)
    bucket = router.bucket(Place("", exact=False, literal=b"/2/"))
    assert bucket is not None
    bucket.reverse()
    assert [text.partition(":")[0] for text in verified(router, routes).differences] == ["any host /2/"]


def test_a_change_meanwhile_makes_it_worthless(router: Router) -> None:
    routes = filled(router)
    verification = Verification(router, routes)
    steps = verification.steps()
    next(steps)
    router.remove(routes["7"])
    for _ in steps:
        pass
    assert verification.is_outdated
