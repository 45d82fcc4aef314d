"""acl (plugins.md section 3)."""

from typing import Any

import pytest

from worker.exchange import Exchange
from worker.plugins.acl import EXTERNAL_USER
from worker.plugins.base import NoConfig, Plugin
from worker.plugins.testing import PluginKit

LABELS = {
    "plain": {"team": "red"},
    "several": {"team": "red,blue"},
    "json": {"team": '["red","green"]'},
    "other": {"role": "red"},
    "none": None,
}
RECORDS: dict[str, Any] = {
    f"consumers/{name}": {
        "username": name,
        "plugins": {"key-auth": {"key": name}},
        **({"labels": labels} if labels else {}),
    }
    for name, labels in LABELS.items()
}


@pytest.mark.parametrize(
    ("config", "open_to"),
    [
        ({"allow_labels": {"team": ["red"]}}, {"plain", "several", "json"}),
        ({"allow_labels": {"team": ["blue", "green"]}}, {"several", "json"}),
        ({"allow_labels": {"team": ["blue"], "role": ["red"]}}, {"several", "other"}),
        ({"deny_labels": {"team": ["blue"]}}, {"plain", "json", "other", "none"}),
        ({"deny_labels": {"team": ["blue"]}, "allow_labels": {"team": ["red"]}}, {"plain", "json"}),
        ({"allow_labels": {"team": ["re"]}}, set()),
    ],
)
def test_labels_let_in_and_keep_out(config: dict[str, Any], open_to: set[str]) -> None:
    with PluginKit({"key-auth": {}, "acl": config}, RECORDS) as kit:
        answers = {name: kit.request(headers={"apikey": name}) for name in LABELS}
    assert {name for name, answer in answers.items() if answer.status == 200} == open_to
    for answer in answers.values():
        assert answer.status == 200 or (answer.status, answer.body) == (
            403,
            b'{"message":"The consumer is forbidden."}\n',
        )


def test_nobody_is_401() -> None:
    with PluginKit({"acl": {"deny_labels": {"team": ["red"]}}}) as kit:
        answer = kit.request()
    assert (answer.status, answer.body) == (401, b'{"message":"Missing authentication."}\n')


@pytest.mark.parametrize("text", ["no", ""])
def test_code_and_message_are_configured(text: str) -> None:
    config = {"deny_labels": {"team": ["red"]}, "rejected_code": 418, "rejected_msg": text}
    with PluginKit({"key-auth": {}, "acl": config}, RECORDS) as kit:
        answer = kit.request(headers={"apikey": "plain"})
    assert (answer.status, answer.json()) == (418, {"message": text})


USER = {
    "groups": ["red", "blue"],
    "text": "red|blue",
    "json": '["red"]',
    "commas": "red, blue",
    "deep": {"role": "red"},
}


class External(Plugin[NoConfig]):
    """Knows a user that is no consumer."""

    name = "external"

    def rewrite(self, exchange: Exchange) -> None:
        assert exchange.run is not None
        exchange.run.keep(EXTERNAL_USER, USER)


@pytest.mark.parametrize(
    ("config", "label", "is_in"),
    [
        ({}, "groups", True),
        ({"external_user_label_field": "commas"}, "commas", True),
        ({"external_user_label_field": "json"}, "json", True),
        ({"external_user_label_field": "nothing"}, "nothing", False),
        ({"external_user_label_field": "$..role"}, "$..role", True),
        ({"external_user_label_field": "$.deep.role", "external_user_label_field_key": "role"}, "role", True),
        ({"external_user_label_field": "text"}, "text", False),
        (
            {
                "external_user_label_field": "text",
                "external_user_label_field_parser": "segmented_text",
                "external_user_label_field_separator": r"\|",
            },
            "text",
            True,
        ),
        ({"external_user_label_field": "json", "external_user_label_field_parser": "json"}, "json", True),
        ({"external_user_label_field": "text", "external_user_label_field_parser": "json"}, "text", False),
        ({"external_user_label_field_parser": "table"}, "groups", True),
        ({"external_user_label_field": "json", "external_user_label_field_parser": "table"}, "json", False),
    ],
)
def test_users_from_elsewhere(config: dict[str, Any], label: str, is_in: bool) -> None:
    plugins = {"external": {}, "acl": {"allow_labels": {label: ["red"]}, **config}}
    with PluginKit(plugins, extra=(External,)) as kit:
        assert kit.request().status == (200 if is_in else 403)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({}, "one of allow_labels and deny_labels"),
        ({"allow_labels": {}}, "one of allow_labels and deny_labels"),
        ({"allow_labels": {"a": []}}, "allow_labels"),
        ({"allow_labels": {"a": "b"}}, "allow_labels"),
        ({"rejected_code": 199}, "rejected_code"),
        ({"external_user_label_field_parser": "xml"}, "external_user_label_field_parser"),
        ({"deny_labels": {"a": ["b"]}, "external_user_label_field_parser": "segmented_text"}, "_separator"),
        ({"deny_labels": {"a": ["b"]}, "external_user_label_field_separator": "("}, "_separator"),
        ({"deny_labels": {"a": ["b"]}, "external_user_label_field": "$["}, "external_user_label_field"),
    ],
)
def test_what_cannot_be_configured_is_refused(config: dict[str, Any], complaint: str) -> None:
    with PluginKit() as kit:
        assert complaint in kit.refuses({"acl": config})
