"""csrf (plugins.md section 4)."""

import hashlib
import json
import re
import time
from base64 import b64decode, b64encode
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.plugins.refusals import complaint
from worker.plugins.base import Scope
from worker.plugins.csrf import Csrf, CsrfConfig
from worker.plugins.testing import Outcome, PluginKit

NAME = "apisix-csrf-token"


def signed(number: str, issued: int, key: str = "k", **more: Any) -> str:
    sign = hashlib.sha256(f"{{expires:{issued},random:{number},key:{key}}}".encode()).hexdigest()
    return b64encode(json.dumps({"random": float(number), "expires": issued, "sign": sign, **more}).encode()).decode()


def posted(token: str, **config: Any) -> Outcome:
    with PluginKit({"csrf": {"key": "k", **config}}) as kit:
        return kit.request("POST", "/", {NAME: token, "Cookie": f"{NAME}={token}"})


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_safe_methods_pass_and_get_a_token(method: str) -> None:
    with PluginKit({"csrf": {"key": "k"}}) as kit:
        before = int(time.time())
        answer = kit.request(method)
    assert answer.upstream is not None
    found = re.fullmatch(NAME + r"=([^;]+);path=/;SameSite=Lax;Expires=(.+)", answer.header("set-cookie") or "")
    assert found is not None
    token = json.loads(b64decode(found[1]))
    assert list(token) == ["random", "expires", "sign"]
    assert before <= token["expires"] <= time.time()
    text = f"{{expires:{token['expires']},random:{token['random']:.14g},key:k}}"
    assert token["sign"] == hashlib.sha256(text.encode()).hexdigest()
    assert parsedate_to_datetime(found[2]).timestamp() == token["expires"] + 7200


def test_what_was_given_out_is_taken_back() -> None:
    with PluginKit({"csrf": {"key": "k", "name": "X-T"}}) as kit:
        tokens = set()
        for _ in range(5):
            token = (kit.request().header("set-cookie") or "").partition("=")[2].partition(";")[0]
            answer = kit.request("POST", "/", {"x-t": token, "Cookie": f"a=b; X-T={token}"})
            assert (answer.status, answer.body) == (200, b"ok")
            tokens.add(token)
        assert len(tokens) == 5


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "no csrf token in headers"),
        ({"Cookie": f"{NAME}=x"}, "no csrf token in headers"),
        ({NAME: "x"}, "no csrf cookie"),
        ({NAME: "x", "Cookie": f"{NAME}=y"}, "csrf token mismatch"),
        ({NAME: "x", "Cookie": f"{NAME}=x"}, "Failed to verify the csrf token signature"),
    ],
)
def test_others_need_one(method: str, headers: dict[str, str], reason: str) -> None:
    with PluginKit({"csrf": {"key": "k"}}) as kit:
        answer = kit.request(method, "/", headers)
    assert (answer.status, answer.body) == (
        401,
        json.dumps({"error_msg": reason}, separators=(",", ":")).encode() + b"\n",
    )
    assert (answer.header("set-cookie") or "").startswith(f"{NAME}=")
    assert answer.upstream is None


def test_tokens_of_another_gateway_with_the_key_count() -> None:
    assert posted(signed("0.5", int(time.time()))).status == 200
    assert posted(signed("1e-05", int(time.time()))).status == 200


@pytest.mark.parametrize(
    "token",
    [
        signed("0.5", int(time.time()), "other"),
        signed("0.5", int(time.time()) - 7300),
        signed("0.5", int(time.time()), random=0.6),
        signed("0.5", int(time.time()), expires=int(time.time()) + 5),
        signed("0.5", int(time.time()), sign=5),
        signed("0.5", int(time.time()), random=10**400),
        b64encode(b"5").decode(),
        b64encode(b"{}").decode(),
        b64encode(b"\xff").decode(),
        b64encode(b'{"a":' + b"[" * 2000).decode(),
        "a",
        "%%%",
    ],
    ids=range(12),
)
def test_what_is_forged_or_too_old_does_not(token: str) -> None:
    answer = posted(token)
    assert (answer.status, answer.json()) == (401, {"error_msg": "Failed to verify the csrf token signature"})


def test_without_an_end_tokens_count_for_ever() -> None:
    assert posted(signed("0.5", 1_000_000_000), expires=0).status == 200
    assert (posted("x", expires=0).header("set-cookie") or "").endswith(";path=/;SameSite=Lax")


@given(now=st.integers(1, 2**32), later=st.integers(0, 10_000), expires=st.integers(0, 8000))
def test_a_token_is_valid_for_as_long_as_it_says(now: int, later: int, expires: int) -> None:
    plugin = Csrf(CsrfConfig("k", expires), Scope("csrf", "routes/1", "", None, None))  # type: ignore[arg-type]
    assert plugin.is_valid(plugin.token(now), now + later) is (not expires or later <= expires)


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({}, ""),
        ({"key": ""}, ".key: "),
        ({"key": "k", "expires": -1}, ".expires: "),
        ({"key": "k", "name": "a b"}, ".name: "),
        ({"key": "k", "name": ""}, ".name: "),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], fault: str) -> None:
    found = complaint("csrf", config)
    assert found
    assert found.startswith(fault)
