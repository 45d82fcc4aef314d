"""proxy-rewrite (plugins.md section 6)."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.worker.plugins.refusals import complaint
from worker.edited_request import edit
from worker.exchange import Exchange
from worker.http.target import normalised_path, quoted
from worker.plugins.base import NoConfig, Plugin
from worker.plugins.testing import OK, PluginKit, UpstreamRequest
from worker.variables import accessor


def sent(config: dict[str, Any], target: str = "/a/b?x=1", method: str = "GET", **more: Any) -> UpstreamRequest:
    """Return what the upstream gets."""
    with PluginKit({"proxy-rewrite": config}) as kit:
        answer = kit.request(method, target, more.get("headers"), more.get("body", b""))
    assert answer.status == 200
    assert answer.upstream is not None
    return answer.upstream


@pytest.mark.parametrize(
    ("uri", "target", "expected"),
    [
        ("/new", "/a/b", "/new"),
        ("/new", "/a/b?x=1&y", "/new?x=1&y"),
        ("/new?z=2", "/a/b?x=1", "/new?z=2&x=1"),
        ("/new?z=2", "/a/b", "/new?z=2"),
        ("/v2$uri", "/a/b?x=1", "/v2/a/b?x=1"),
        ("/v2$uri", "/a%20%25%3Fb", "/v2/a%20%25%3Fb"),
        ("/h/$http_x_tag", "/a", "/h/a%20b%3Fc"),
        ("/n?d=${arg_x ?? none}", "/a", "/n?d=none"),
        ("/n?d=$arg_x", "/a?x=1%0d%0aX:+y", "/n?d=1%0D%0AX:%20y&x=1%0d%0aX:+y"),
        ("/a b/ä", "/", "/a%20b/%C3%A4"),
        ("/100%", "/", "/100%25"),
    ],
)
def test_uri(uri: str, target: str, expected: str) -> None:
    assert sent({"uri": uri}, target, headers={"X-Tag": "a b?c"}).target == expected


@pytest.mark.parametrize(
    ("pairs", "target", "expected"),
    [
        (["^/a/(.*)", "/c/$1"], "/a/b?x=1", "/c/b?x=1"),
        (["^/a/(.*)", "/c/$1"], "/b/a/?x=1", "/b/a/?x=1"),
        (["^/x", "/no", "^/a", "/yes"], "/a/b", "/yes/b"),
        (["^/a", "/first", "^/a", "/second"], "/a", "/first"),
        (["^/(.)/(.)$", "/${2}0/$1$$1"], "/a/b", "/b0/a$1"),
        (["^/a(x)?", "/[$1$9]"], "/a/b", "/%5B%5D/b"),
        (["^/a/(.*)", "/p?q=$1"], "/a/b%3Fc?x=1", "/p?q=b?c&x=1"),
        (["^/a", "/c"], "/a/b%3Fc?x=1", "/c/b%3Fc?x=1"),
        (["^/a/", ""], "/a/b", "/b"),
        (["^/ä (.*)", "/$1"], "/%C3%A4%20x%2fy", "/x/y"),
    ],
)
def test_regex_uri(pairs: list[str], target: str, expected: str) -> None:
    assert sent({"regex_uri": pairs}, target).target == expected


def test_uri_wins_over_regex_uri() -> None:
    assert sent({"uri": "/u", "regex_uri": ["^/a", "/r"]}, "/a").target == "/u"


@pytest.mark.parametrize(
    ("config", "target", "expected"),
    [
        ({"regex_uri": ["^/a%2F(.*)$", "/r/$1"]}, "/a%2Fb%20c?x=%41", "/r/b%20c?x=%41"),
        ({"regex_uri": [r"\?x=(.*)$", "/$1"]}, "/a?x=1", "/a/1"),
        ({"uri": "/a%20b c"}, "/?x=1", "/a%20b%20c?x=1"),
    ],
)
def test_the_real_target(config: dict[str, Any], target: str, expected: str) -> None:
    assert sent({**config, "use_real_request_uri_unsafe": True}, target).target == expected


def test_a_search_that_takes_too_long() -> None:
    with PluginKit({"proxy-rewrite": {"regex_uri": ["^/(a+)+$", "/x"]}}) as kit:
        answer = kit.request(target=f"/{'a' * 3000}!")
        assert answer.status == 500
        assert list(answer.json()) == ["error_msg"]
        assert answer.upstream is None
        assert kit.request(target="/aa").status == 200


def test_method() -> None:
    request = sent({"method": "PUT"}, "/a", "POST", body=b"body")
    assert (request.method, request.body) == ("PUT", b"body")
    assert sent({"method": "POST"}).method == "POST"


def test_a_get_that_becomes_head_has_no_body() -> None:
    with PluginKit({"proxy-rewrite": {"method": "HEAD", "_meta": {"filter": [["uri", "==", "/head"]]}}}) as kit:
        kit.upstream_answers = lambda request: OK[:-2] if request.method == "HEAD" else OK
        answers = kit.requests([("GET", "/", {}, b""), ("GET", "/head", {}, b""), ("GET", "/", {}, b"")])
        assert [(answer.status, answer.body, answer.header("content-length")) for answer in answers] == [
            (200, b"ok", "2"),
            (200, b"", "0"),
            (200, b"ok", "2"),
        ]


def test_the_body_that_a_head_does_not_want_is_nobody_elses() -> None:
    with PluginKit({"proxy-rewrite": {"method": "GET"}}) as kit:
        late = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
        kit.upstream_answers = late  # its body comes when the next request has been sent
        answer = kit.request("HEAD", "/")
        assert (answer.status, answer.header("content-length"), answer.body) == (200, "2", b"")
        assert kit.context.upstream_connections == set()


@pytest.mark.parametrize(
    ("pass_host", "expected"),
    [({}, "new.com:81"), ({"pass_host": "node"}, "127.0.0.1:1980"),
     ({"pass_host": "rewrite", "upstream_host": "up.com"}, "up.com")],
)  # fmt: skip
def test_host_is_for_upstreams_that_get_the_clients(pass_host: dict[str, str], expected: str) -> None:
    upstream = {"nodes": {"127.0.0.1:1980": 1}, **pass_host}
    with PluginKit({"proxy-rewrite": {"host": "new.com:81"}}, route={"upstream": upstream}) as kit:
        answer = kit.request()
        assert answer.upstream is not None
        assert answer.upstream.headers("host") == [expected]


def test_headers() -> None:
    headers = {
        "add": {"X-Add": ["$remote_addr", "two"], "X-Set": "lost", "X-Del": "lost"},
        "set": {"X-Set": "uri=$uri", "X-Num": 7, "X-Del": "lost", "Host": "h-${arg_x}.com"},
        "remove": ["x-del", "X-GONE"],
    }
    given = {"X-Add": "own", "x-set": "old", "X-Del": "old", "X-Gone": "old", "X-Kept": "kept"}
    request = sent({"headers": headers}, "/a?x=1", headers=given)
    assert request.headers("x-add") == ["own", "127.0.0.1", "two"]
    assert request.headers("x-set") == ["uri=/a"]
    assert request.header("x-num") == "7"
    assert request.header("x-del") is None
    assert request.header("x-gone") is None
    assert request.header("x-kept") == "kept"
    assert request.headers("host") == ["h-1.com"]


def test_headers_that_are_no_add_set_or_remove_are_set() -> None:
    request = sent({"headers": {"X-A": "b", "set": "c"}}, headers={"x-a": "old"})
    assert request.headers("x-a") == ["b"]
    assert request.header("set") == "c"


def test_groups_in_headers() -> None:
    config = {"regex_uri": ["^/(a)/(.*)", "/$2"], "headers": {"set": {"X-G": "$2-$1-${1}-$3"}}}
    assert sent(config, "/a/b").header("x-g") == "b-a-a-"


def test_a_value_brings_no_lines() -> None:
    request = sent({"headers": {"set": {"X-A": "$arg_x"}}}, "/?x=a%0d%0aX-B:+c")
    assert (request.header("x-a"), request.header("x-b")) == ("a  X-B: c", None)


def test_fields_may_ask_for_the_body() -> None:
    config = {"uri": "/p/$post_arg_a", "headers": {"add": {"X-A": "$post_arg_a"}}}
    form = {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": "20002"}
    request = sent(config, "/", "POST", headers=form, body=b"a=" + b"x" * 20_000)
    assert request.target == "/p/" + "x" * 20_000
    assert request.headers("x-a") == ["x" * 20_000]


def test_a_consumers_goes_on_from_the_routes() -> None:
    rewriting = {"regex_uri": ["^(.*)$", "$1/consumer"], "host": "c.com"}
    consumer = {"username": "jack", "plugins": {"key-auth": {"key": "k"}, "proxy-rewrite": rewriting}}
    rule = {"id": "1", "plugins": {"proxy-rewrite": {"regex_uri": ["^(.*)$", "/rule$1"], "headers": {"X-R": "1"}}}}
    with PluginKit({"key-auth": {}}, {"consumers/jack": consumer, "global_rules/1": rule}) as kit:
        answer = kit.request(target="/a%20b?x=1", headers={"apikey": "k"})
        assert answer.upstream is not None
        assert answer.upstream.target == "/rule/a%20b/consumer?x=1"
        assert answer.upstream.header("x-r") == "1"
        assert answer.upstream.header("host") == "c.com"


class Numbering(Plugin[NoConfig]):
    """Adds a field after the rewriting."""

    name = "numbering"
    number = 0

    def access(self, exchange: Exchange) -> None:
        self.number += 1
        edit(exchange).add_field(b"X-Number", b"%d" % self.number)


def test_what_the_same_head_becomes_is_not_what_others_have_made_of_it() -> None:
    with PluginKit({"proxy-rewrite": {"uri": "/new"}, "numbering": {}}, extra=(Numbering,)) as kit:
        answers = kit.requests([("GET", "/old", {}, b"")] * 3)
        upstream = [answer.upstream for answer in answers if answer.upstream]
        assert [(each.target, each.headers("x-number")) for each in upstream] == [
            ("/new", ["1"]), ("/new", ["2"]), ("/new", ["3"])
        ]  # fmt: skip


def test_the_same_head_is_rewritten_each_time() -> None:
    with PluginKit({"proxy-rewrite": {"uri": "/new", "headers": {"set": {"X-A": "b"}}}}) as kit:
        answers = kit.requests([("GET", "/old", {}, b"")] * 3)
        assert [(answer.upstream.target, answer.upstream.headers("x-a")) for answer in answers if answer.upstream] == [
            ("/new", ["b"])
        ] * 3


def test_variables_tell_what_goes_upstream() -> None:
    names = ("uri", "host", "upstream_uri", "upstream_host")
    seen: list[Any] = []

    def answered(_: UpstreamRequest) -> bytes:
        (client,) = kit.context.downstream_connections
        assert client._exchange is not None
        seen.extend(accessor(name)(client._exchange) for name in names)
        return OK

    with PluginKit({"proxy-rewrite": {"uri": "/new", "host": "new.com"}}) as kit:
        kit.upstream_answers = answered
        assert kit.request(target="/old?x=1").status == 200
    assert seen == ["/old", "a.com", "/new?x=1", "new.com"]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_any_path_survives_being_written_and_read(path: str) -> None:
    text = f"/{path}".encode("utf-8", "surrogatepass")
    wire = quoted(text)
    assert not set(wire) & set(b" ?#\r\n\0")
    if b"\0" not in text and b"//" not in text and b"/." not in text:
        assert normalised_path(wire) == text


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"uri": "new"}, ".uri: "),
        ({"uri": ""}, ".uri: "),
        ({"method": "PURGE"}, ".method: "),
        ({"method": "get"}, ".method: "),
        ({"regex_uri": []}, ".regex_uri: "),
        ({"regex_uri": ["a"]}, ".regex_uri: "),
        ({"regex_uri": ["a", "b", "c"]}, ".regex_uri: "),
        ({"regex_uri": ["(", "b"]}, ".regex_uri[0]: "),
        ({"regex_uri": ["a", "b", "(", "d"]}, ".regex_uri[2]: "),
        ({"host": "a b"}, ".host: "),
        ({"host": "a\r\nb"}, ".host: "),
        ({"headers": {"a b": "c"}}, ".headers"),
        ({"headers": {"X-A": {"b": "c"}}}, ".headers"),
        ({"headers": {"X-A": True}}, ".headers"),
        ({"headers": {"Content-Length": 5}}, ".headers"),
        ({"headers": {"set": {"X-A": "a\r\nb"}}}, ".headers.set"),
        ({"headers": {"add": {"X-A": [1, None]}}}, ".headers.add"),
        ({"headers": {"remove": ["a b"]}}, ".headers.remove[0]"),
        ({"headers": {"remove": {"a": "b"}}}, ".headers.remove"),
        ({"headers": {"set": {"X-A": "b"}, "X-B": "c"}}, ".headers"),
    ],
)
def test_what_cannot_be_is_refused(config: dict[str, Any], fault: str) -> None:
    assert complaint("proxy-rewrite", config).startswith(fault)


@pytest.mark.parametrize("headers", [{}, [], {"add": {}, "set": [], "remove": {}}, {"set": {"X": "a"}, "remove": []}])
def test_empty_ones_are_accepted(headers: Any) -> None:
    assert complaint("proxy-rewrite", {"headers": headers}) == ""
