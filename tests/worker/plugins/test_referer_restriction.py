"""referer-restriction (plugins.md section 4)."""

from typing import Any

import pytest

from tests.worker.plugins.refusals import complaint
from worker.plugins.testing import PluginKit

REFUSED = 403, b'{"message":"Your referer host is not allowed"}\n'
SERVED = 200, b"ok"
LISTED = ["a.com", "*.b.com", "[::1]"]


@pytest.mark.parametrize(
    ("referer", "is_listed"),
    [
        ("http://a.com", True),
        ("https://a.com:8080/x?y", True),
        ("HTTP://A.COM/", True),
        ("http://user@a.com/", True),
        ("http://x.b.com/", True),
        ("http://[::1]:80/", True),
        ("http://b.com/", False),
        ("http://xa.com/", False),
        ("http://a.com.evil.com/", False),
        ("http://evil.com/a.com", False),
        ("http://a.com@evil.com/", False),
        ("http://evil.com?@a.com", False),
    ],
)
def test_the_host_is_compared(referer: str, is_listed: bool) -> None:
    for name, served in (("whitelist", is_listed), ("blacklist", not is_listed)):
        with PluginKit({"referer-restriction": {name: LISTED}}) as kit:
            answer = kit.request(headers={"Referer": referer})
            assert (answer.status, answer.body) == (SERVED if served else REFUSED)


@pytest.mark.parametrize("name", ["whitelist", "blacklist"])
@pytest.mark.parametrize("headers", [{}, {"Referer": ""}, {"Referer": "a.com"}, {"Referer": "ftp://a.com/"}])
def test_one_that_is_missing_or_malformed_is_refused_unless_bypassed(name: str, headers: dict[str, str]) -> None:
    with PluginKit({"referer-restriction": {name: LISTED}}) as kit:
        answer = kit.request(headers=headers)
        assert (answer.status, answer.body) == REFUSED
    with PluginKit({"referer-restriction": {name: LISTED, "bypass_missing": True}}) as kit:
        assert kit.request(headers=headers).status == 200


def test_the_message_can_be_chosen() -> None:
    with PluginKit({"referer-restriction": {"blacklist": ["*"], "message": "Go."}}) as kit:
        assert kit.request(headers={"Referer": "http://x/"}).body == b'{"message":"Go."}\n'


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({}, ": exactly one of whitelist, blacklist"),
        ({"whitelist": ["a"], "blacklist": ["a"]}, "exactly one of whitelist, blacklist"),
        ({"whitelist": []}, ".whitelist: "),
        ({"whitelist": ["a", "b c"]}, ".whitelist[1]: "),
        ({"blacklist": ["a.*"]}, ".blacklist[0]: "),
        ({"blacklist": ["a"], "message": ""}, ".message: "),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], fault: str) -> None:
    assert fault in complaint("referer-restriction", config)
