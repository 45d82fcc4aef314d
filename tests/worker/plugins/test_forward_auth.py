"""forward-auth (plugins.md section 3), against a service that is a server of its own."""

import contextlib
import importlib.util
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from worker.plugins.testing import Message, Outcome, PluginKit


class Service:
    """Answers as it is told, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Message] = []
        self.status = 200
        self.fields: list[tuple[str, str]] = []
        self.body = b"fine"
        self.delay = threading.Event()
        self.is_slow = False
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                lines = [self.requestline, *(f"{name}: {value}" for name, value in self.headers.items())]
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                service.asked.append(Message("\r\n".join(lines).encode("latin-1"), body))
                if service.is_slow:
                    service.delay.wait(10)
                with contextlib.suppress(OSError):
                    self.send_response(service.status)
                    for name, value in [*service.fields, ("Content-Length", str(len(service.body)))]:
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(service.body)

            do_GET = do_POST = handle_any  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/auth"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self.delay.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.close()


def ask(service: Service, config: dict[str, Any], *request: Any, **how: Any) -> Outcome:
    with PluginKit({"forward-auth": {"uri": service.url, "timeout": 60_000, **config}}) as kit:
        return kit.request(*request, **how)


def test_the_service_is_told_of_the_request_and_nothing_else(service: Service) -> None:
    headers = {"X-One": "1", "Cookie": "secret", "X-Forwarded-For": "9.9.9.9"}
    config = {"request_headers": ["X-One", "X-Absent", "Content-Length"]}
    answer = ask(service, config, "PUT", "//a/./b?c=%20d", headers, b"body", remote="10.0.0.7", host="a.com:81")
    assert answer.status == 200
    assert answer.upstream is not None
    assert (answer.upstream.method, answer.upstream.body) == ("PUT", b"body")
    (asked,) = service.asked
    assert asked.line == "GET /auth HTTP/1.1"
    assert asked.body == b""
    assert dict(asked.fields) == {
        "host": service.url.split("/")[2],
        "x-forwarded-proto": "http",
        "x-forwarded-method": "PUT",
        "x-forwarded-host": "a.com",
        "x-forwarded-uri": "/a/b?c=%20d",
        "x-forwarded-for": "10.0.0.7",
        "x-one": "1",
    }


def test_extra_headers_are_templates_and_win(service: Service) -> None:
    extra = {"X-Who": "$remote_addr/$arg_a", "X-Forwarded-Host": "fixed", "X-One": "$http_x_one+"}
    config = {"extra_headers": extra, "request_headers": ["X-One"]}
    assert ask(service, config, "GET", "/?a=%0d%0aX-Evil:1", {"X-One": "1"}).status == 200
    (asked,) = service.asked
    assert asked.header("x-who") == "127.0.0.1/X-Evil:1"
    assert asked.header("x-evil") is None
    assert asked.header("x-forwarded-host") == "fixed"
    assert asked.header("x-one") == "1+"


@pytest.mark.parametrize("target", ["/a%0d%0aX-Evil:%201", "/a%20b%25", "/%ff"])
def test_nothing_in_the_path_keeps_the_service_from_being_asked(service: Service, target: str) -> None:
    service.status = 401
    assert ask(service, {"allow_degradation": True}, "GET", target).status == 401
    (asked,) = service.asked
    assert asked.header("x-evil") is None
    assert asked.header("x-forwarded-uri") == target.replace("%ff", "%FF").replace("%0d%0a", "%0D%0A")


@pytest.mark.parametrize("body", [b"abc", b"", b"x" * 20_000])
def test_with_post_the_service_gets_the_body_as_well(service: Service, body: bytes) -> None:
    answer = ask(service, {"request_method": "POST"}, "POST", "/", {}, body)
    assert answer.upstream is not None
    assert answer.upstream.body == body
    (asked,) = service.asked
    assert (asked.line, asked.body) == ("POST /auth HTTP/1.1", body)


def test_a_body_that_is_too_large_is_413(service: Service) -> None:
    config = {"request_method": "POST", "max_req_body_size": 10}
    assert ask(service, config, "POST", "/", {}, b"x" * 11).status == 413
    chunked = {"Transfer-Encoding": "chunked"}
    assert ask(service, config, "POST", "/", chunked, b"b\r\n" + b"x" * 11 + b"\r\n0\r\n\r\n").status == 413
    assert service.asked == []
    assert ask(service, config, "POST", "/", {}, b"x" * 10).status == 200


@pytest.mark.parametrize("status", [300, 302, 401, 403, 500, 503])
def test_a_refusal_is_the_clients(service: Service, status: int) -> None:
    service.status, service.body = status, b"because"
    service.fields = [("Location", "/login"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Secret", "1")]
    answer = ask(service, {"client_headers": ["location", "Set-Cookie", "Content-Length"]})
    assert (answer.status, answer.body, answer.upstream) == (status, b"because", None)
    assert answer.header("location") == "/login"
    assert answer.headers("set-cookie") == ["a=1", "b=2"]
    assert answer.header("x-secret") is None
    assert answer.headers("content-length") == ["7"]


def test_a_refusal_has_the_content_type_of_the_service_when_it_is_listed(service: Service) -> None:
    service.status, service.fields = 401, [("Content-Type", "application/x")]
    assert ask(service, {"client_headers": ["Content-Type"]}).headers("content-type") == ["application/x"]
    assert ask(service, {}).headers("content-type") == ["text/plain; charset=utf-8"]


@pytest.mark.parametrize("status", [200, 204, 299])
def test_what_the_service_says_goes_upstream_and_nothing_forged(service: Service, status: int) -> None:
    service.status, service.body = status, b""
    service.fields = [("X-User", "jack"), ("X-Group", "a"), ("X-Group", "b"), ("X-Not-Listed", "1")]
    config = {"upstream_headers": ["X-User", "X-Group", "X-Admin"]}
    forged = {"X-User": "root", "x-admin": "yes", "X_Admin": "yes", "x_user": "root", "X-Kept": "1"}
    upstream = ask(service, config, "GET", "/", forged).upstream
    assert upstream is not None
    assert upstream.headers("x-user") == ["jack"]
    assert upstream.headers("x-group") == ["a", "b"]
    assert [upstream.header(name) for name in ("x-admin", "x_admin", "x_user", "x-not-listed")] == [None] * 4
    assert upstream.header("x-kept") == "1"


def test_the_service_may_say_what_host_the_upstream_is_asked_for(service: Service) -> None:
    config = {"upstream_headers": ["Host"]}
    first = ask(service, config).upstream
    service.fields = [("Host", "b.com")]
    second = ask(service, config).upstream
    assert first is not None
    assert second is not None
    assert (first.header("host"), second.header("host")) == ("a.com", "b.com")


def test_without_an_answer_it_is_refused_or_let_through_as_configured(service: Service) -> None:
    service.is_slow = True
    config: dict[str, Any] = {"timeout": 50, "upstream_headers": ["X-User"]}
    assert ask(service, config).status == 403
    assert ask(service, {**config, "status_on_error": 503}).status == 503
    degraded = ask(service, {**config, "allow_degradation": True}, "GET", "/", {"X-User": "root"})
    assert degraded.upstream is not None
    assert degraded.upstream.header("x-user") is None
    service.delay.set()
    service.close()
    assert ask(service, {}).status == 403
    assert ask(service, {"allow_degradation": True}).status == 200


def test_the_library_that_is_missing_refuses_requests(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert ask(service, {"allow_degradation": True}).status == 503


@pytest.mark.parametrize(
    "config",
    [
        {"uri": ""},
        {"uri": "ftp://a/"},
        {"uri": "//a/"},
        {"uri": "http://"},
        {"uri": "http://a:99999/"},
        {"uri": "http://a/b c"},
        {"uri": "http://a/\u00e4"},
        {"request_method": "PUT"},
        {"request_headers": ["a b"]},
        {"upstream_headers": ["Content-Length"]},
        {"client_headers": "X"},
        {"extra_headers": {"a b": "1"}},
        {"timeout": 0},
        {"timeout": 60001},
        {"keepalive": 1},
        {"keepalive_timeout": 0},
        {"keepalive_pool": 0},
        {"ssl_verify": 1},
        {"allow_degradation": 1},
        {"status_on_error": 199},
        {"max_req_body_size": 0},
    ],
)
def test_what_cannot_be_configured_is_refused(config: dict[str, Any]) -> None:
    with PluginKit() as kit:
        assert next(iter(config)) in kit.refuses({"forward-auth": {"uri": "http://127.0.0.1/", **config}})
        assert "uri" in kit.refuses({"forward-auth": {}})
