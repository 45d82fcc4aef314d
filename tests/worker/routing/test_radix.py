"""The trees agree with a dictionary."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.routing.radix import RadixTree
from worker.routing.segments import SegmentTree

Tree = type[RadixTree[bytes]] | type[SegmentTree[bytes]]
BOTH = pytest.mark.parametrize("tree_of", [RadixTree, SegmentTree])
KEYS = st.text(alphabet="ab/", max_size=8).map(str.encode)


@BOTH
@given(st.lists(st.tuples(st.booleans(), KEYS), max_size=60), st.lists(KEYS, max_size=20))
def test_tree_agrees_with_a_dictionary(tree_of: Tree, changes: list[tuple[bool, bytes]], asked: list[bytes]) -> None:
    tree = tree_of()
    plain: dict[bytes, bytes] = {}
    for add, key in changes:
        if add:
            tree.setdefault(key, lambda key=key: key)  # type: ignore[misc]
            plain.setdefault(key, key)
        else:
            tree.remove(key)
            plain.pop(key, None)
    assert dict(tree) == plain
    for key in [*asked, *plain]:
        assert tree.get(key) == plain.get(key)
        assert tree.prefixes(key) == [plain[key[:size]] for size in range(len(key) + 1) if key[:size] in plain]


@BOTH
@given(st.lists(KEYS, max_size=30, unique=True))
def test_an_emptied_tree_keeps_no_nodes(tree_of: Tree, keys: list[bytes]) -> None:
    tree = tree_of()
    for key in keys:
        tree.setdefault(key, lambda: b"")
    for key in keys:
        tree.remove(key)
    assert not tree._root.edges


@BOTH
@given(st.lists(KEYS, max_size=30, unique=True), st.data())
def test_a_tree_has_the_shape_of_what_is_in_it_whatever_was(
    tree_of: Tree, keys: list[bytes], data: st.DataObject
) -> None:
    gone = set(data.draw(st.lists(st.sampled_from(keys or [b""]))))
    grown, fresh = tree_of(), tree_of()
    for key in keys:
        grown.setdefault(key, lambda: b"")
        if key not in gone:
            fresh.setdefault(key, lambda: b"")
    for key in gone:
        grown.remove(key)
    assert labels(grown._root) == labels(fresh._root)


def labels(node: object) -> object:
    """Return a node as plain data."""
    edges = node.edges  # type: ignore[attr-defined]
    tails = getattr(node, "tails", None)
    below = {first: labels(child) for first, child in edges.items()}
    return node.label, below, tails and labels(tails._root)  # type: ignore[attr-defined]
