"""What is live in the worker that answers: ``/v1/config`` and APISIX's dumps (admin-api.md section 10)."""

import time
from collections.abc import Callable, Iterable, Iterator
from ipaddress import ip_address
from types import MappingProxyType
from typing import Any

import msgspec

from config_sync.cache import ConfigStore, Item, Rejected, key_of
from config_sync.masking import masked
from worker.api.messages import Outcome, Portions, Request, failure, json_answer
from worker.scoreboard import Entry, WorkerState

PORTION_SECONDS = 0.0004  # what a step of a long answer may take; a request may have to wait for it
_encode = msgspec.json.encode


class ConfigHandlers:
    """Answers from the store of this worker."""

    def __init__(
        self, store: ConfigStore, entry: Entry, prefix: str, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Show a store; ``prefix`` is that of the keys in etcd, ``clock`` (seconds) measures the portions."""
        self._store = store
        self._entry = entry
        self._prefix = prefix
        self._clock = clock

    # /v1/config

    def directories(self, _: Request) -> Outcome:
        """Show how much there is of everything."""
        counts = {name: len(cache.items) for name, cache in self._store.caches.items()}
        return json_answer(200, {**self._who(), "directories": counts, "rejected": len(self._store.rejected)})

    def below(self, request: Request) -> Outcome:
        """Show a directory, or one item of it."""
        directory, slash, id_ = request.path.removeprefix("/v1/config/").partition("/")
        cache = self._store.caches.get(directory)
        if cache is None:
            return failure(404, f"there is no directory {directory!r}; GET /v1/config lists them")
        if self._entry.state == WorkerState.STARTING:
            return failure(503, f"worker id: {self._entry.slot} has not received configuration")
        if slash:
            item = cache.items.get(id_)
            if item is None:
                return failure(404, f"{directory}[{id_}] not found")
            return json_answer(200, {**self._who(), **self._shown(directory, item)})
        items = list(cache.items.values())
        about = {**self._who(), "directory": directory, "total": len(items)}
        return self._list(about, items, lambda item: self._shown(directory, item))

    def errors(self, _: Request) -> Outcome:
        """Show the values that are not valid, and what serves in their place."""
        rejected = list(self._store.rejected.values())
        about = {**self._who(), "total": len(rejected)}
        return self._list(about, rejected, self._shown_fault)

    def _who(self) -> dict[str, Any]:
        return {"slot": self._entry.slot, "pid": self._entry.pid, "revision": self._store.revision}

    def _shown(self, directory: str, item: Item) -> dict[str, Any]:
        key = key_of(directory, item.id)
        fault = self._store.rejected.get(key)
        shown = {
            "key": key,
            "id": item.id,
            "mod_revision": item.mod_revision,
            "create_revision": item.create_revision,
            "version": item.version,
            "valid": fault is None,
            "value": masked(directory, _decoded(item.good)),
        }
        if fault is not None:
            shown["error"] = {"path": fault.path, "reason": fault.reason, "revision": fault.revision}
        return shown

    def _shown_fault(self, fault: Rejected) -> dict[str, Any]:
        directory, _, id_ = fault.key.partition("/")
        item = self._store.caches[directory].items.get(id_)
        return {
            "key": fault.key,
            "path": fault.path,
            "reason": fault.reason,
            "revision": fault.revision,
            "serves_last_good": item is not None and item.good is not None,
        }

    def _list(self, about: dict[str, Any], items: list[Any], show: Callable[[Any], Any]) -> Portions:
        head = _encode(about)[:-1] + b',"items":['
        pieces = json_portions(head, (_encode(show(item)) for item in items), b"]}\n", self._clock)
        return Portions(200, pieces)

    # APISIX's dumps

    def dump(self, directory: str) -> Callable[[Request], Outcome]:
        """Return the handler of ``/v1/routes`` and its like."""

        def handle(_: Request) -> Outcome:
            items = list(self._store.caches[directory].items.values())
            texts = (_encode(self._dumped(directory, item)) if item.good is not None else b"" for item in items)
            return Portions(200, json_portions(b"[", texts, b"]\n", self._clock))

        return handle

    def dump_one(self, directory: str, path: str, name: str) -> Callable[[Request], Outcome]:
        """Return the handler of ``/v1/route/{id}`` and its like; ``name`` is what a 404 calls it."""

        def handle(request: Request) -> Outcome:
            id_ = request.path.removeprefix(path)
            item = self._store.caches[directory].items.get(id_)
            if item is None or item.good is None:
                return failure(404, f"{name}[{id_}] not found")
            return json_answer(200, self._dumped(directory, item))

        return handle

    def _dumped(self, directory: str, item: Item) -> Any:
        value = masked(directory, self._normalised(directory, item))
        if directory == "plugin_metadata":
            return value
        return {
            "key": f"{self._prefix}/{key_of(directory, item.id)}",
            "value": value,
            "createdIndex": item.create_revision,
            "modifiedIndex": item.mod_revision,
            "orig_modifiedIndex": item.mod_revision,
            "has_domain": has_domain(value),
        }

    def _normalised(self, directory: str, item: Item) -> Any:
        """Return a value with its defaults; decoded anew, for the store keeps what was written."""
        if directory == "plugin_metadata":
            return _decoded(item.good)  # APISIX fills in nothing there
        return without_unset(msgspec.to_builtins(self._store.value(directory, item.id), enc_hook=_plain))


def _plain(value: object) -> object:
    """Turn the read-only view that stands for an empty mapping into one that can be written out."""
    if isinstance(value, MappingProxyType):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} cannot be written as JSON")


def _decoded(raw: bytes | None) -> Any:
    try:
        return msgspec.json.decode(raw) if raw is not None else None
    except msgspec.DecodeError:
        return None


def without_unset(tree: Any) -> Any:
    """Return a value without the fields that nobody has set and that have no default."""
    if isinstance(tree, list):
        return [without_unset(value) for value in tree]
    if not isinstance(tree, dict):
        return tree
    return {name: without_unset(value) for name, value in tree.items() if value is not None}


def has_domain(value: Any) -> bool:
    """Tell whether a node of an upstream, or of a route's or service's own, is a name to be resolved."""
    upstream = value.get("upstream", value) if isinstance(value, dict) else None
    nodes = upstream.get("nodes") if isinstance(upstream, dict) else None
    return isinstance(nodes, list | tuple) and any(
        isinstance(node, dict) and not _is_address(node.get("host")) for node in nodes
    )


def _is_address(host: object) -> bool:
    try:
        ip_address(str(host).strip("[]"))
    except ValueError:
        return False
    return True


def json_portions(head: bytes, texts: Iterable[bytes], tail: bytes, clock: Callable[[], float]) -> Iterator[bytes]:
    """Write a JSON array in portions of ``PORTION_SECONDS`` of work each; empty texts are left out."""
    portion, separator = [head], b""
    until = clock() + PORTION_SECONDS
    for text in texts:
        if text:
            portion += (separator, text)
            separator = b",\n"
        if clock() >= until:
            yield b"".join(portion)
            portion.clear()
            until = clock() + PORTION_SECONDS
    portion.append(tail)
    yield b"".join(portion)
