"""batch-requests and public-api (plugins.md section 6)."""

import json
from typing import Any

import pytest

from tests.worker.plugins.refusals import complaint
from worker.plugins.batch_requests import inner, plugin
from worker.plugins.testing import OK, Outcome, PluginKit, UpstreamRequest

URI = "/apisix/batch-requests"


def opened(plugins: dict[str, Any] | None = None, uri: str = URI, **more: Any) -> PluginKit:
    """Return a worker whose route ``batch`` is open, and whose route ``kit`` leads everything else to the upstream."""
    kit = PluginKit(plugins, more.pop("records", None), **more)
    kit.put("routes/batch", {"uri": uri, "plugins": {"public-api": {}}})
    kit.upstream_answers = echoed
    return kit


def echoed(request: UpstreamRequest) -> bytes:
    """Answer with what was asked."""
    seen = {"line": request.line, "fields": request.fields, "body": request.body.decode()}
    body = json.dumps(seen).encode()
    return b"HTTP/1.1 201 Made\r\nX-A: 1\r\nX-A: 2\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def ask(kit: PluginKit, batch: Any, headers: dict[str, str] | None = None, **more: Any) -> Outcome:
    body = batch if isinstance(batch, bytes) else json.dumps(batch).encode()
    return kit.request("POST", URI, headers, body, **more)


def test_requests_are_served_and_answered_in_their_order() -> None:
    batch = {
        "query": {"common": "1", "both": "outer"},
        "headers": {"X-Common": "c", "X-Both": "outer"},
        "pipeline": [
            {
                "path": "/a b",
                "query": {"x": 1, "both": "own", "l": ["p", "q"], "t": True},
                "headers": {"x-both": "own"},
            },
            {"path": "/b?y=2", "method": "POST", "body": "text", "headers": {"Content-Type": "text/x"}},
        ],
    }
    outer = {"X-Outer": "o", "Content-Type": "application/json", "Content-Language": "de", "Accept-Encoding": "gzip"}
    with opened() as kit:
        answer = ask(kit, batch, outer, host="b.com:81", remote="10.0.0.7")
    assert answer.status == 200
    first, second = answer.json()
    assert (first["status"], first["reason"], first["headers"]["X-A"]) == (201, "Made", ["1", "2"])
    seen = [json.loads(each["body"]) for each in (first, second)]
    assert seen[0]["line"] == "GET /a%20b?common=1&both=own&x=1&l=p&l=q&t=true HTTP/1.1"
    assert seen[1]["line"] == "POST /b?y=2&common=1&both=outer HTTP/1.1"
    fields = [dict(each["fields"]) for each in seen]
    assert (fields[0]["x-common"], fields[0]["x-both"], fields[1]["x-both"]) == ("c", "own", "outer")
    assert (fields[0]["x-outer"], fields[0]["host"], fields[0]["x-forwarded-for"]) == ("o", "b.com:81", "10.0.0.7")
    assert (fields[1]["content-type"], seen[1]["body"]) == ("text/x", "text")
    assert not {"content-type", "content-language", "accept-encoding"} & fields[0].keys()


def test_plugins_see_each_of_them() -> None:
    consumer = {"username": "jack", "plugins": {"key-auth": {"key": "k"}}}
    with opened({"key-auth": {}}, records={"consumers/jack": consumer}) as kit:
        items = [{"path": "/", "headers": {"apikey": key}} for key in ("k", "x")]
        answers = ask(kit, {"pipeline": items}).json()
    assert [answer["status"] for answer in answers] == [201, 401]
    assert answers[1]["headers"]["WWW-Authenticate"] == 'apikey realm="key"'


def test_answers_without_a_body_or_in_chunks_or_until_the_end() -> None:
    answers = iter(
        [
            OK[:-2],
            b"HTTP/1.1 204 No Content\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe",
        ]
    )
    with opened() as kit:
        kit.upstream_answers = lambda _: next(answers)
        items = [{"path": "/", "method": method} for method in ("HEAD", "GET", "GET", "GET")]
        got = ask(kit, {"pipeline": items}).json()
    assert [answer.get("body") for answer in got] == [None, None, "abc", "\ufffd\ufffd"]
    assert [answer["status"] for answer in got] == [200, 204, 200, 200]


def test_what_is_not_answered_in_time() -> None:
    def slow(request: UpstreamRequest) -> bytes:
        return b"" if "/slow" in request.target else OK

    with opened() as kit:
        kit.upstream_answers = slow
        items = [{"path": "/fast"}, {"path": "/slow"}, {"path": "/never"}]
        answers = ask(kit, {"pipeline": items, "timeout": 100}).json()
        assert answers[0]["body"] == "ok"
        assert answers[1:] == [{"status": 504, "reason": "upstream timeout"}] * 2
        assert kit.context.connections == 0
        assert kit.request().body == b"ok"


def test_an_answer_that_breaks_off_or_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inner, "LARGEST_ANSWER", 10)
    answers = iter(
        [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 5\r\n\r\nx", OK.replace(b"2", b"11", 2), OK]
    )
    with opened() as kit:
        kit.upstream_answers = lambda _: next(answers)
        broken, *_ = ask(kit, {"pipeline": [{"path": "/"}]}).json()
        assert broken["status"] == 502
        kit.upstream_answers = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n" + b"x" * 11
        large, *_ = ask(kit, {"pipeline": [{"path": "/"}]}).json()
        assert large == {"status": 502, "reason": "the answer is too large"}


def test_all_answers_together_are_not_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin, "LARGEST", 5)
    with opened() as kit:
        kit.upstream_answers = OK  # two bytes
        answers = ask(kit, {"pipeline": [{"path": "/"}] * 4}).json()
    assert [answer["status"] for answer in answers] == [200, 200, 502, 502]


@pytest.mark.parametrize(
    "batch",
    [
        b"",
        b"x",
        b"[]",
        {},
        {"pipeline": []},
        {"pipeline": [{}]},
        {"pipeline": [{"path": "a"}]},
        {"pipeline": [{"path": "/", "method": "NONE"}]},
        {"pipeline": [{"path": "/", "version": 2}]},
        {"pipeline": [{"path": "/", "headers": {"X-A": "a\r\nb"}}]},
        {"pipeline": [{"path": "/", "headers": {"a b": "c"}}]},
        {"pipeline": [{"path": "/"}], "timeout": 0},
    ],
)
def test_what_cannot_be_is_refused(batch: Any) -> None:
    with opened() as kit:
        answer = ask(kit, batch)
        assert (answer.status, list(answer.json()), kit.received) == (400, ["error_msg"], [])


def test_a_timeout_may_be_any_number() -> None:
    with opened() as kit:
        (answer,) = ask(kit, {"pipeline": [{"path": "/"}], "timeout": 10**400}).json()
        assert answer["status"] == 201


def test_limits_of_the_metadata() -> None:
    metadata = {"plugin_metadata/batch-requests": {"max_body_size": 100, "max_pipeline_items": 2}}
    with opened(records=metadata) as kit:
        assert ask(kit, {"pipeline": [{"path": "/"}] * 2}).status == 200
        assert ask(kit, {"pipeline": [{"path": "/"}] * 3}).status == 400
        answer = ask(kit, {"pipeline": [{"path": "/" + "x" * 100}]})
        assert (answer.status, list(answer.json())) == (413, ["error_msg"])


def test_a_large_body_is_waited_for() -> None:
    with opened() as kit:
        items = [{"path": f"/{number}", "body": "x" * 1000} for number in range(50)]
        answers = ask(kit, {"pipeline": items}).json()
        assert [answer["status"] for answer in answers] == [201] * 50


def test_a_batch_in_a_batch_is_refused() -> None:
    item = {"path": URI, "method": "POST", "body": json.dumps({"pipeline": [{"path": "/"}]})}
    with opened() as kit:
        (answer,) = ask(kit, {"pipeline": [item]}).json()
        assert answer["status"] == 400


def test_the_address_may_be_another() -> None:
    settings = {"plugin_attr": {"batch-requests": {"uri": "/batch"}}}
    with opened(uri="/batch", settings=settings) as kit:
        body = json.dumps({"pipeline": [{"path": "/"}]}).encode()
        assert kit.request("POST", "/batch", {}, body).json()[0]["status"] == 201


def test_public_api() -> None:
    with PluginKit({"public-api": {}}) as kit:
        for method, path in (("POST", "/nothing"), ("GET", URI)):
            answer = kit.request(method, path)
            assert (answer.status, answer.upstream) == (404, None)
    with PluginKit({"public-api": {"uri": URI}}) as kit:
        assert kit.request("POST", "/elsewhere").status == 400  # it has no body
    assert complaint("public-api", {"uri": ""}).startswith(".uri: ")
    assert "max_body_size" in refused_metadata({"max_body_size": 0})
    assert "max_pipeline_items" in refused_metadata({"max_pipeline_items": 0})


def refused_metadata(metadata: dict[str, int]) -> str:
    """Return what is wrong with metadata."""
    with PluginKit() as kit:
        try:
            kit.put("plugin_metadata/batch-requests", metadata)
        except AssertionError as error:
            return str(error.args[0])
    return ""
