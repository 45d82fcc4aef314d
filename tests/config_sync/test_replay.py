"""Laws of following a history: whatever is cut, repeated, compacted or restarted, the end is the snapshot."""

import random
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from config_sync.cache import ConfigStore, Item
from config_sync.digest import MODULUS, record_hash
from config_sync.etcd.messages import WatchError, WatchLine
from config_sync.etcd.watch import DEADLINE, State
from tests.fakes.history import History, Replica

chances = st.randoms(use_true_random=False)


def recomputed(store: ConfigStore) -> dict[str, int]:
    return {directory: digest_of(directory, cache.items.values()) for directory, cache in store.caches.items()}


def digest_of(directory: str, items: Iterable[Item]) -> int:
    return sum(record_hash(f"{directory}/{item.id}", item.mod_revision, item.raw) for item in items) % MODULUS


def turn(replica: Replica, chance: random.Random) -> None:
    """Do one of the things that happen to a client."""
    history = replica.history
    what = chance.choices(range(6), (8, 6, 4, 1, 1, 1))[0]
    if what == 0:
        history.write(chance, chance.randint(1, 4))
    elif replica.watch.state is not State.WATCHING and what < 5:
        replica.step(limit=chance.randint(1, 4))
    elif what in (1, 2):
        receive(replica, chance)
    elif what == 3:
        # Just behind the cursor is where a watch that begins there loses deletions.
        revision = chance.choice((replica.watch.cursor + 1, chance.randint(1, history.revision)))
        history.compact(max(history.compacted, min(revision, history.revision)))
        replica.lose_connection()
    elif what == 4:
        replica.line(WatchLine(error=WatchError(4, DEADLINE)))
        replica.carry_out(replica.watch.stream_ended(replica.now))
    elif chance.random() < 0.5:
        receive_a_part(replica, chance)
        replica.lose_connection()
    else:
        replica.restart(keep=chance.random() < 0.5)


def receive(replica: Replica, chance: random.Random) -> None:
    """Let the member send some of what there is, and now and then again what it has sent long ago."""
    start = max(1, replica.watch.cursor - chance.choice((0, 0, 1, 5)))
    for message in replica.history.messages(start, chance, replica.hidden):
        replica.line(message)
        if message.result is not None and message.result.fragment:
            continue  # a stream never goes back between fragments
        if replica.watch.state is not State.WATCHING or chance.random() < 0.2:
            return


def receive_a_part(replica: Replica, chance: random.Random) -> None:
    """Let the stream break off anywhere, between fragments too."""
    for message in replica.history.messages(max(1, replica.watch.cursor), chance, replica.hidden):
        if chance.random() < 0.4:
            return
        replica.line(message)


def is_a_state_that_was(replica: Replica) -> bool:
    expected = replica.history.at(replica.store.revision)
    return replica.raw() == {key: record.value for key, record in expected.items()}


@settings(max_examples=150)
@given(chances, st.integers(0, 80))
def test_any_cut_and_replay_ends_in_the_snapshot(chance: random.Random, turns: int) -> None:
    """And on the way the store is at every moment what etcd was at the store's revision."""
    history = History()
    history.write(chance, chance.randint(0, 5))
    replica = Replica(history, chance)
    replica.start()
    for _ in range(turns):
        turn(replica, chance)
        assert is_a_state_that_was(replica)
        assert replica.store.digests == recomputed(replica.store)
    replica.settle()
    while replica.watch.cursor < history.revision:
        replica.lose_connection()
        replica.settle()
        for message in history.messages(max(1, replica.watch.cursor), chance, replica.hidden):
            replica.line(message)
    assert replica.raw() == {key: record.value for key, record in history.live.items()}
