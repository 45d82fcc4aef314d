"""traffic-split (plugins.md section 6)."""

from collections import Counter
from typing import Any

import pytest

from tests.worker.plugins.refusals import complaint
from worker.plugins.testing import PluginKit
from worker.upstream.peer import UpstreamCell


def upstream(host: str) -> dict[str, Any]:
    """Return an upstream that can be told by the Host it is sent."""
    nodes = {"127.0.0.1:1980": 1}
    return {"type": "roundrobin", "nodes": nodes, "pass_host": "rewrite", "upstream_host": host}


def hosts(kit: PluginKit, times: int, **request: Any) -> Counter[str]:
    answers = [kit.request(**request) for _ in range(times)]
    return Counter(str(answer.upstream.header("host")) for answer in answers if answer.upstream is not None)


def split(*entries: dict[str, Any], **rule: Any) -> dict[str, Any]:
    return {"traffic-split": {"rules": [{**rule, "weighted_upstreams": list(entries)}]}}


def test_parts_are_as_the_weights_say() -> None:
    plugins = split({"upstream": upstream("b.com"), "weight": 3}, {"upstream_id": "c"}, {"weight": 2})
    with PluginKit(plugins, {"upstreams/c": upstream("c.com")}) as kit:
        for _ in range(3):
            assert hosts(kit, 6) == {"b.com": 3, "c.com": 1, "a.com": 2}


def test_turns_are_spread() -> None:
    with PluginKit(split({"upstream": upstream("b.com"), "weight": 2}, {"weight": 2})) as kit:
        seen = [kit.request().upstream.header("host") for _ in range(6)]  # type: ignore[union-attr]
        assert seen == ["b.com", "a.com"] * 3


def test_without_entries_the_routes_own_upstream_is_used() -> None:
    configs: list[dict[str, Any]] = [{}, {"rules": []}, {"rules": [{}]}, {"rules": [{"weighted_upstreams": [{}]}]}]
    for config in configs:
        with PluginKit({"traffic-split": config}) as kit:
            assert hosts(kit, 2) == {"a.com": 2}


@pytest.mark.parametrize("weights", [(0,), (0, 0)])
def test_who_has_no_weight_gets_nothing(weights: tuple[int, ...]) -> None:
    with PluginKit(split(*[{"upstream": upstream("b.com"), "weight": weight} for weight in weights])) as kit:
        assert hosts(kit, 3) == {"a.com": 3}
    with PluginKit(split({"upstream": upstream("b.com"), "weight": 0}, {"weight": 1})) as kit:
        assert hosts(kit, 3) == {"a.com": 3}


def test_the_first_rule_counts_of_which_one_match_is_true() -> None:
    rules = [
        {
            "match": [{"vars": [["arg_a", "==", "1"], ["arg_b", "==", "1"]]}, {"vars": [["http_x", "==", "1"]]}],
            "weighted_upstreams": [{"upstream": upstream("b.com")}],
        },
        {"match": [{"vars": [["arg_a", "==", "1"]]}], "weighted_upstreams": [{"upstream": upstream("c.com")}]},
    ]
    with PluginKit({"traffic-split": {"rules": rules}}) as kit:
        assert hosts(kit, 1, target="/?a=1&b=1") == {"b.com": 1}
        assert hosts(kit, 1, headers={"X": "1"}) == {"b.com": 1}
        assert hosts(kit, 1, target="/?a=1") == {"c.com": 1}
        assert hosts(kit, 1, target="/?b=1") == {"a.com": 1}


def test_a_match_without_an_expression_is_true() -> None:
    with PluginKit(split({"upstream": upstream("b.com")}, match=[{}])) as kit:
        assert hosts(kit, 1) == {"b.com": 1}


def test_expressions_may_ask_for_the_body() -> None:
    with PluginKit(split({"upstream": upstream("b.com")}, match=[{"vars": [["post_arg_a", "==", "1"]]}])) as kit:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        assert hosts(kit, 1, method="POST", headers=form, body=b"a=1") == {"b.com": 1}
        assert hosts(kit, 1, method="POST", headers=form, body=b"a=2") == {"a.com": 1}


def test_an_upstream_that_does_not_exist() -> None:
    with PluginKit(split({"upstream_id": 7})) as kit:
        answer = kit.request()
        assert (answer.status, answer.body) == (500, b"failed to fetch upstream info by upstream id: 7")
        kit.put("upstreams/7", upstream("b.com"))
        assert hosts(kit, 1) == {"b.com": 1}
        kit.put("upstreams/7", upstream("c.com"))
        assert hosts(kit, 1) == {"c.com": 1}
        kit.put("upstreams/7", None)
        assert kit.request().status == 500


def test_upstreams_that_are_written_here_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    with PluginKit(split({"upstream": upstream("b.com")}, {"upstream_id": "c"})) as kit:
        kit.put("upstreams/c", upstream("c.com"))
        hosts(kit, 2)
        given_back: list[UpstreamCell] = []
        services = kit.context.plugins.services
        give_back = services.give_back

        def noted(cell: UpstreamCell) -> None:
            given_back.append(cell)
            give_back(cell)

        monkeypatch.setattr(services, "give_back", noted)
        kit.put("routes/kit", {"uri": "/*", "upstream": upstream("d.com"), "plugins": {}})
        assert hosts(kit, 2) == {"d.com": 2}
        assert len(given_back) == 1


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"rules": [{"weighted_upstreams": []}]}, ".rules[0].weighted_upstreams"),
        ({"rules": [{"weighted_upstreams": [{}] * 21}]}, ".rules[0].weighted_upstreams"),
        ({"rules": [{"weighted_upstreams": [{"weight": -1}]}]}, ".rules[0].weighted_upstreams[0].weight"),
        (
            {"rules": [{"weighted_upstreams": [{}, {"upstream": {"type": "roundrobin"}}]}]},
            ".rules[0].weighted_upstreams[1].upstream: either nodes",
        ),
        (
            {"rules": [{"weighted_upstreams": [{"upstream": upstream("b.com"), "upstream_id": 1}]}]},
            ".rules[0].weighted_upstreams[0]",
        ),
        ({"rules": [{"match": [{"vars": [["a", "~", 1]]}]}]}, ".rules[0].match[0].vars"),
    ],
)
def test_refusals(config: dict[str, Any], expected: str) -> None:
    assert expected in complaint("traffic-split", config)
