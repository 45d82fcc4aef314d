"""hmac-auth (plugins.md section 3)."""

import hashlib
import hmac
import time
from base64 import b64encode
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.messages import Request
from worker.plugins.hmac_auth import parsed
from worker.plugins.testing import PluginKit

ANN: dict[str, Any] = {
    "consumers/ann": {"username": "ann", "plugins": {"hmac-auth": {"key_id": "ann-key", "secret_key": "secret"}}}
}
GENERIC = b'{"message":"client request can\'t be validated"}\n'


def signed(
    lines: list[str],
    *,
    key_id: str = "ann-key",
    secret: str = "secret",
    algorithm: str = "hmac-sha256",
    headers: str = "@request-target date",
) -> str:
    text = "".join(f"{line}\n" for line in [key_id, *lines])
    digest = getattr(hashlib, algorithm.removeprefix("hmac-"), hashlib.md5)
    signature = b64encode(hmac.new(secret.encode(), text.encode(), digest).digest()).decode()
    return f'Signature keyId="{key_id}",algorithm="{algorithm}",headers="{headers}",signature="{signature}"'


def request(
    kit: PluginKit, *, method: str = "GET", target: str = "/", uri: str = "", date: str = "", **how: Any
) -> Any:
    date = date or formatdate(usegmt=True)
    body = how.pop("body", b"")
    more = how.pop("more", {})
    lines = how.pop("lines", [f"{method} {uri or target}", f"date: {date}"])
    return kit.request(method, target, {"Date": date, "Authorization": signed(lines, **how), **more}, body)


@pytest.mark.parametrize("algorithm", ["hmac-sha1", "hmac-sha256", "hmac-sha512"])
def test_a_signed_request_is_let_through(algorithm: str) -> None:
    with PluginKit({"hmac-auth": {}}, ANN) as kit:
        answer = request(kit, algorithm=algorithm)
        assert answer.status == 200
        assert answer.upstream.header("x-consumer-username") == "ann"


@pytest.mark.parametrize(
    ("method", "target", "uri"),
    [("POST", "/a?b=c", ""), ("GET", "//a/./b%2Dc?x=%20", "/a/b-c?x=%20"), ("DELETE", "/%C3%A4", "/ä")],
)
def test_the_request_target_is_the_normalised_path_with_the_query(method: str, target: str, uri: str) -> None:
    with PluginKit({"hmac-auth": {}}, ANN) as kit:
        assert request(kit, method=method, target=target, uri=uri).status == 200
        assert request(kit, method=method, target=target, uri="/other").status == 401


def test_headers_are_signed_as_they_are_written_and_absent_ones_are_skipped() -> None:
    date = formatdate(usegmt=True)
    lines = [f"Date: {date}", "X-Two: a, b"]
    with PluginKit({"hmac-auth": {"signed_headers": ["x-two", "date"]}}, ANN) as kit:
        more = {"x-two": "a", "X-TWO": "b"}
        how: dict[str, Any] = {"date": date, "lines": lines}
        assert request(kit, headers="Date X-Two X-Absent", more=more, **how).status == 200
        assert request(kit, headers="Date X-Two", more={**more, "X-TWO": "c"}, **how).status == 401
        assert request(kit, headers="Date", date=date, lines=lines[:1], more=more).status == 401


@pytest.mark.parametrize(
    ("authorization", "message"),
    [
        (None, "client request can't be validated: missing Authorization header"),
        ("Basic x", "client request can't be validated: Authorization header does not start with 'Signature'"),
        ("", "client request can't be validated: Authorization header does not start with 'Signature'"),
        ("Signature", "client request can't be validated"),
        ("Signature nonsense", "client request can't be validated"),
        ('Signature keyId="ann-key"', "client request can't be validated"),
        (signed([]) + ',keyId="ann-key"', "client request can't be validated"),
    ],
)
def test_what_is_missing_is_told(authorization: str | None, message: str) -> None:
    headers = {"Date": formatdate(usegmt=True)}
    with PluginKit({"hmac-auth": {}}, ANN) as kit:
        answer = kit.request(headers=headers if authorization is None else {**headers, "Authorization": authorization})
    assert answer.status == 401
    assert answer.json() == {"message": message}
    assert answer.header("www-authenticate") == 'hmac realm="hmac"'


@pytest.mark.parametrize(
    "how",
    [
        {"key_id": "nobody"},
        {"secret": "other"},
        {"algorithm": "hmac-md5"},
        {"headers": "@request-target"},
        {"date": formatdate(time.time() - 4000, usegmt=True)},
        {"date": formatdate(time.time() + 4000, usegmt=True)},
        {"date": "yesterday"},
        {"date": "Sat, 99 Nov 99999999999 99:99:99 GMT"},
        {"uri": "/else"},
    ],
)
def test_any_other_reason_is_not_told(how: dict[str, Any]) -> None:
    with PluginKit({"hmac-auth": {}}, ANN) as kit:
        answer = request(kit, **how)
        assert (answer.status, answer.body, answer.upstream) == (401, GENERIC, None)


def test_the_date_is_demanded_even_when_it_need_not_be_signed() -> None:
    authorization = signed(["GET /"], headers="@request-target")
    with PluginKit({"hmac-auth": {"signed_headers": []}}, ANN) as kit:
        assert kit.request(headers={"Authorization": authorization}).body == GENERIC
        date = formatdate(usegmt=True)
        assert kit.request(headers={"Authorization": authorization, "Date": date}).status == 200


def test_skew_algorithms_and_realm_are_configured() -> None:
    config = {"clock_skew": 1000, "allowed_algorithms": ["hmac-sha512"], "realm": "r"}
    late = formatdate(time.time() - 400, usegmt=True)
    with PluginKit({"hmac-auth": config}, ANN) as kit:
        assert request(kit, date=late, algorithm="hmac-sha512").status == 200
        assert request(kit, date=late).header("www-authenticate") == 'hmac realm="r"'


def test_the_field_is_hidden() -> None:
    with PluginKit({"hmac-auth": {"hide_credentials": True}}, ANN) as kit:
        assert request(kit).upstream.header("authorization") is None
    with PluginKit({"hmac-auth": {}}, ANN) as kit:
        assert request(kit).upstream.header("authorization") is not None


def digest_of(body: bytes) -> dict[str, str]:
    return {"Digest": "SHA-256=" + b64encode(hashlib.sha256(body).digest()).decode()}


@pytest.mark.parametrize("body", [b"abc", b"", b"x" * 20_000, b"y" * 600_000])
def test_a_body_is_compared_with_its_digest(body: bytes) -> None:
    with PluginKit({"hmac-auth": {"validate_request_body": True}}, ANN) as kit:
        answer = request(kit, method="POST", body=body, more=digest_of(body))
        assert answer.status == 200
        assert answer.upstream.body == body
        assert request(kit, method="POST", body=body, more=digest_of(b"other")).body == GENERIC
        assert request(kit, method="POST", body=body).body == GENERIC
    with PluginKit({"hmac-auth": {}}, ANN) as kit:
        assert request(kit, method="POST", body=body, more=digest_of(b"other")).status == 200


@pytest.mark.parametrize("is_chunked", [False, True])
def test_a_body_above_the_limit_is_413(is_chunked: bool) -> None:
    body = b"x" * 2000
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if is_chunked else body
    more = {**digest_of(body), **({"Transfer-Encoding": "chunked"} if is_chunked else {})}
    with PluginKit({"hmac-auth": {"validate_request_body": True, "max_req_body_size": 1999}}, ANN) as kit:
        assert request(kit, method="POST", body=sent, more=more).status == 413
        assert request(kit, method="POST", body=sent, more=more, secret="wrong").status == 401
    with PluginKit({"hmac-auth": {"validate_request_body": True, "max_req_body_size": 2000}}, ANN) as kit:
        answer = request(kit, method="POST", body=sent, more=more)
        assert answer.status == 200
        assert answer.upstream.body == body


def test_a_filter_that_wants_to_see_less_of_the_body_does_not_hide_it() -> None:
    body = b"a=1&b=" + b"x" * 100_000
    more = {**digest_of(body), "Content-Type": "application/x-www-form-urlencoded"}
    meta = {"filter": [["post_arg_a", "~=", "2"]]}
    settings = {"max_post_args_readable_size": 50_000}
    with PluginKit({"hmac-auth": {"validate_request_body": True, "_meta": meta}}, ANN, settings=settings) as kit:
        for sent in (body, b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)):
            chunked = {"Transfer-Encoding": "chunked"} if sent is not body else {}
            answer = request(kit, method="POST", body=sent, more={**more, **chunked})
            assert answer.status == 200
            assert answer.upstream.body == body


@pytest.mark.parametrize(
    "config",
    [
        {"allowed_algorithms": []},
        {"allowed_algorithms": ["hmac-md5"]},
        {"clock_skew": 0},
        {"signed_headers": "date"},
        {"validate_request_body": 1},
        {"max_req_body_size": 0},
        {"realm": ""},
    ],
)
def test_what_cannot_be_configured_is_refused(config: dict[str, Any]) -> None:
    with PluginKit() as kit:
        assert next(iter(config)) in kit.refuses({"hmac-auth": config})


@pytest.mark.parametrize(
    "config", [{}, {"key_id": "k"}, {"key_id": "k", "secret_key": ""}, {"key_id": "k", "secret_key": "x" * 257}]
)
def test_a_consumer_needs_an_id_and_a_key(config: dict[str, Any]) -> None:
    with PluginKit() as kit, pytest.raises(AssertionError):
        kit.put("consumers/ann", {"username": "ann", "plugins": {"hmac-auth": config}})


NAMES = st.from_regex(r"[A-Za-z]{1,8}", fullmatch=True)


@given(st.dictionaries(NAMES, st.text(st.characters(exclude_characters='"')), min_size=1))
def test_parameters_are_read_as_they_are_written(parameters: dict[str, str]) -> None:
    assert parsed(" " + ", ".join(f'{name}="{value}"' for name, value in parameters.items())) == parameters


def test_many_names_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    searches = []
    header = Request.header

    def counted(self: Request, name: bytes) -> bytes | None:
        searches.append(name)
        return header(self, name)

    monkeypatch.setattr(Request, "header", counted)
    names = " ".join(f"n{number}" for number in range(1500))
    with PluginKit({"hmac-auth": {"signed_headers": []}}, ANN) as kit:
        assert request(kit, lines=[], headers=names).status == 200
    assert 0 < len(searches) < 50  # of the head, whatever is signed
