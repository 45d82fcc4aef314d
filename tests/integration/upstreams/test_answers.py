"""Answers that are cut, broken, early or strange: what the client gets, and what becomes of the connection."""

import socket

import pytest

from tests.fakes.processes import read_response, wait_until
from tests.fakes.scripted import OK, Script, ScriptedUpstream, Talk, answering, refusing_to_close
from tests.integration.upstreams.conftest import Site, Sites, in_turn, rest
from worker.http.framing import ChunkedDecoder

LENGTH = b"HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\nX-T: 1\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\nhello"


def assert_none_left(*upstreams: ScriptedUpstream) -> None:
    for upstream in upstreams:
        wait_until(lambda upstream=upstream: upstream.connections() == 0, "no connection to the upstream is left")  # type: ignore[misc]


def is_whole(answer: bytes) -> bool:
    """Tell whether a client would take an answer for complete."""
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    if b"\r\nContent-Length: " in head:
        return len(body) == int(head.partition(b"\r\nContent-Length: ")[2].split(b"\r\n")[0])
    decoder = ChunkedDecoder()
    decoder.feed(body)
    return decoder.finished


@pytest.mark.parametrize("ending", ["reset", "close"])
@pytest.mark.parametrize("answer", [LENGTH, CHUNKED, UNTIL_CLOSE])
def test_cut_at_every_byte(site: Sites, answer: bytes, ending: str) -> None:
    at = 0

    def script(talk: Talk) -> None:
        talk.head()
        talk.send(answer[:at])
        if ending == "reset":
            talk.reset()

    with ScriptedUpstream(script) as upstream, ScriptedUpstream(refusing_to_close(*[OK] * 1000)) as other:
        alone = site({upstream.node: 1})
        helped = site(in_turn(upstream.node, other.node))
        head_length = answer.index(b"\r\n\r\n") + 4
        kept = alone.connect()
        for at in range(len(answer) + 1):
            if at < head_length:
                kept.sendall(alone.head())
                assert read_response(kept)[0] == 502, at
                assert helped.ask() == (200, b"ok"), at
                assert helped.ask("POST", "Content-Length: 0\r\n")[0] == 502, at
                continue
            for asked in (alone, helped):
                received = asked.whole()
                assert received.startswith(b"HTTP/1.1 200 OK\r\n"), at
                complete = ending == "close" if answer is UNTIL_CLOSE else at == len(answer)
                assert is_whole(received) is complete, (at, received)
        kept.close()
        assert_none_left(upstream)


NOT_HTTP = {
    "text": b"garbage\r\n\r\n",
    "ssh": b"SSH-2.0-OpenSSH_9.7\r\n",
    "tls alert": b"\x15\x03\x01\x00\x02\x02\x46",
    "http/2": b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
    "http/2 settings": b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    "no status": b"HTTP/1.1 OK\r\n\r\n",
    "two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "bare lf": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "one bare lf": b"HTTP/1.1 200 OK\r\nX: a\nContent-Length: 2\r\n\r\nok",
    "space before colon": b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nok",
    "nul": b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2\r\n\r\nok",
    "folded": b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
    "length and coding": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "unknown coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
    "switch": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "huge field": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\nContent-Length: 2\r\n\r\nok",
    "huge number of fields": b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 20_000 + b"\r\n",
    "interim without end": b"HTTP/1.1 102 Processing\r\n\r\n" * 5_000,
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_HTTP)
def test_broken_heads(site: Sites, name: str) -> None:
    with (
        ScriptedUpstream(refusing_to_close(NOT_HTTP[name])) as upstream,
        ScriptedUpstream(refusing_to_close(*[OK] * 10)) as other,
    ):
        answer = site({upstream.node: 1}).whole()
        assert answer.startswith(b"HTTP/1.1 502 ")
        assert b"\r\nX-APISIX-Upstream-Status: 502\r\n" in answer
        helped = site(in_turn(upstream.node, other.node))
        assert helped.ask() == (200, b"ok")
        assert helped.ask("POST", "Content-Length: 0\r\n")[0] == 502
        assert upstream.accepted == 3
        assert_none_left(upstream)


@pytest.mark.parametrize(
    "body",
    [
        b"x\r\n",
        b"5\r\nhelloX",
        b"5\nhello\r\n0\r\n\r\n",
        b"-1\r\n",
        b"2\r\nok\r\n0\r\nbroken trailer\r\n\r\n",
        b"2\r\nok\r\n" + b"f" * 300 + b"\r\n",
    ],
)
def test_broken_chunks_cut_the_answer(site: Sites, body: bytes) -> None:
    script = refusing_to_close(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n" + body)
    with ScriptedUpstream(script) as upstream:
        answer = site({upstream.node: 1}).whole()
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert not is_whole(answer)
        assert_none_left(upstream)


def test_a_cut_answer_that_ends_with_the_connection_is_reset(site: Sites) -> None:
    started = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n"

    def script(talk: Talk) -> None:
        talk.head()
        talk.send(started)

    with ScriptedUpstream(script) as upstream:
        asked = site({upstream.node: 1})
        with asked.connect() as sock:
            sock.sendall(asked.head().replace(b"HTTP/1.1", b"HTTP/1.0"))
            with pytest.raises(ConnectionResetError):
                read_response(sock)


def test_interim_responses_are_passed_over(site: Sites) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"

    def script(talk: Talk) -> None:
        for _ in range(2):
            talk.head()
            for at in range(len(interim)):
                talk.send(interim[at : at + 1])
            talk.send(OK)
        talk.wait_closed()

    with ScriptedUpstream(script) as upstream, site({upstream.node: 1}).connect() as sock:
        asked = site({upstream.node: 1})
        for _ in range(2):
            sock.sendall(asked.head())
            assert read_response(sock) == (200, b"ok")
        assert upstream.accepted == 1


BODILESS = {
    "head": ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
    "204": ("GET", b"HTTP/1.1 204 No Content\r\n\r\nhello"),
    "204 with a length": ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello"),
    "204 with a coding": ("GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"),
    "304": ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\nhello"),
}  # fmt: skip


@pytest.mark.parametrize("name", BODILESS)
def test_bytes_behind_an_answer_without_body_reach_nobody(site: Sites, name: str) -> None:
    method, answer = BODILESS[name]
    with ScriptedUpstream(refusing_to_close(answer)) as upstream:
        asked = site({upstream.node: 1})
        with asked.connect() as sock:
            sock.sendall(asked.head(method))
            head = sock.recv(65536)
            assert head.endswith(b"\r\n\r\n")
            assert b"hello" not in head
            wait_until(lambda: upstream.connections() == 0, "the connection is closed")
            upstream.script = refusing_to_close(OK)
            sock.sendall(asked.head())
            assert read_response(sock) == (200, b"ok")
        assert upstream.accepted == 2


def test_a_204_that_announces_a_body_ends_its_connection(site: Sites) -> None:
    answer = b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n"
    with ScriptedUpstream(refusing_to_close(answer)) as upstream:
        assert site({upstream.node: 1}).whole().startswith(b"HTTP/1.1 204 ")
        assert_none_left(upstream)


def test_more_bytes_than_announced_are_cut_off(site: Sites) -> None:
    with ScriptedUpstream(refusing_to_close(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")) as upstream:
        asked = site({upstream.node: 1})
        with asked.connect() as sock:
            sock.sendall(asked.head())
            assert read_response(sock) == (200, b"ok")
            assert_none_left(upstream)
            upstream.script = refusing_to_close(OK)
            sock.sendall(asked.head())
            assert read_response(sock) == (200, b"ok")


def test_bytes_nobody_asked_for_end_an_idle_connection(site: Sites) -> None:
    with ScriptedUpstream() as upstream:

        def script(talk: Talk) -> None:
            talk.head()
            talk.send(OK)
            wait_until(lambda: upstream.connections() == 1, "it is kept")
            talk.send(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
            talk.wait_closed()

        upstream.script = script
        asked = site({upstream.node: 1})
        assert asked.ask() == (200, b"ok")
        assert_none_left(upstream)
        upstream.script = refusing_to_close(OK)
        assert asked.ask() == (200, b"ok")


def test_an_upstream_that_half_closes_is_not_used_again(site: Sites) -> None:
    def script(talk: Talk) -> None:
        talk.head()
        talk.send(OK)
        talk.half_close()
        talk.wait_closed()

    with ScriptedUpstream(script) as upstream:
        asked = site({upstream.node: 1})
        for _ in range(3):
            assert asked.ask() == (200, b"ok")
            assert_none_left(upstream)
        assert upstream.accepted == 3


def test_a_client_that_half_closes_gets_its_answer(site: Sites) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"
    half_closed: list[bool] = []

    def script(talk: Talk) -> None:
        talk.head()
        talk.send(answer)
        wait_until(lambda: half_closed, "the client has closed its side")
        talk.send(b"0\r\n\r\n")
        talk.wait_closed()

    with ScriptedUpstream(script) as upstream:
        asked = site({upstream.node: 1})
        with asked.connect() as sock:
            sock.sendall(asked.head())
            sock.shutdown(socket.SHUT_WR)
            half_closed.append(True)
            assert is_whole(rest(sock))


def test_trailers_and_connections_that_stay(site: Sites) -> None:
    with ScriptedUpstream(answering(*[CHUNKED] * 3)) as upstream:
        asked = site({upstream.node: 1})
        for _ in range(3):
            assert asked.whole().endswith(b"0\r\nX-T: 1\r\n\r\n")
        assert upstream.accepted == 1


def early(close: bool) -> Script:
    def script(talk: Talk) -> None:
        talk.head()
        talk.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        if not close:
            talk.wait_closed()

    return script


@pytest.mark.parametrize("close", [True, False])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_an_answer_before_the_body_has_been_sent(site: Sites, method: str, close: bool) -> None:
    with ScriptedUpstream(early(close)) as upstream:
        asked = site({upstream.node: 1})
        with asked.connect() as sock:
            sock.sendall(asked.head(method, fields="Content-Length: 10000000\r\n") + b"x" * 1000)
            answer = rest(sock)
            assert answer.startswith(b"HTTP/1.1 413 Too Large\r\n")
            assert b"\r\nConnection: close\r\n" in answer
            assert answer.endswith(b"\r\n\r\nbig")
        assert_none_left(upstream)
        assert upstream.accepted == 1


def test_a_stream_flows_at_once(site: Sites) -> None:
    seen: list[int] = []

    def script(talk: Talk) -> None:
        talk.head()
        talk.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(20):
            event = b"data: %d\n\n" % number
            talk.send(b"%x\r\n%b\r\n" % (len(event), event))
            wait_until(lambda number=number: number in seen, "the client has the event")  # type: ignore[misc]
        talk.send(b"0\r\n\r\n")

    with ScriptedUpstream(script) as upstream:
        asked = site({upstream.node: 1}, timeout={"connect": 1, "send": 1, "read": 20})
        with asked.connect() as sock:
            sock.sendall(asked.head())
            received = b""
            while not received.endswith(b"0\r\n\r\n"):
                received += sock.recv(65536)
                seen.extend(number for number in range(20) if b"data: %d\n\n" % number in received)


def stall(site: Sites, script: Script, fields: str = "", body: bytes = b"", **upstream: object) -> tuple[Site, bytes]:
    with ScriptedUpstream(script) as node:
        asked = site({node.node: 1}, timeout={"connect": 0.3, "send": 0.3, "read": 0.3}, **upstream)
        answer = asked.whole("POST" if body else "GET", fields, body)
        assert_none_left(node)
        return asked, answer


def test_silence_before_the_answer(site: Sites) -> None:
    assert stall(site, lambda talk: talk.wait_closed())[1].startswith(b"HTTP/1.1 504 ")
    assert stall(site, refusing_to_close(b"HTTP/1.1 200 OK\r\nX: "))[1].startswith(b"HTTP/1.1 504 ")
    assert stall(site, refusing_to_close(b"HTTP/1.1 100 Continue\r\n\r\n"))[1].startswith(b"HTTP/1.1 504 ")


def test_silence_within_the_answer_cuts_it(site: Sites) -> None:
    for answer in (LENGTH[:-1], CHUNKED[:-1], UNTIL_CLOSE):
        _, received = stall(site, refusing_to_close(answer))
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert not is_whole(received)


def test_a_chunked_answer_of_http_10_ends_its_connection(site: Sites) -> None:
    answer = CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"\r\n\r\n", b"\r\nConnection: keep-alive\r\n\r\n", 1)
    with ScriptedUpstream(refusing_to_close(answer, OK)) as upstream:
        asked = site({upstream.node: 1})
        assert is_whole(asked.whole())
        wait_until(lambda: upstream.connections() == 0, "no connection is left")
