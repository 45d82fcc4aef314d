"""uri-blocker (plugins.md section 4)."""

from typing import Any

import pytest

from tests.worker.plugins.refusals import complaint
from worker.plugins.testing import PluginKit


@pytest.mark.parametrize(
    ("target", "is_blocked"),
    [
        ("/root.exe", True),
        ("/x/root.exe?a=1", True),
        ("/x?cmd=root.exe", True),
        ("/ROOT.exe", False),
        ("/a/../root%2eexe", True),
        ("/x?select+from", True),
        ("/", False),
    ],
)
def test_rules_are_found_anywhere_in_path_and_query(target: str, is_blocked: bool) -> None:
    with PluginKit({"uri-blocker": {"block_rules": [r"root\.exe", r"select.+from"]}}) as kit:
        answer = kit.request(target=target)
        assert answer.status == (403 if is_blocked else 200)
        assert (answer.upstream is None) is is_blocked
        if is_blocked:
            assert b"<h1>403 Forbidden</h1>" in answer.body


def test_every_field() -> None:
    config = {"block_rules": ["root"], "rejected_code": 501, "rejected_msg": "no", "case_insensitive": True}
    with PluginKit({"uri-blocker": config}) as kit:
        answer = kit.request(target="/ROOT")
        assert (answer.status, answer.body) == (501, b'{"error_msg":"no"}\n')


def test_it_blocks_in_rewrite() -> None:
    with PluginKit(
        {"uri-blocker": {"block_rules": ["x"]}, "ip-restriction": {"blacklist": ["::/0", "0.0.0.0/0"]}}
    ) as kit:
        assert b"<h1>" in kit.request(target="/x").body
        assert b"<h1>" not in kit.request(target="/y").body


def test_a_rule_that_takes_too_long_blocks() -> None:
    with PluginKit({"uri-blocker": {"block_rules": ["^/(a+)+$"]}}) as kit:
        assert kit.request(target="/" + "a" * 2000 + "b").status == 403


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({}, "block_rules"),
        ({"block_rules": ["a", "a"]}, ".block_rules: has the same entry twice"),
        ({"block_rules": ["a", "("]}, ".block_rules[1]: "),
        ({"block_rules": [""]}, ".block_rules[0]: "),
        ({"block_rules": ["a"], "rejected_code": 199}, ".rejected_code: "),
        ({"block_rules": ["a"], "rejected_msg": ""}, ".rejected_msg: "),
        ({"block_rules": ["a"], "case_insensitive": "yes"}, ".case_insensitive: "),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], fault: str) -> None:
    assert fault in complaint("uri-blocker", config)
