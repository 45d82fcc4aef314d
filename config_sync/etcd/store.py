"""etcd over gRPC, for tools: lists, guarded writes, old revisions, watches.

etcd3 speaks gRPC for us. Only its messages, stubs and login are used: its own methods know neither pages nor
revisions, take a refused watch for a good one and hang, and pass tokens in a way that current grpc refuses on
plain connections (etcd-http-gateway.md section 11). grpc's threads do not survive a fork: neither the master nor
a worker imports this module.
"""

import os
import threading
import warnings
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from config_sync.cache import Deletion, Entry, Event
from config_sync.errors import RevisionCompacted, SettingsError, StoreError, WriteConflict
from config_sync.etcd.client import Endpoint
from config_sync.etcd.transactions import Write
from config_sync.settings import EtcdSettings

os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"  # etcd3's messages know no other
os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what fails is reported by us
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # its messages are of an old compiler
    import etcd3
    import grpc

rpc = etcd3.etcdrpc

PAGE_KEYS = 1000
SETTLED = 1.0  # seconds; etcd looks after a watch of the past ten times a second
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),  # 4 MB else
    ("grpc.max_send_message_length", -1),
    ("grpc.keepalive_time_ms", 10_000),  # a member that has vanished
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),  # no bound: nothing may come for a long time
    ("grpc.enable_http_proxy", 0),
]


class Page(NamedTuple):
    """A part of a list: every part is of the same revision."""

    entries: list[Entry]
    left: int  # keys from the first of this page on
    revision: int


class Batch(NamedTuple):
    """Events that came together, of whole revisions, and what was there before each of them."""

    events: list[Event]
    before: list[bytes | None]  # None: nothing, or not known any more
    revision: int


class _Client(etcd3.Etcd3Client):  # type: ignore[misc]
    """Takes every kind of TLS settings; etcd3 knows no system CA."""

    def _get_secure_creds(self, ca_cert: EtcdSettings, cert_key: Any = None, cert_cert: Any = None) -> Any:
        files = ca_cert.tls
        paths = (files.ca, files.key or files.cert, files.cert)
        return grpc.ssl_channel_credentials(*(Path(path).read_bytes() if path else None for path in paths))


def open_store(settings: EtcdSettings) -> "EtcdStore":
    """Connect to the first endpoint that answers, and log in.

    Raises:
        SettingsError: an address or certificate file is of no use.
        StoreError: no endpoint answers, or none lets us in.
    """
    failures = []
    for url in settings.host:
        endpoint = Endpoint(url, settings)
        if endpoint.tls is not None and not settings.tls.verify:
            raise SettingsError("etcd.tls.verify: gRPC always verifies; name the server's CA in etcd.tls.ca")
        try:
            return _connected(endpoint, settings)
        except StoreError as error:
            failures.append(str(error))
    raise StoreError("; ".join(failures))


def _connected(endpoint: Endpoint, settings: EtcdSettings) -> "EtcdStore":
    try:
        client = _client(endpoint, settings, settings.user)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
            raise _store_error(error, endpoint.url) from error
        client = _client(endpoint, settings, "")  # credentials are set, but etcd asks nobody for them
    store = EtcdStore(client, endpoint.url, settings)
    try:
        store.revision()
    except StoreError:
        store.close()
        raise
    return store


def _client(endpoint: Endpoint, settings: EtcdSettings, user: str) -> _Client:
    secure = endpoint.tls is not None
    options = list(_OPTIONS)
    if secure and settings.tls.sni:
        options.append(("grpc.ssl_target_name_override", settings.tls.sni))  # type: ignore[arg-type]
    host, _, port = endpoint.authority.rpartition(":")
    return _Client(
        host=host,
        port=port,
        ca_cert=settings if secure else None,
        timeout=settings.timeout,
        user=user or None,
        password=settings.password if user else None,
        grpc_options=options,
    )


class EtcdStore:
    """What is below the prefix. Every call raises StoreError when it fails; keys are below the prefix."""

    def __init__(self, client: _Client, url: str, settings: EtcdSettings) -> None:
        """Take over a client that is logged in."""
        self.url = url
        self.prefix = settings.prefix.rstrip("/") + "/"
        self._client = client
        self._timeout = settings.timeout
        self._start = self.prefix.encode()
        self._end = self._start[:-1] + bytes((self._start[-1] + 1,))
        self._metadata = client.metadata or ()

    def __enter__(self) -> "EtcdStore":
        """Give itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def revision(self) -> int:
        """Return where the store stands."""
        return int(self._range(key=self._start, range_end=self._end, count_only=True).header.revision)

    def pages(self) -> Iterator[Page]:
        """List everything at one revision."""
        key, revision, more = self._start, 0, True
        while more:
            answer = self._range(key=key, range_end=self._end, limit=PAGE_KEYS, revision=revision)
            revision = revision or int(answer.header.revision)
            yield Page([self._entry(record) for record in answer.kvs], int(answer.count), revision)
            more = answer.more and bool(answer.kvs)
            if more:
                key = answer.kvs[-1].key + b"\0"

    def get(self, key: str, revision: int = 0) -> Entry | None:
        """Read a key as it was at a revision (0: as it is).

        Raises:
            RevisionCompacted: the revision is gone.
        """
        answer = self._range(key=self._key(key), revision=revision)
        return self._entry(answer.kvs[0]) if answer.kvs else None

    def write(self, writes: Sequence[Write]) -> int:
        """Write all or nothing, if each key still is what the caller takes it for; returns the revision.

        Raises:
            WriteConflict: a key is not.
        """
        request = rpc.TxnRequest()
        for write in writes:
            key = self._key(write.key)
            request.compare.add(
                key=key, target=rpc.Compare.MOD, result=rpc.Compare.EQUAL, mod_revision=write.mod_revision
            )
            if write.value is None:
                request.success.add().request_delete_range.key = key
            else:
                put = request.success.add().request_put
                put.key, put.value = key, write.value
            found = request.failure.add().request_range
            found.key, found.keys_only = key, True
        answer = self._call(self._client.kvstub.Txn, request)
        if answer.succeeded:
            return int(answer.header.revision)
        ranges = [response.response_range for response in answer.responses]
        now = [int(found.kvs[0].mod_revision) if found.kvs else 0 for found in ranges]
        raise WriteConflict(
            [write.key for write, is_now in zip(writes, now, strict=True) if write.mod_revision != is_now]
        )

    def watch(
        self, start_revision: int, key: str | None = None, quiet: float | None = None
    ) -> Generator[Batch, None, None]:
        """Follow everything, or one key, from a revision on; with ``quiet`` until nothing comes for so many seconds.

        The first batch has no events: it says that the watch is there.

        Raises:
            RevisionCompacted: the start is gone.
        """
        create = rpc.WatchCreateRequest(
            key=self._start if key is None else self._key(key),
            range_end=self._end if key is None else b"",
            start_revision=start_revision,
            prev_kv=True,
        )
        over = threading.Event()
        call = rpc.WatchStub(self._client.channel).Watch(
            _requests(rpc.WatchRequest(create_request=create), over),
            metadata=(*self._metadata, ("hasleader", "true")),  # a member cut off from the others ends it
        )
        try:
            yield from self._answers(call, quiet)
        finally:
            over.set()
            call.cancel()

    def oldest_revision(self, key: str) -> int:
        """Return from which revision on the history of a key is kept; 1 when nothing has been compacted."""
        try:
            for batch in self.watch(1, key, quiet=SETTLED):
                if batch.events:
                    break
        except RevisionCompacted as gone:
            return gone.oldest
        return 1

    def _answers(self, call: Any, quiet: float | None) -> Iterator[Batch]:
        created = False
        while True:
            answer, silent = _next(call, self._timeout if not created else quiet, self.url)
            if silent and created:
                return
            if answer is None:
                raise StoreError(f"etcd at {self.url}: " + ("no answer in time" if silent else "the watch has ended"))
            if answer.canceled:
                raise self._canceled(answer)
            created = created or answer.created
            yield Batch(
                [self._event(event) for event in answer.events],
                [event.prev_kv.value if event.prev_kv.key else None for event in answer.events],
                int(answer.header.revision),
            )

    def _canceled(self, answer: Any) -> StoreError:
        if answer.compact_revision:
            return RevisionCompacted(int(answer.compact_revision))
        return StoreError(f"etcd at {self.url} refuses the watch: {answer.cancel_reason or 'no reason given'}")

    def _range(self, **request: Any) -> Any:
        return self._call(self._client.kvstub.Range, rpc.RangeRequest(**request))

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, self._timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _store_error(error, self.url) from error

    def _key(self, key: str) -> bytes:
        return self._start + key.encode("utf-8", "surrogateescape")

    def _name(self, key: bytes) -> str:
        return key[len(self._start) :].decode("utf-8", "surrogateescape")

    def _entry(self, record: Any) -> Entry:
        revisions = int(record.mod_revision), int(record.create_revision), int(record.version)
        return Entry(self._name(record.key), record.value, *revisions)

    def _event(self, event: Any) -> Event:
        if event.type == event.DELETE:
            return Deletion(self._name(event.kv.key), int(event.kv.mod_revision))
        return self._entry(event.kv)


def _requests(first: Any, over: threading.Event) -> Iterable[Any]:
    """Send one request, and keep the stream open."""
    yield first
    over.wait()


def _next(call: Any, seconds: float | None, url: str) -> tuple[Any, bool]:
    """Take what comes next (None: the end); the flag says that nothing came in time."""
    silent = threading.Event()

    def cancel() -> None:
        silent.set()
        call.cancel()

    timer = threading.Timer(seconds, cancel) if seconds is not None else None
    if timer is not None:
        timer.daemon = True
        timer.start()
    try:
        return next(call, None), silent.is_set()
    except grpc.RpcError as error:
        if silent.is_set():
            return None, True
        raise _store_error(error, url) from error
    finally:
        if timer is not None:
            timer.cancel()


def _store_error(error: Any, url: str) -> StoreError:
    """Say what a failed call means, and the way out."""
    code, details = error.code(), error.details() or ""
    if "compacted" in details:
        return RevisionCompacted(0)
    if "future revision" in details:
        return StoreError("etcd has not come to this revision yet")
    reason = details.removeprefix("etcdserver: ") or code.name
    if code is grpc.StatusCode.UNAVAILABLE:
        reason = f"cannot be reached: {reason}"
    elif code is grpc.StatusCode.DEADLINE_EXCEEDED:
        reason = "no answer in time"
    elif code in _ACCESS or "user name is empty" in details or "authentication failed" in details:
        reason += "; see etcd.user and etcd.password, or --user and PROPYLON_ETCD_PASSWORD"
    elif "request is too large" in details or "larger than max" in details:
        reason += "; an object is larger than etcd's --max-request-bytes"
    return StoreError(f"etcd at {url}: {reason}")


_ACCESS = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
