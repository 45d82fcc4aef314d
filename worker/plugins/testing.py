"""A kit for tests of plugins: requests through a whole worker, with its router, chain and protocols, but no sockets.

    with PluginKit({"key-auth": {}}, {"consumers/jack": {"plugins": {"key-auth": {"key": "k"}}}}) as kit:
        assert kit.request("GET", "/").status == 401
        answer = kit.request("GET", "/", {"apikey": "k"})
        assert answer.status == 200
        assert answer.upstream.header("x-consumer-username") == "jack"

The upstream is scripted: it answers every request with ``kit.upstream_answers``, bytes or a function of the request.
"""

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from config_sync import schema
from config_sync.cache import ConfigStore, Deletion, Entry
from config_sync.encryption import Keyring
from config_sync.settings_file import read_settings
from worker.context import WorkerContext
from worker.http.framing import ChunkedDecoder
from worker.http.http1_server import Http1Server
from worker.plugins.base import Plugin
from worker.plugins.loading import load_registry
from worker.plugins.registry import Registered, Registry

UPSTREAM = "127.0.0.1", 1980
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
PATIENCE = 10.0  # seconds for an answer

_built_in: list[Registry] = []


class Message:
    """A message as it was received: the parts of its first line, fields and body."""

    def __init__(self, head: bytes, body: bytes) -> None:
        line, _, block = head.partition(b"\r\n")
        self.line = line.decode("latin-1")
        pairs = [field.partition(":") for field in block.decode("latin-1").split("\r\n") if field]
        self.fields = [(name.lower(), value.strip()) for name, _, value in pairs]
        self.body = body

    def header(self, name: str) -> str | None:
        """Return a field's value, several joined by a comma; None when there is none."""
        values = [value for field, value in self.fields if field == name.lower()]
        return ", ".join(values) if values else None

    def headers(self, name: str) -> list[str]:
        """Return the values of all fields of a name."""
        return [value for field, value in self.fields if field == name.lower()]

    def json(self) -> Any:
        """Return what the body holds."""
        return json.loads(self.body)


class UpstreamRequest(Message):
    """What the upstream has received."""

    @property
    def method(self) -> str:
        """The method."""
        return self.line.split(" ")[0]

    @property
    def target(self) -> str:
        """Path and query."""
        return self.line.split(" ")[1]


class Outcome(Message):
    """What the client has received; ``upstream`` is the request that led to it, None when the gateway answered."""

    def __init__(self, head: bytes, body: bytes, upstream: UpstreamRequest | None, is_closed: bool) -> None:
        super().__init__(head, body)
        self.status = int(self.line.split(" ")[1])
        self.upstream = upstream
        self.is_closed = is_closed


class PluginKit:
    """A worker with one route for everything, on which the given plugins are configured."""

    def __init__(
        self,
        plugins: Mapping[str, Any] | None = None,
        records: Mapping[str, Any] | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        extra: tuple[type[Plugin[Any]], ...] = (),
        route: Mapping[str, Any] | None = None,
    ) -> None:
        """Configure a worker.

        Args:
            plugins: of the route.
            records: more of the configuration, by key below the prefix; ``routes/kit`` is the route.
            settings: of the worker, as in its file.
            extra: plugins besides those that are built in.
            route: more members of the route.
        """
        self.loop = _Loop(self)
        self.upstream_answers: bytes | Callable[[UpstreamRequest], bytes] = OK
        self.received: list[UpstreamRequest] = []
        self._revision = 1
        if not _built_in:
            _built_in.append(load_registry())
        registry = _built_in[0].with_plugins([Registered(plugin, "the test").check() for plugin in extra])
        base = {"access_log": False, "worker_processes": 1, **(settings or {})}
        keyring = Keyring(("qeddd145sfvddff3",), True)
        self.store = ConfigStore(schema.decoders(keyring, registry))
        self.context = WorkerContext(read_settings(base, {}), self.loop, self.store, registry=registry)
        self.context.start()
        upstream = {"type": "roundrobin", "nodes": {f"{UPSTREAM[0]}:{UPSTREAM[1]}": 1}}
        self.put("routes/kit", {"uri": "/*", "upstream": upstream, "plugins": dict(plugins or {}), **(route or {})})
        for key, value in (records or {}).items():
            self.put(key, value)

    def put(self, key: str, value: Any) -> None:
        """Write a record, or delete it with None.

        Raises:
            AssertionError: it is not valid; with the reason.
        """
        self._revision += 1
        if value is None:
            self.store.apply([Deletion(key, self._revision)], self._revision)
            return
        raw = json.dumps(value).encode()
        self.store.apply([Entry(key, raw, self._revision, self._revision, 1)], self._revision)
        rejected = self.store.rejected.get(key)
        if rejected is not None:
            raise AssertionError(rejected)

    def refuses(self, plugins: Mapping[str, Any], **members: Any) -> str:
        """Return the complaint about a route with these plugins; empty when there is none."""
        try:
            self.put("routes/refused", {"uri": "/refused", "plugins": plugins, **members})
        except AssertionError as error:
            return str(error)
        finally:
            self.put("routes/refused", None)
        return ""

    def request(
        self,
        method: str = "GET",
        target: str = "/",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        *,
        remote: str = "127.0.0.1",
        host: str = "a.com",
    ) -> Outcome:
        """Send a request over a new connection and return what comes of it."""
        return self.requests([(method, target, headers or {}, body)], remote=remote, host=host)[0]

    def requests(
        self,
        messages: Sequence[tuple[str, str, Mapping[str, str], bytes]],
        *,
        remote: str = "127.0.0.1",
        host: str = "a.com",
    ) -> list[Outcome]:
        """Send requests one after the other over one connection."""
        outcomes: list[Outcome] = self.run(self._exchange(messages, remote, host))
        return outcomes

    def connect(self, remote: str = "127.0.0.1") -> Http1Server:
        """Return a new client connection, to be fed by hand."""
        connection = Http1Server(self.context)
        connection.connection_made(_Client(remote))
        return connection

    def run(self, work: Any) -> Any:
        """Run a coroutine in the loop of the worker."""
        return self.loop.run_until_complete(asyncio.wait_for(work, PATIENCE))

    async def ask(self, method: str = "GET", target: str = "/", headers: Mapping[str, str] | None = None) -> Outcome:
        """Do as ``request``, for tests with several requests at a time."""
        return (await self._exchange([(method, target, headers or {}, b"")], "127.0.0.1", "a.com"))[0]

    async def _exchange(
        self, messages: Sequence[tuple[str, str, Mapping[str, str], bytes]], remote: str, host: str
    ) -> list[Outcome]:
        client = _Client(remote)
        connection = Http1Server(self.context)
        connection.connection_made(client)
        outcomes = []
        for method, target, headers, body in messages:
            seen = len(self.received)
            names = {name.lower() for name in headers}
            lines = [f"{method} {target} HTTP/1.1", *([] if "host" in names else [f"Host: {host}"])]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            if body and not names & {"content-length", "transfer-encoding"}:
                lines.append(f"Content-Length: {len(body)}")
            client.begin(method)
            connection.data_received("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
            while not client.is_complete():
                await asyncio.sleep(0)
                if not client.is_complete():
                    await asyncio.sleep(0.0005)
            upstream = self.received[-1] if len(self.received) > seen else None
            outcomes.append(Outcome(client.head, client.body, upstream, client.closed))
        connection.connection_lost(None)
        return outcomes

    def __enter__(self) -> "PluginKit":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the worker."""
        self.context.close()
        with contextlib.suppress(asyncio.TimeoutError):
            self.loop.run_until_complete(asyncio.sleep(0))
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


class _Loop(asyncio.SelectorEventLoop):
    """A loop in which the upstream needs no socket."""

    def __init__(self, kit: PluginKit) -> None:
        super().__init__()
        self._kit = kit

    async def create_connection(  # type: ignore[override]  # its overloads are many
        self, factory: Any, host: Any = None, port: Any = None, **more: Any
    ) -> Any:
        if (host, port) != UPSTREAM:
            return await super().create_connection(factory, host, port, **more)
        protocol = factory()
        transport = _Upstream(self._kit, protocol)
        protocol.connection_made(transport)
        return transport, protocol


class _Transport(asyncio.Transport):
    """What both ends have in common."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def can_write_eof(self) -> bool:
        return False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        pass  # who takes it over reads nothing more

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True


class _Client(_Transport):
    """The client's end: collects an answer."""

    def __init__(self, remote: str) -> None:
        super().__init__()
        self._remote = remote
        self.begin("GET")

    def begin(self, method: str) -> None:
        """Expect the answer to a request."""
        self._method = method
        self._data = b""
        self.head = b""
        self.body = b""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": (self._remote, 40000), "sockname": ("127.0.0.1", 9080)}.get(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._data += data

    def is_complete(self) -> bool:
        """Tell whether the whole answer has come."""
        head, found, rest = self._data.partition(b"\r\n\r\n")
        if not found:
            return self._fails_if_closed()
        if head.startswith(b"HTTP/1.1 100"):
            self._data = rest
            return False
        self.head = head
        message = Message(head, b"")
        status = int(message.line.split(" ")[1])
        if self._method == "HEAD" or status in (204, 304):
            return True
        if message.header("transfer-encoding") == "chunked":
            decoder = ChunkedDecoder()
            self.body, _ = decoder.feed(rest)
            return decoder.finished or self._fails_if_closed()
        length = message.header("content-length")
        self.body = rest
        return (self.closed if length is None else len(rest) >= int(length)) or self._fails_if_closed()

    def _fails_if_closed(self) -> bool:
        if self.closed:
            raise AssertionError(f"closed before the answer was complete: {self._data!r}")
        return False


class _Upstream(_Transport):
    """The upstream's end: collects a request, and answers it."""

    def __init__(self, kit: PluginKit, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._kit = kit
        self._protocol = protocol
        self._data = b""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": UPSTREAM, "sockname": ("127.0.0.1", 50000)}.get(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._data += data
        head, found, rest = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        request = UpstreamRequest(head, rest)
        if request.header("transfer-encoding") == "chunked":
            decoder = ChunkedDecoder()
            request.body, _ = decoder.feed(rest)
            if not decoder.finished:
                return
        elif len(rest) < int(request.header("content-length") or 0):
            return
        self._data = b""
        self._kit.received.append(request)
        answers = self._kit.upstream_answers
        answer = answers if isinstance(answers, bytes) else answers(request)
        self._kit.loop.call_soon(self._answer, answer)

    def _answer(self, answer: bytes) -> None:
        if not self.closed:
            self._protocol.data_received(answer)
            if b"\r\nConnection: close" in answer:
                self.closed = True
                self._protocol.connection_lost(None)

    def abort(self) -> None:
        self.closed = True
