"""Which failures are tried again, on which node, how often, and what the client is told (upstreams.md section 4)."""

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.fakes.processes import free_port, read_response, wait_until
from tests.fakes.scripted import OK, ScriptedUpstream, Talk, answering, refusing_to_close, reset
from tests.integration.upstreams.conftest import Sites, in_turn


def resetting(talk: Talk) -> None:
    """Reset the connection when the request has come."""
    talk.head()
    talk.reset()


BROKEN = b"HTTP/9\r\n\r\n"
TIMEOUT = {"connect": 0.3, "send": 0.3, "read": 0.3}
STATUS = b"\r\nX-APISIX-Upstream-Status: "


def attempts(answer: bytes) -> bytes:
    """Return the statuses of all tries, as the client sees them."""
    return answer.partition(STATUS)[2].partition(b"\r\n")[0]


@pytest.fixture
def refusing() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def full() -> Iterator[str]:
    """A node whose queue is full: nobody gets an answer from it, not even a refusal."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        with socket.create_connection(listener.getsockname()):
            yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_every_kind_of_failure_is_tried_again(site: Sites, refusing: str, full: str) -> None:
    with (
        ScriptedUpstream(resetting) as resets,
        ScriptedUpstream(refusing_to_close(BROKEN)) as breaks,
        ScriptedUpstream(lambda talk: talk.wait_closed()) as stalls,
        ScriptedUpstream(refusing_to_close(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n")) as answers,
    ):
        nodes = in_turn(refusing, full, resets.node, breaks.node, stalls.node, answers.node)
        answer = site(nodes, timeout=TIMEOUT).whole()
        assert answer.startswith(b"HTTP/1.1 500 Oops\r\n")
        assert attempts(answer) == b"502, 504, 502, 502, 504, 500"
        for upstream in (resets, breaks, stalls, answers):
            assert upstream.accepted == 1


def test_an_answer_of_any_status_is_no_failure(site: Sites, refusing: str) -> None:
    with ScriptedUpstream(refusing_to_close(OK)) as other:
        for status in (500, 502, 503, 504, 429):
            bad = b"HTTP/1.1 %d Status\r\nContent-Length: 0\r\n\r\n" % status
            with ScriptedUpstream(refusing_to_close(bad)) as upstream:
                assert site(in_turn(upstream.node, other.node)).ask()[0] == status
        assert other.accepted == 0
        assert attempts(site(in_turn(refusing, other.node)).whole()) == b""


@pytest.mark.parametrize(
    ("retries", "statuses"), [(None, b"502, 502, 502"), (0, b"502"), (1, b"502, 502"), (9, b"502, 502, 502")]
)
def test_number_of_tries(site: Sites, retries: int | None, statuses: bytes) -> None:
    """No node is tried twice, however many tries are allowed."""
    with (
        ScriptedUpstream(resetting) as a,
        ScriptedUpstream(resetting) as b,
        ScriptedUpstream(resetting) as c,
    ):
        more = {} if retries is None else {"retries": retries}
        answer = site({a.node: 1, b.node: 1, c.node: 1}, **more).whole()
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert attempts(answer) == statuses
        assert sorted((a.accepted, b.accepted, c.accepted))[-1] == 1


def test_the_last_error_is_the_answer(site: Sites, refusing: str) -> None:
    with ScriptedUpstream(lambda talk: talk.wait_closed()) as stalls:
        answer = site(in_turn(refusing, stalls.node), timeout=TIMEOUT).whole()
        assert answer.startswith(b"HTTP/1.1 504 ")
        assert attempts(answer) == b"502, 504"


@pytest.mark.parametrize("method", ["POST", "LOCK", "PATCH"])
def test_what_has_been_sent_of_other_methods_is_not_repeated(site: Sites, refusing: str, method: str) -> None:
    with ScriptedUpstream(refusing_to_close(*[OK] * 9)) as other:
        assert site(in_turn(refusing, other.node)).ask(method, "Content-Length: 2\r\n", b"ab") == (200, b"ok")
        with ScriptedUpstream(resetting) as resets:
            asked = site(in_turn(resets.node, other.node))
            assert asked.ask(method, "Content-Length: 2\r\n", b"ab")[0] == 502
            assert asked.ask("PUT", "Content-Length: 2\r\n", b"ab") == (200, b"ok")


def test_no_try_begins_after_retry_timeout(site: Sites) -> None:
    with (
        ScriptedUpstream(lambda talk: talk.wait_closed()) as stalls,
        ScriptedUpstream(refusing_to_close(*[OK] * 9)) as other,
    ):
        answer = site(in_turn(stalls.node, other.node), timeout=TIMEOUT, retry_timeout=0.1).whole()
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert attempts(answer) == b"504"
        assert site(in_turn(stalls.node, other.node), timeout=TIMEOUT, retry_timeout=20).ask() == (200, b"ok")


def test_a_connection_that_died_idle_is_no_try(site: Sites) -> None:
    """Its peer closes when it has the next request: the same peer is asked again, unless the method forbids it."""

    def script(talk: Talk) -> None:
        talk.head()
        talk.send(OK)
        talk.head()
        talk.reset()

    with ScriptedUpstream(script) as upstream:
        asked = site({upstream.node: 1}, retries=0)
        assert asked.ask() == (200, b"ok")
        assert asked.ask() == (200, b"ok")
        assert asked.ask("PUT", "Content-Length: 2\r\n", b"ab") == (200, b"ok")
        answer = asked.whole("POST", "Content-Length: 2\r\n", b"ab")
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert attempts(answer) == b"502"
        assert upstream.accepted == 3


def test_a_client_that_goes_away_ends_the_try(site: Sites, full: str) -> None:
    with ScriptedUpstream(lambda talk: talk.wait_closed()) as stalls:
        asked = site(in_turn(stalls.node, full))
        with asked.connect() as sock:
            sock.sendall(asked.head())
            wait_until(lambda: stalls.connections() == 1, "the request is with the upstream")
            reset(sock)
        wait_until(lambda: stalls.connections() == 0, "the upstream's connection is closed too")
        connecting = site({full: 1})
        with connecting.connect() as sock:
            sock.sendall(connecting.head())
            reset(sock)
        assert asked.gateway.control("/v1/sync")[0] == 200


def test_many_at_once_leave_no_connection_behind(site: Sites) -> None:
    def script(talk: Talk) -> None:
        while head := talk.head():
            kind = head.split(b" ")[1]
            if kind == b"/reset":
                return talk.reset()
            if kind == b"/cut":
                return talk.send(OK[:-1])
            talk.send(BROKEN if kind == b"/broken" else OK)
        return None

    with ScriptedUpstream(script) as upstream:
        asked = site({upstream.node: 1}, keepalive_pool={"idle_timeout": 0.2})
        paths = ("/ok", "/reset", "/ok", "/cut", "/ok", "/broken") * 20
        statuses: list[int] = []

        def client() -> None:
            for path in paths:
                with asked.connect() as sock:
                    sock.sendall(asked.head(path=path))
                    statuses.append(read_response(sock)[0])

        threads = [threading.Thread(target=client) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(statuses) == 8 * len(paths)
        assert statuses.count(502) == 8 * 40
        wait_until(lambda: upstream.connections() == 0, "idle connections have expired, and no other is left")


def test_answers_that_reset_after_the_last_byte_are_whole(site: Sites) -> None:
    def script(talk: Talk) -> None:
        answering(OK)(talk)
        talk.reset()

    with ScriptedUpstream(script) as upstream:
        asked = site({upstream.node: 1})
        for _ in range(50):
            assert asked.ask() == (200, b"ok")
