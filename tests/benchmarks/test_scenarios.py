"""What benchmarks.load.scenarios promises to those who run it."""

import pytest

from benchmarks.load.scenarios import FEW_ROUTES, MANY_ROUTES, SCENARIOS, Setup, in_groups, select


def test_selection_keeps_the_order() -> None:
    assert [scenario.name for scenario in select(["post", "small_get"])] == ["small_get", "post"]


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="large_get"):
        select(["small_get", "large_get"])


def test_both_numbers_of_routes_run_in_the_same_rounds() -> None:
    groups = [[scenario.name for scenario in group] for group in in_groups(list(SCENARIOS))]
    assert ["routes_10", "routes_10000"] in groups
    assert ["two_workers"] in groups


@pytest.mark.parametrize("setup", [Setup(), FEW_ROUTES, MANY_ROUTES])
def test_the_path_that_is_asked_for_is_routed(setup: Setup) -> None:
    assert len(set(setup.route_uris)) == setup.routes
    assert sum(setup.check_path.startswith(uri) for uri in setup.route_uris) == 1
