"""One connection to etcd, fed by hand: bytes in, notices out."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_sync.errors import SettingsError
from config_sync.etcd.client import Endpoint, EtcdConnection
from config_sync.settings import EtcdSettings, TlsSettings
from tests.fakes.etcd import END, STREAM, answer, chunk, created, end_of_poll, last_line, line, put, record, until
from tests.fakes.splitting import split


class Transport(asyncio.Transport):
    """Remembers what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def abort(self) -> None:
        self.aborted = True


class Recorder:
    """An owner that writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def connected(self, connection: EtcdConnection) -> None:
        self.told.append(("connected",))

    def answer_received(self, status: int, body: bytes) -> None:
        self.told.append(("answer", status, body))

    def lines_received(self, lines: list[bytes]) -> None:
        self.told.extend(("line", found) for found in lines)

    def stream_ended(self) -> None:
        self.told.append(("ended",))

    def disconnected(self, connection: EtcdConnection, reason: str) -> None:
        self.told.append(("disconnected", reason))


def connect(url: str = "http://127.0.0.1:2379") -> tuple[EtcdConnection, Recorder, Transport]:
    recorder, transport = Recorder(), Transport()
    connection = EtcdConnection(Endpoint(url, EtcdSettings()), recorder)
    assert not connection.is_open()
    connection.connection_made(transport)
    assert connection.is_open()
    assert recorder.told.pop() == ("connected",)
    return connection, recorder, transport


def test_a_watch_says_how_long_it_may_last_and_who_asks() -> None:
    connection, _, transport = connect()
    connection.request("/v3/watch", b"{}", "token.1", watching=True, poll=30)
    head, _, body = transport.written.partition(b"\r\n\r\n")
    assert head.split(b"\r\n") == [
        b"POST /v3/watch HTTP/1.1",
        b"Host: 127.0.0.1:2379",
        b"Content-Type: application/json",
        b"Content-Length: 2",
        b"Grpc-Metadata-hasleader: true",
        b"Authorization: token.1",
        b"Grpc-Timeout: 30S",
    ]
    assert body == b"{}"


def test_a_call_has_no_deadline_of_the_server_and_no_empty_token() -> None:
    connection, _, transport = connect("http://[::1]:23")
    connection.request("/v3/kv/range", b"{}", "")
    assert b"Host: [::1]:23\r\n" in transport.written
    assert b"Grpc-Timeout" not in transport.written
    assert b"Authorization" not in transport.written


@given(st.lists(st.integers(0, 2000), max_size=20))
def test_any_split_of_a_stream_gives_the_same_lines(cuts: list[int]) -> None:
    messages = [created(5), put(6, record("routes/1", {"uri": "/a"}, 6)), end_of_poll()]
    two_in_one = chunk(b'{"a":1}\n{"b":2}\n') + chunk(b'{"c"') + chunk(b":3}") + chunk(b"\n")
    stream = STREAM + line(messages[0]) + two_in_one + line(messages[1]) + last_line(messages[2])
    connection, recorder, _ = connect()
    connection.request("/v3/watch", b"{}", "", watching=True, poll=30)
    for piece in split(stream, cuts):
        connection.data_received(piece)
    first, second, end = (("line", json.dumps(message).encode()) for message in messages)
    between = [("line", b'{"a":1}'), ("line", b'{"b":2}'), ("line", b'{"c":3}')]
    assert recorder.told == [first, *between, second, end, ("ended",)]
    assert connection.is_reusable()


@given(st.lists(st.integers(0, 500), max_size=20))
def test_any_split_of_answers_gives_the_same_answers_on_one_connection(cuts: list[int]) -> None:
    long = STREAM + chunk(b'{"more"') + chunk(b":true}") + END
    connection, recorder, _ = connect()
    for raw, body in ((answer({"a": 1}), b'{"a": 1}'), (long, b'{"more":true}'), (answer({"b": 2}), b'{"b": 2}')):
        connection.request("/v3/kv/range", b"{}", "")
        for piece in split(raw, cuts):
            connection.data_received(piece)
        assert recorder.told.pop() == ("answer", 200, body)
        assert recorder.told == []


def test_a_refused_watch_is_an_answer_even_in_lines() -> None:
    connection, recorder, _ = connect()
    connection.request("/v3/watch", b"{}", "", watching=True, poll=30)
    connection.data_received(answer({"code": 2}, "500 Internal Server Error").replace(b'"code": 2', b'"code":\n2'))
    assert recorder.told == [("answer", 500, b'{"code":\n2}')]


def test_a_connection_that_closes_after_its_answer_is_not_used_again() -> None:
    connection, recorder, _ = connect()
    connection.request("/v3/kv/range", b"{}", "")
    connection.data_received(answer({}, close=True))
    assert recorder.told == [("answer", 200, b"{}")]
    assert not connection.is_reusable()


def test_what_is_no_http_is_given_up() -> None:
    connection, recorder, transport = connect()
    connection.request("/v3/kv/range", b"{}", "")
    connection.data_received(b"SSH-2.0-OpenSSH_9.2\r\n")
    ((what, reason),) = recorder.told
    assert what == "disconnected"
    assert "does not speak HTTP" in str(reason)
    assert transport.aborted
    connection.connection_lost(None)
    assert len(recorder.told) == 1


def test_a_line_that_is_cut_is_no_line() -> None:
    connection, recorder, _ = connect()
    connection.request("/v3/watch", b"{}", "", watching=True, poll=30)
    connection.data_received(STREAM + chunk(b'{"result":{}}\n{"resu'))
    connection.connection_lost(ConnectionResetError("reset by peer"))
    assert recorder.told[0] == ("line", b'{"result":{}}')
    assert recorder.told[1][0] == "disconnected"
    assert len(recorder.told) == 2


def test_a_closed_connection_tells_nothing_more() -> None:
    connection, recorder, transport = connect()
    connection.request("/v3/watch", b"{}", "", watching=True, poll=30)
    connection.close()
    connection.data_received(STREAM + line(created(1)))
    connection.connection_lost(None)
    assert transport.aborted
    assert recorder.told == []


def test_a_fault_of_the_owner_is_not_taken_for_one_of_the_member() -> None:
    class Broken(Recorder):
        def answer_received(self, status: int, body: bytes) -> None:
            raise ZeroDivisionError

    connection = EtcdConnection(Endpoint("http://a", EtcdSettings()), Broken())
    connection.connection_made(Transport())
    connection.request("/v3/kv/range", b"{}", "")
    with pytest.raises(Exception, match="on_message_complete"):
        connection.data_received(answer({}))


@pytest.mark.parametrize(
    ("url", "host", "port", "has_tls"),
    [
        ("http://etcd.local", "etcd.local", 2379, False),
        ("https://[::1]:1234", "::1", 1234, True),
        ("10.0.0.1:99", "10.0.0.1", 99, False),
    ],
)
def test_addresses(url: str, host: str, port: int, has_tls: bool) -> None:
    endpoint = Endpoint(url, EtcdSettings())
    assert (endpoint.host, endpoint.port, endpoint.tls is not None) == (host, port, has_tls)


@pytest.mark.parametrize("url", ["ftp://a", "http://", "http://a:b", "http://a:99999", "http://[::1"])
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(SettingsError, match=r"etcd\.host"):
        Endpoint(url, EtcdSettings())


def test_certificate_files_that_cannot_be_read() -> None:
    for tls in (TlsSettings(ca="/nowhere/ca.pem"), TlsSettings(cert="/nowhere/cert.pem")):
        with pytest.raises(SettingsError, match=r"etcd\.tls"):
            Endpoint("https://a", EtcdSettings(tls=tls))


def test_the_name_to_verify_can_be_set() -> None:
    assert Endpoint("https://10.0.0.1", EtcdSettings(tls=TlsSettings(sni="etcd.local"))).server_name == "etcd.local"
    assert Endpoint("https://10.0.0.1", EtcdSettings()).server_name == "10.0.0.1"
    assert Endpoint("http://10.0.0.1", EtcdSettings()).server_name is None


def test_a_member_that_refuses_is_reported() -> None:
    async def check() -> None:
        recorder = Recorder()
        server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        server.close()
        await server.wait_closed()
        connection = EtcdConnection(Endpoint(f"http://127.0.0.1:{port}", EtcdSettings()), recorder)
        connection.open(asyncio.get_running_loop())
        await until(lambda: recorder.told, "a notice")
        ((what, reason),) = recorder.told
        assert what == "disconnected"
        assert f"cannot connect to http://127.0.0.1:{port}" in str(reason)

    asyncio.run(check())
