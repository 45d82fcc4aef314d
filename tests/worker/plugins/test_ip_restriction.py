"""ip-restriction (plugins.md section 4)."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worker.plugins.refusals import complaint
from worker.plugins.testing import PluginKit

REFUSED = 403, b'{"message":"Your IP address is not allowed"}\n'
SERVED = 200, b"ok"


@pytest.mark.parametrize(
    ("remote", "is_listed"),
    [
        ("10.1.2.3", True),
        ("10.255.0.1", True),
        ("192.168.0.7", True),
        ("192.168.0.8", False),
        ("::1", True),
        ("fe80::1", True),
        ("fe81:1::1", False),
        ("127.0.0.1", False),
    ],
)
def test_lists_hold_addresses_and_networks_of_both_families(remote: str, is_listed: bool) -> None:
    addresses = ["10.0.0.0/8", "192.168.0.7", "::1", "fe80::/16"]
    with PluginKit({"ip-restriction": {"whitelist": addresses}}) as kit:
        answer = kit.request(remote=remote)
        assert (answer.status, answer.body) == (SERVED if is_listed else REFUSED)
        assert (answer.upstream is None) is not is_listed
        kit.put("routes/kit", None)
        upstream = {"type": "roundrobin", "nodes": {"127.0.0.1:1980": 1}}
        blacklist = {"ip-restriction": {"blacklist": addresses}}
        kit.put("routes/kit", {"uri": "/*", "upstream": upstream, "plugins": blacklist})
        answer = kit.request(remote=remote)
        assert (answer.status, answer.body) == (REFUSED if is_listed else SERVED)


def test_message_and_status_can_be_chosen() -> None:
    config = {"blacklist": ["127.0.0.0/8"], "message": 'Do "you"?', "response_code": 404}
    with PluginKit({"ip-restriction": config}) as kit:
        answer = kit.request()
        assert (answer.status, answer.body) == (404, b'{"message":"Do \\"you\\"?"}\n')


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({}, "exactly one of whitelist, blacklist"),
        ({"whitelist": ["::1"], "blacklist": ["::1"]}, "exactly one of whitelist, blacklist"),
        ({"whitelist": []}, ".whitelist: "),
        ({"blacklist": ["1.2.3"]}, ".blacklist: '1.2.3' is no address or network"),
        ({"blacklist": ["1.2.3.4/33"]}, ".blacklist: "),
        ({"blacklist": ["::1"], "message": ""}, ".message: "),
        ({"blacklist": ["::1"], "message": "x" * 1025}, ".message: "),
        ({"blacklist": ["::1"], "response_code": 402}, ".response_code: "),
        ({"blacklist": ["::1"], "response_code": 405}, ".response_code: "),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], fault: str) -> None:
    assert fault in complaint("ip-restriction", config)


@settings(deadline=None, max_examples=30)
@given(address=st.ip_addresses(), bits=st.integers(0, 32), network=st.ip_addresses(v=4))
def test_the_two_lists_are_opposites(address: Any, bits: int, network: Any) -> None:
    statuses = []
    for name in ("whitelist", "blacklist"):
        with PluginKit({"ip-restriction": {name: [f"{network}/{bits}"]}}) as kit:
            statuses.append(kit.request(remote=str(address)).status)
    assert sorted(statuses) == [200, 403]
