"""consumer-restriction (plugins.md section 3)."""

from typing import Any

import pytest

from worker.plugins.testing import PluginKit

RECORDS: dict[str, Any] = {
    "consumers/jack": {"username": "jack", "group_id": "g", "plugins": {"key-auth": {"key": "jack"}}},
    "consumers/jill": {"username": "jill", "plugins": {"key-auth": {"key": "jill"}}},
    "consumer_groups/g": {"plugins": {}},
    "services/s": {},
}


def kit(config: dict[str, Any], **more: Any) -> PluginKit:
    return PluginKit({"key-auth": {}, "consumer-restriction": config}, RECORDS, **more)


@pytest.mark.parametrize(
    ("config", "open_to"),
    [
        ({}, {"jack GET", "jack POST", "jill GET", "jill POST"}),
        ({"whitelist": ["jack"]}, {"jack GET", "jack POST"}),
        ({"blacklist": ["jack"]}, {"jill GET", "jill POST"}),
        ({"whitelist": ["jack", "jill"], "blacklist": ["jack"]}, {"jill GET", "jill POST"}),
        (
            {"allowed_by_methods": [{"user": "jack", "methods": ["GET"]}]},
            {"jack GET", "jill GET", "jill POST"},
        ),
        (
            {"allowed_by_methods": [{"user": "jack", "methods": ["GET"]}, {"user": "jack", "methods": ["POST"]}]},
            {"jack GET", "jack POST", "jill GET", "jill POST"},
        ),
        (
            {"whitelist": ["jack"], "allowed_by_methods": [{"user": "jack", "methods": ["GET"]}]},
            {"jack GET", "jack POST"},
        ),
        (
            {"whitelist": ["jack"], "allowed_by_methods": [{"user": "jill", "methods": ["GET"]}]},
            {"jack GET", "jack POST"},
        ),
        (
            {"blacklist": ["jack"], "allowed_by_methods": [{"user": "jack", "methods": ["GET"]}]},
            {"jill GET", "jill POST"},
        ),
        ({"type": "consumer_group_id", "whitelist": ["g"]}, {"jack GET", "jack POST"}),
        ({"type": "route_id", "whitelist": ["kit"]}, {"jack GET", "jack POST", "jill GET", "jill POST"}),
        ({"type": "route_id", "blacklist": ["kit"]}, set()),
        ({"type": "service_id", "whitelist": ["s"]}, {"jack GET", "jack POST", "jill GET", "jill POST"}),
        ({"type": "service_id", "whitelist": ["t"]}, set()),
    ],
)
def test_who_may_do_what(config: dict[str, Any], open_to: set[str]) -> None:
    with kit(config, route={"service_id": "s"}) as worker:
        found = {
            f"{name} {method}"
            for name in ("jack", "jill")
            for method in ("GET", "POST")
            if worker.request(method, headers={"apikey": name}).status == 200
        }
    assert found == open_to


@pytest.mark.parametrize("type_", ["consumer_name", "consumer_group_id", "service_id", "route_id"])
def test_the_answer_names_the_type(type_: str) -> None:
    values = {"consumer_name": "jack", "consumer_group_id": "g", "service_id": "s", "route_id": "kit"}
    with kit({"type": type_, "blacklist": [values[type_]]}, route={"service_id": "s"}) as worker:
        answer = worker.request(headers={"apikey": "jack"})
    assert (answer.status, answer.body) == (403, b'{"message":"The %b is forbidden."}\n' % type_.encode())


@pytest.mark.parametrize("type_", ["consumer_name", "consumer_group_id", "service_id"])
def test_without_an_identity_it_is_401(type_: str) -> None:
    with PluginKit({"consumer-restriction": {"type": type_, "blacklist": ["x"]}}) as worker:
        answer = worker.request()
    assert answer.status == 401
    assert answer.json() == {"message": f"The request is rejected, please check the {type_} for this request"}
    assert answer.body.endswith(b"}\n")


@pytest.mark.parametrize("text", ["no", ""])
def test_code_and_message_are_configured(text: str) -> None:
    with kit({"blacklist": ["jack"], "rejected_code": 418, "rejected_msg": text}) as worker:
        answer = worker.request(headers={"apikey": "jack"})
    assert (answer.status, answer.json()) == (418, {"message": text})


@pytest.mark.parametrize(
    "config",
    [
        {"type": "label"},
        {"whitelist": []},
        {"blacklist": []},
        {"whitelist": "jack"},
        {"rejected_code": 199},
        {"rejected_msg": 1},
        {"allowed_by_methods": [{"user": "jack"}]},
        {"allowed_by_methods": [{"user": "jack", "methods": ["FLY"]}]},
    ],
)
def test_what_cannot_be_configured_is_refused(config: dict[str, Any]) -> None:
    with PluginKit() as worker:
        assert next(iter(config)) in worker.refuses({"consumer-restriction": config})
