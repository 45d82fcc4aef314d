"""real-ip (plugins.md section 6), and what of the rest sees the address (upstreams.md section 6)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.plugins.refusals import complaint
from worker.plugins.real_ip import parsed
from worker.plugins.testing import Outcome, PluginKit

SEEN = {"fault-injection": {"abort": {"http_status": 200, "body": "$remote_addr $remote_port $realip_remote_addr"}}}


def seen(config: dict[str, Any], headers: dict[str, str], target: str = "/", remote: str = "127.0.0.1") -> str:
    with PluginKit({"real-ip": config, **SEEN}) as kit:
        return kit.request("GET", target, headers, remote=remote).body.decode()


@pytest.mark.parametrize(
    ("value", "client"),
    [
        ("1.2.3.4", "1.2.3.4 "),
        ("1.2.3.4:80", "1.2.3.4 80"),
        ("::1", "::1 "),
        ("[2001:db8::1]:443", "2001:db8::1 443"),
        ("[2001:db8::1]", "2001:db8::1 "),
        ("::ffff:1.2.3.4", "1.2.3.4 "),
        (" 1.2.3.4 ", "1.2.3.4 "),
        ("1.2.3", "127.0.0.1 40000"),
        ("1.2.3.4:99999", "127.0.0.1 40000"),
        ("a.com", "127.0.0.1 40000"),
        ("", "127.0.0.1 40000"),
    ],
)
def test_the_source_is_an_address_perhaps_with_a_port(value: str, client: str) -> None:
    assert seen({"source": "http_x_client"}, {"X-Client": value}) == f"{client} 127.0.0.1"


def test_any_variable_is_a_source() -> None:
    assert seen({"source": "arg_realip"}, {}, "/?realip=1.2.3.4") == "1.2.3.4  127.0.0.1"
    assert seen({"source": "arg_realip"}, {}, "/?realip") == "127.0.0.1 40000 127.0.0.1"
    assert seen({"source": "arg_realip"}, {}) == "127.0.0.1 40000 127.0.0.1"


@pytest.mark.parametrize(("remote", "is_believed"), [("127.0.0.1", True), ("10.9.9.9", True), ("11.0.0.1", False)])
def test_only_trusted_peers_are_believed(remote: str, is_believed: bool) -> None:
    config = {"source": "http_x_client", "trusted_addresses": ["127.0.0.0/24", "10.0.0.0/8"]}
    found = seen(config, {"X-Client": "1.2.3.4:5"}, remote=remote)
    assert found == (f"1.2.3.4 5 {remote}" if is_believed else f"{remote} 40000 {remote}")


TRUSTED = {"trusted_addresses": ["127.0.0.1", "10.0.0.0/8"]}


@pytest.mark.parametrize(
    ("config", "chain", "client"),
    [
        ({}, "1.1.1.1, 2.2.2.2,10.0.0.3", "10.0.0.3"),
        ({}, "1.1.1.1,2.2.2.2 , ", "2.2.2.2"),
        (TRUSTED, "1.1.1.1, 2.2.2.2, 10.0.0.3", "10.0.0.3"),
        ({"recursive": True}, "1.1.1.1, 2.2.2.2", "2.2.2.2"),
        ({"recursive": True, **TRUSTED}, "1.1.1.1, 2.2.2.2, 10.0.0.3, 10.0.0.4", "2.2.2.2"),
        ({"recursive": True, **TRUSTED}, "10.0.0.1, 10.0.0.2", "10.0.0.1"),
        ({"recursive": True, **TRUSTED}, "1.1.1.1, bad, 10.0.0.2", "127.0.0.1"),
        ({"recursive": True, **TRUSTED}, "1.1.1.1, 2.2.2.2:5, 10.0.0.2:6", "2.2.2.2"),
    ],
)
def test_of_x_forwarded_for_the_end_counts(config: dict[str, Any], chain: str, client: str) -> None:
    for source in ("http_x_forwarded_for", "http_X-Forwarded-For"):
        assert seen({"source": source, **config}, {"X-Forwarded-For": chain}).split(" ")[0] == client


def told(answer: Outcome) -> tuple[str | None, str | None]:
    assert answer.upstream is not None
    return answer.upstream.header("x-real-ip"), answer.upstream.header("x-forwarded-for")


def test_the_upstream_is_told_and_the_next_request_is_as_it_was() -> None:
    with PluginKit({}) as kit:
        upstream = {"type": "roundrobin", "nodes": {"127.0.0.1:1980": 1}}
        plugins = {"real-ip": {"source": "arg_ip"}}
        kit.put("routes/2", {"uri": "/ip", "upstream": upstream, "plugins": plugins})
        sent = {"X-Forwarded-For": "9.9.9.9"}
        messages = [("GET", target, sent, b"") for target in ("/ip?ip=1.2.3.4", "/?ip=1.2.3.4", "/ip", "/ip?ip=::5")]
        assert [told(answer) for answer in kit.requests(messages)] == [
            ("1.2.3.4", "9.9.9.9, 1.2.3.4"),
            ("127.0.0.1", "9.9.9.9, 127.0.0.1"),
            ("127.0.0.1", "9.9.9.9, 127.0.0.1"),
            ("::5", "9.9.9.9, ::5"),
        ]
        assert told(kit.request(target="/ip?ip=1.2.3.4")) == ("1.2.3.4", "1.2.3.4")


def test_what_the_client_sent_is_still_there_to_be_asked_for() -> None:
    fault = {"abort": {"http_status": 200, "body": "$http_x_real_ip $http_x_forwarded_for"}}
    with PluginKit({"real-ip": {"source": "http_x_real_ip"}, "fault-injection": fault}) as kit:
        answer = kit.request(headers={"X-Real-IP": "1.2.3.4", "X-Forwarded-For": "5.6.7.8"})
        assert answer.body == b"1.2.3.4 5.6.7.8"


def test_a_chain_that_is_dropped_is_not_told() -> None:
    settings = {"trusted_addresses": ["10.0.0.0/8"]}
    with PluginKit({"real-ip": {"source": "arg_ip"}}, settings=settings) as kit:
        sent = {"X-Forwarded-For": "9.9.9.9"}
        assert told(kit.request(target="/?ip=1.2.3.4", headers=sent)) == ("1.2.3.4", "1.2.3.4")
        assert told(kit.request(target="/?ip=1.2.3.4", headers=sent, remote="10.0.0.1"))[1] == "9.9.9.9, 1.2.3.4"


def test_later_plugins_see_it() -> None:
    plugins = {"real-ip": {"source": "http_x_client"}, "ip-restriction": {"whitelist": ["1.2.3.4"]}}
    with PluginKit(plugins) as kit:
        assert kit.request(headers={"X-Client": "1.2.3.4"}).status == 200
        assert kit.request(headers={"X-Client": "1.2.3.5"}).status == 403
        assert kit.request().status == 403


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({}, ""),
        ({"source": ""}, ".source: "),
        ({"source": "arg_a", "trusted_addresses": []}, ".trusted_addresses: "),
        ({"source": "arg_a", "trusted_addresses": ["x"]}, ".trusted_addresses: "),
        ({"source": "arg_a", "recursive": 1}, ".recursive: "),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], fault: str) -> None:
    found = complaint("real-ip", config)
    assert found
    assert found.startswith(fault)


@given(address=st.ip_addresses(), port=st.integers(1, 65535))
def test_what_is_written_is_read(address: Any, port: int) -> None:
    host = f"[{address}]" if address.version == 6 else str(address)
    expected = str(getattr(address, "ipv4_mapped", None) or address)
    assert parsed(f"{host}:{port}") == (expected, port)
    assert parsed(str(address)) == (expected, 0)


@given(st.text())
def test_whatever_is_sent_does_no_harm(text: str) -> None:
    parsed(text)
