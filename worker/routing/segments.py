"""A tree over paths that finds every stored prefix of a path, segment by segment.

Most prefixes end with a slash. So a node's edges are told apart by whole segments, which costs one look-up in a
dictionary for each place where stored prefixes part, and a run of segments without such a place is one edge. What
stands behind the last slash of a prefix is rare; it goes into a small ``RadixTree`` of its node.

    "service/"  ── "a/" ────── value            "service/a/"
                └─ "b/c/d/" ── value            "service/b/c/d/"
                           └── tails: "x"       "service/b/c/d/x"
"""

from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from worker.routing.radix import DISMANTLED, RadixTree, common

V = TypeVar("V")

NO_EDGES: dict[bytes, Any] = {}  # of most nodes; never written to
SLASH = b"/"


class Node(Generic[V]):
    """A node: the whole segments that lead to it, the value of the prefix that ends there, edges, and tails."""

    __slots__ = ("edges", "label", "tails", "value")

    def __init__(self, label: bytes) -> None:
        self.label = label
        self.value: V | None = None
        self.edges: dict[bytes, Node[V]] = NO_EDGES
        self.tails: RadixTree[V] | None = None

    def is_needed(self) -> bool:
        """Tell whether any prefix ends here."""
        return self.value is not None or self.tails is not None


class SegmentTree(Generic[V]):
    """A map from prefixes of paths to values, asked for the stored prefixes of a path."""

    __slots__ = ("_root",)

    def __init__(self) -> None:
        self._root: Node[V] = Node(b"")

    def setdefault(self, key: bytes, make: Callable[[], V]) -> V:
        """Return the value of a key, made and stored first when there is none."""
        node = self._root
        at = 0
        end = key.rfind(SLASH) + 1  # of the whole segments
        while at < end:
            segment = key[at : key.index(SLASH, at)]
            child = node.edges.get(segment)
            if child is None:
                child = Node(key[at:end])
                _join(node, child)
            elif not key.startswith(child.label, at, end):
                shared = common(key[:end], at, child.label)
                child = _split(node, child, child.label.rindex(SLASH, 0, shared) + 1)
            at += len(child.label)
            node = child
        if end < len(key):
            if node.tails is None:
                node.tails = RadixTree()
            return node.tails.setdefault(key[end:], make)
        if node.value is None:
            node.value = make()
        return node.value

    def _path_to(self, key: bytes, end: int) -> list[Node[V]]:
        """Return the nodes down to the one of so many bytes of a key; empty when it is not there."""
        path = [self._root]
        at = 0
        while at < end:
            child = path[-1].edges.get(key[at : key.index(SLASH, at)])
            if child is None or not key.startswith(child.label, at, end):
                return []
            at += len(child.label)
            path.append(child)
        return path

    def get(self, key: bytes) -> V | None:
        """Return the value of exactly this key."""
        end = key.rfind(SLASH) + 1
        path = self._path_to(key, end)
        if not path:
            return None
        node = path[-1]
        if end == len(key):
            return node.value
        return node.tails.get(key[end:]) if node.tails is not None else None

    def remove(self, key: bytes) -> None:
        """Forget a key; one that is not there is no error."""
        end = key.rfind(SLASH) + 1
        path = self._path_to(key, end)
        if not path:
            return
        node = path[-1]
        if end == len(key):
            node.value = None
        elif node.tails is not None:
            node.tails.remove(key[end:])
            if node.tails.is_empty():
                node.tails = None
        if len(path) > 1:
            _tidy(path)

    def prefixes(self, key: bytes) -> list[V]:
        """Return the values of all stored prefixes of a path, the shortest first."""
        found: list[V] = []
        node = self._root
        at = 0
        while True:
            if node.value is not None:
                found.append(node.value)
            edges = node.edges
            if node.tails is not None:
                end = key.find(SLASH, at)
                found += node.tails.prefixes(key[at:end] if end >= 0 else key[at:])
            elif not edges:
                return found
            else:
                end = key.find(SLASH, at)
            if end < 0:
                return found
            child = edges.get(key[at:end])
            if child is None or not key.startswith(child.label, at):
                return found
            at += len(child.label)
            node = child

    def __iter__(self) -> Iterator[tuple[bytes, V]]:
        """Walk all keys and values, in no particular order."""
        waiting: list[tuple[bytes, Node[V]]] = [(b"", self._root)]
        while waiting:
            prefix, node = waiting.pop()
            if node.value is not None:
                yield prefix, node.value
            if node.tails is not None:
                yield from ((prefix + tail, value) for tail, value in node.tails)
            waiting.extend((prefix + child.label, child) for child in node.edges.values())

    def dismantle(self) -> Iterator[None]:
        """Free the whole tree, in steps."""
        waiting, self._root = [self._root], Node(b"")
        while waiting:
            node = waiting.pop()
            waiting.extend(node.edges.values())
            node.edges = NO_EDGES
            if node.tails is not None:
                yield from node.tails.dismantle()
            if len(waiting) % DISMANTLED == 0:
                yield


def _first(label: bytes) -> bytes:
    return label[: label.index(SLASH)]


def _split(parent: Node[V], child: Node[V], at: int) -> Node[V]:
    middle: Node[V] = Node(child.label[:at])
    child.label = child.label[at:]
    _join(middle, child)
    parent.edges[_first(middle.label)] = middle
    return middle


def _join(parent: Node[V], child: Node[V]) -> None:
    if parent.edges is NO_EDGES:
        parent.edges = {}
    parent.edges[_first(child.label)] = child


def _tidy(path: list[Node[V]]) -> None:
    """Take out what nothing needs: an end without prefixes, and a place where nothing parts any more."""
    node, parent = path[-1], path[-2]
    if not node.edges and not node.is_needed():
        del parent.edges[_first(node.label)]
        if not parent.edges:
            parent.edges = NO_EDGES
        node, parent = parent, path[-3] if len(path) > 2 else parent
    if node is not path[0] and not node.is_needed() and len(node.edges) == 1:
        (child,) = node.edges.values()
        child.label = node.label + child.label
        parent.edges[_first(node.label)] = child
