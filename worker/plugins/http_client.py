"""HttpClient: HTTP requests that plugins make themselves, to whom they ask or tell something.

One for each worker (``services.http``), shared by all plugins, so that they share its connections. It needs the extra
``http``, which is imported at the first request, in a thread; a plugin calls ``require`` when it is made. Names are
looked up and authorities loaded in threads, and TLS is asyncio's, so nothing keeps the event loop.

    answer = await self.scope.services.http.request("POST", uri, body=body, within=3)
"""

import asyncio
import importlib
import importlib.util
import ssl
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from config_sync.errors import ConfigError

if TYPE_CHECKING:
    import aiohttp

SYSTEM = "system"  # the authorities of the operating system
IDLE_TIME = 60.0  # seconds that a connection is kept for the next request
MOST_SESSIONS = 8  # one for each idle time that is asked for; more share the first
LARGEST_ANSWER = 16 * 1024 * 1024  # bytes

Fields = Iterable[tuple[bytes, bytes]]


class HttpFailed(Exception):
    """There is no answer: no connection, no end of it in time, or something that is no HTTP."""


class HttpAnswer(NamedTuple):
    """An answer, as it was received: nothing is decoded, no redirection followed."""

    status: int
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def field(self, name: bytes) -> bytes | None:
        """Return a field's value, several joined by a comma; None when there is none."""
        values = self.all_fields(name)
        return b", ".join(values) if values else None

    def all_fields(self, name: bytes) -> list[bytes]:
        """Return the values of all fields of a name."""
        name = name.lower()
        return [value for field, value in self.fields if field.lower() == name]


class HttpClient:
    """Makes requests; opened by the first of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, authorities: str = SYSTEM) -> None:
        """Verify servers against the PEM file ``authorities``, or the system's."""
        self._loop = loop
        self._authorities = authorities
        self._sessions: dict[float, aiohttp.ClientSession] = {}  # by idle time; 0.0: connections are not kept
        self._contexts: dict[bool, ssl.SSLContext] = {}  # by whether servers are verified
        self._is_closed = False

    @staticmethod
    def require(plugin: str) -> None:
        """Make sure that there is what requests need.

        Raises:
            ConfigError: it is not installed; with the command.
        """
        if importlib.util.find_spec("aiohttp") is None:
            raise ConfigError(f"{plugin} needs an HTTP client: pip install propylon[http]")

    async def request(
        self,
        method: str,
        url: str,
        *,
        fields: Fields = (),
        body: bytes | None = None,
        within: float,
        verify: bool = True,
        keepalive: bool = True,
        idle_time: float = IDLE_TIME,
        largest: int = LARGEST_ANSWER,
    ) -> HttpAnswer:
        """Send a request and return the answer to it.

        Args:
            method: of the request.
            url: with ``http`` or ``https``, percent-encoded already.
            fields: besides Host and Content-Length; no others are added.
            body: nothing when None.
            within: seconds for all of it.
            verify: whether the server's certificate is checked.
            keepalive: whether the connection may carry further requests.
            idle_time: seconds that it waits for them.
            largest: bytes of the answer's body, above which it counts as failed.

        Raises:
            HttpFailed: with the reason.
        """
        try:
            async with asyncio.timeout(within):
                session = await self._session(idle_time if keepalive else 0.0)
                context = await self._context(verify) if url[:6].lower() == "https:" else True
                return await self._exchange(session, method, url, fields, body, context, keepalive, largest)
        except TimeoutError as error:
            raise HttpFailed(f"{method} {_shown(url)}: no answer within {within:g} s") from error
        except (OSError, ValueError) as error:
            raise HttpFailed(f"{method} {_shown(url)}: {error}") from error

    async def _exchange(
        self,
        session: "aiohttp.ClientSession",
        method: str,
        url: str,
        fields: Fields,
        body: bytes | None,
        context: "ssl.SSLContext | bool",
        keepalive: bool,
        largest: int,
    ) -> HttpAnswer:
        import aiohttp
        from yarl import URL

        headers = [(name.decode("latin-1"), _text(value)) for name, value in fields]
        if not keepalive:
            headers.append(("Connection", "close"))
        try:
            async with session.request(
                method, URL(url, encoded=True), headers=headers, data=body, ssl=context, allow_redirects=False
            ) as answer:
                pieces: list[bytes] = []
                size = 0
                async for piece in answer.content.iter_any():
                    size += len(piece)
                    if size > largest:
                        answer.close()
                        raise HttpFailed(f"{method} {_shown(url)}: the answer is larger than {largest} bytes")
                    pieces.append(piece)
                return HttpAnswer(answer.status, tuple(answer.raw_headers), b"".join(pieces))
        except aiohttp.ClientError as error:
            raise HttpFailed(f"{method} {_shown(url)}: {error or type(error).__name__}") from error

    async def _session(self, idle_time: float) -> "aiohttp.ClientSession":
        found = self._sessions.get(idle_time)
        if found is not None:
            return found
        module: Any = await self._loop.run_in_executor(None, importlib.import_module, "aiohttp")
        if self._is_closed:
            raise HttpFailed("the worker ends")
        if idle_time not in self._sessions and len(self._sessions) >= MOST_SESSIONS:
            return next(iter(self._sessions.values()))
        if idle_time not in self._sessions:
            kept = {"keepalive_timeout": idle_time} if idle_time else {"force_close": True}
            self._sessions[idle_time] = module.ClientSession(
                connector=module.TCPConnector(limit=0, **kept),
                timeout=module.ClientTimeout(total=None),
                cookie_jar=module.DummyCookieJar(),
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
                auto_decompress=False,
            )
        return self._sessions[idle_time]

    async def _context(self, verify: bool) -> ssl.SSLContext:
        found = self._contexts.get(verify)
        if found is None:
            made = await self._loop.run_in_executor(None, _made_context, verify, self._authorities)
            found = self._contexts.setdefault(verify, made)
        return found

    def close(self) -> None:
        """Close all connections."""
        self._is_closed = True
        for session in self._sessions.values():
            self._loop.create_task(session.close())
        self._sessions.clear()


def _made_context(verify: bool, authorities: str) -> ssl.SSLContext:
    """Make a context; it reads files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif authorities == SYSTEM:
        context.load_default_certs()
    else:
        context.load_verify_locations(authorities)
    return context


def _text(value: bytes) -> str:
    """Return a value as the library wants it; what is not UTF-8 is sent as if its bytes were characters."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _shown(url: str) -> str:
    """Return a URL for the log, without its query, which may be secret."""
    return url.partition("?")[0]
