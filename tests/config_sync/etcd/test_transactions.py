"""Order and portions of writes."""

from hypothesis import given
from hypothesis import strategies as st

from config_sync.etcd.transactions import MOST_BYTES, MOST_OPERATIONS, Write, planned, portions

WRITES = st.lists(
    st.builds(Write, st.text("ab/", max_size=9), st.none() | st.integers(0, 400_000).map(bytes), st.integers(0)),
    max_size=20,
)


@given(WRITES, st.integers(1, 30))
def test_portions_hold_everything_in_order_and_within_bounds(writes: list[Write], repeat: int) -> None:
    cut = list(portions(writes * repeat))
    assert [write for portion in cut for write in portion] == writes * repeat
    assert all(0 < len(portion) <= MOST_OPERATIONS for portion in cut)
    assert all(sum(len(write.value or b"") for write in portion) <= MOST_BYTES for portion in cut)


def test_a_value_that_is_too_large_goes_alone() -> None:
    large = Write("protos/1", bytes(MOST_BYTES + 1), 0)
    small = Write("protos/2", b"{}", 0)
    assert list(portions([small, large, small])) == [[small], [large], [small]]


def test_what_is_referred_to_is_put_before_and_deleted_after() -> None:
    values = {"routes/1": b"{}", "upstreams/1": b"{}", "services/1": b"{}"}
    writes = planned(values, ["upstreams/9", "routes/9"], {"services/1": 7, "upstreams/9": 3, "routes/9": 4})
    assert writes == [
        Write("upstreams/1", b"{}", 0),
        Write("services/1", b"{}", 7),
        Write("routes/1", b"{}", 0),
        Write("routes/9", None, 4),
        Write("upstreams/9", None, 3),
    ]
