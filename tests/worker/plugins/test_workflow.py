"""workflow (plugins.md section 5)."""

from typing import Any

import pytest

from tests.worker.plugins.refusals import complaint
from tests.worker.plugins.test_limit_conn import under_way
from worker.plugins.testing import PluginKit

TWO = {"count": 2, "time_window": 60}
FORBID = ["return", {"code": 403}]


def rules(*entries: dict[str, Any]) -> dict[str, Any]:
    return {"workflow": {"rules": list(entries)}}


def statuses(kit: PluginKit, times: int, **request: Any) -> list[int]:
    return [kit.request(**request).status for _ in range(times)]


def test_the_first_action_of_the_first_rule_that_applies_is_carried_out() -> None:
    plugins = rules(
        {"case": [["arg_a", "==", "1"]], "actions": [FORBID, ["return", {"code": 500}]]},
        {"case": [["arg_b", "==", "1"]], "actions": [["return", {"code": 404}]]},
    )
    with PluginKit(plugins) as kit:
        answer = kit.request(target="/?a=1&b=1")
        assert (answer.status, answer.body) == (403, b'{"error_msg":"rejected by workflow"}\n')
        assert kit.request(target="/?b=1").status == 404
        assert kit.request(target="/").status == 200


def test_without_a_case_it_always_applies() -> None:
    with PluginKit(rules({"actions": [FORBID]})) as kit:
        assert kit.request().status == 403


def test_expressions_may_ask_for_the_body() -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    with PluginKit(rules({"case": [["post_arg_a", "==", "1"]], "actions": [["limit-count", TWO]]})) as kit:
        assert statuses(kit, 3, method="POST", headers=form, body=b"a=1") == [200, 200, 503]
        assert statuses(kit, 3, method="POST", headers=form, body=b"a=2") == [200, 200, 200]


def test_two_workflows_count_both() -> None:
    everybody = {"global_rules/1": {"plugins": rules({"actions": [["limit-count", {**TWO, "count": 100}]]})}}
    with PluginKit(rules({"actions": [["limit-count", TWO]]}), everybody) as kit:
        assert statuses(kit, 3) == [200, 200, 503]


def test_metadata_of_limit_count_apply_to_the_action() -> None:
    records = {"plugin_metadata/limit-count": {"limit_header": "X-Most"}}
    with PluginKit(rules({"actions": [["limit-count", TWO]]}), records) as kit:
        assert kit.request().header("x-most") == "2"
        kit.put("plugin_metadata/limit-count", {"remaining_header": "X-Left"})
        answer = kit.request()
        assert (answer.header("x-most"), answer.header("x-ratelimit-limit")) == (None, "2")
        assert answer.header("x-left") == "0"  # what was counted before still counts
        kit.put("plugin_metadata/limit-count", None)
        assert kit.request().header("x-ratelimit-remaining") == "0"


def test_metadata_of_others_leave_it_as_it_is() -> None:
    with PluginKit(rules({"actions": [["limit-count", TWO]]})) as kit:
        kit.request()
        made = kit.context.plugins.maker.made["routes/kit"]["workflow"].plugin
        kit.put("plugin_metadata/http-logger", {"log_format": {"a": "b"}})
        kit.request()
        assert kit.context.plugins.maker.made["routes/kit"]["workflow"].plugin is made


def test_limit_count_has_counters_of_its_own_and_the_plugin_stands_back() -> None:
    case = [["arg_a", "==", "1"]]
    plugins = {
        **rules({"case": case, "actions": [["limit-count", {**TWO, "rejected_code": 429}]]}),
        "limit-count": {**TWO, "count": 5},
    }
    with PluginKit(plugins) as kit:
        answers = [kit.request(target="/?a=1") for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert [answer.headers("x-ratelimit-remaining") for answer in answers] == [["1"], ["0"], ["0"]]
        answer = kit.request()
        assert (answer.headers("x-ratelimit-limit"), answer.headers("x-ratelimit-remaining")) == (["5"], ["4"])


def test_two_rules_count_apart() -> None:
    plugins = rules(*[{"case": [["arg_a", "==", at]], "actions": [["limit-count", TWO]]} for at in "12"])
    with PluginKit(plugins) as kit:
        assert statuses(kit, 3, target="/?a=1") == [200, 200, 503]
        assert statuses(kit, 3, target="/?a=2") == [200, 200, 503]


def test_limit_conn_gives_back_when_the_request_is_over() -> None:
    config = {"conn": 1, "burst": 0, "default_conn_delay": 0.1, "key": "remote_addr"}
    plugins = {**rules({"actions": [["limit-conn", {**config, "conn": 2}]]}), "limit-conn": config}
    with PluginKit(plugins) as kit:
        with under_way(kit, 1):
            assert statuses(kit, 2) == [200, 200]
            with under_way(kit, 1):
                assert statuses(kit, 2) == [503, 503]
        assert statuses(kit, 2) == [200, 200]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, "rules"),
        ({"rules": []}, ".rules"),
        ({"rules": [{"case": []}]}, ".rules[0]"),
        ({"rules": [{"actions": []}]}, ".rules[0].actions"),
        ({"rules": [{"actions": [[]]}]}, ".rules[0].actions[0]"),
        ({"rules": [{"actions": [["redirect", {}]]}]}, ".rules[0].actions[0][0]: must be one of return, limit-count"),
        ({"rules": [{"actions": [[1, {}]]}]}, ".rules[0].actions[0][0]"),
        ({"rules": [{"actions": [["return"]]}]}, ".rules[0].actions[0][1]"),
        ({"rules": [{"actions": [["return", 403]]}]}, ".rules[0].actions[0][1]"),
        ({"rules": [{"actions": [["return", {"code": 600}]]}]}, ".rules[0].actions[0][1].code"),
        ({"rules": [{"actions": [FORBID, ["limit-count", {"count": 1}]]}]}, ".rules[0].actions[1][1]"),
        ({"rules": [{"actions": [FORBID], "case": [["a", "~", 1]]}]}, ".rules[0].case"),
    ],
)
def test_refusals(config: dict[str, Any], expected: str) -> None:
    assert expected in complaint("workflow", config)
