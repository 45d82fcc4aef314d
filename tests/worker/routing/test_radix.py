"""The tree agrees with a dictionary."""

from hypothesis import given
from hypothesis import strategies as st

from worker.routing.radix import RadixTree

KEYS = st.text(alphabet="ab/", max_size=8).map(str.encode)


@given(st.lists(st.tuples(st.booleans(), KEYS), max_size=60), st.lists(KEYS, max_size=20))
def test_tree_agrees_with_a_dictionary(changes: list[tuple[bool, bytes]], asked: list[bytes]) -> None:
    tree: RadixTree[bytes] = RadixTree()
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


@given(st.lists(KEYS, max_size=30, unique=True))
def test_an_emptied_tree_keeps_no_nodes(keys: list[bytes]) -> None:
    tree: RadixTree[bytes] = RadixTree()
    for key in keys:
        tree.setdefault(key, lambda: b"")
    for key in keys:
        tree.remove(key)
    assert not tree._root.edges
