"""ua-restriction (plugins.md section 4)."""

from typing import Any

import pytest

from tests.worker.plugins.refusals import complaint
from worker.plugins.testing import PluginKit

REFUSED = 403, b'{"message":"Not allowed"}\n'
SERVED = 200, b"ok"
LISTED = ["my-bot[0-9]+", "(Baidu|Twitter)spider"]


@pytest.mark.parametrize(
    ("agent", "is_listed"),
    [("x my-bot12 y", True), ("my-bot", False), ("Baiduspider/2.0", True), ("baiduspider", False), ("", False)],
)
def test_patterns_are_found_anywhere_with_regard_to_case(agent: str, is_listed: bool) -> None:
    for name, served in (("allowlist", is_listed), ("denylist", not is_listed)):
        with PluginKit({"ua-restriction": {name: LISTED}}) as kit:
            answer = kit.request(headers={"User-Agent": agent})
            assert (answer.status, answer.body) == (SERVED if served else REFUSED)


@pytest.mark.parametrize("name", ["allowlist", "denylist"])
@pytest.mark.parametrize("bypass", [True, False])
def test_who_sends_none_is_refused_unless_bypassed(name: str, bypass: bool) -> None:
    with PluginKit({"ua-restriction": {name: LISTED, "bypass_missing": bypass}}) as kit:
        answer = kit.request()
        assert (answer.status, answer.body) == (SERVED if bypass else REFUSED)


def test_the_message_can_be_chosen() -> None:
    with PluginKit({"ua-restriction": {"denylist": ["."], "message": "Go."}}) as kit:
        assert kit.request(headers={"User-Agent": "a"}).body == b'{"message":"Go."}\n'


@pytest.mark.parametrize("name", ["allowlist", "denylist"])
def test_a_pattern_that_takes_too_long_counts_against_the_client(name: str) -> None:
    with PluginKit({"ua-restriction": {name: ["^(a+)+$"]}}) as kit:
        assert kit.request(headers={"User-Agent": "a" * 2000 + "b"}).status == 403


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({}, ": exactly one of allowlist, denylist"),
        ({"allowlist": ["a"], "denylist": ["a"]}, "exactly one of allowlist, denylist"),
        ({"allowlist": []}, ".allowlist: "),
        ({"allowlist": [""]}, ".allowlist[0]: "),
        ({"allowlist": ["a", "("]}, ".allowlist[1]: "),
        ({"denylist": ["["]}, ".denylist[0]: "),
        ({"denylist": ["a"], "bypass_missing": 1}, ".bypass_missing: "),
        ({"denylist": ["a"], "message": ""}, ".message: "),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], fault: str) -> None:
    assert fault in complaint("ua-restriction", config)
