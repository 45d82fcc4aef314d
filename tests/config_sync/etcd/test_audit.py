"""The audit: what it reads, what it takes for a loss, and what it must not."""

import random
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config_sync.etcd.audit import (
    PATIENCE,
    RETRY,
    Audit,
    AuditCommand,
    AuditState,
    Live,
    ReadKeys,
    ReadNewer,
    SuspectLoss,
    SuspectMember,
    Verified,
)
from config_sync.etcd.messages import OUT_OF_RANGE, Header, KeyValue, RangeAnswer
from config_sync.records import place_of

PREFIX = b"/apisix/"
INTERVAL = 40.0
DEEP = 1000.0


class Scene:
    """A store of keys, what is live of it, and an audit between them."""

    def __init__(self, interval: float = INTERVAL, deep: float = 0.0, chosen: float = 0.5) -> None:
        self.etcd: dict[str, KeyValue] = {}
        self.live: dict[str, KeyValue] = {}
        self.revision = 1
        self.cursor = 1
        self.foreign: dict[str, int] | None = {}
        self.asked: list[ReadKeys | ReadNewer] = []
        self.past: dict[int, dict[str, KeyValue]] = {1: {}}  # etcd by revision
        self.audit = Audit(
            PREFIX,
            interval,
            deep,
            Live(
                lambda: self.cursor,
                lambda: sum(place_of(key) is not None for key in self.live),
                lambda: self.foreign,
                self.learn,
                self.is_equal,
            ),
            lambda: chosen,
        )

    def learn(self, foreign: dict[str, int]) -> None:
        self.foreign = foreign

    def is_equal(self, key: str, record: KeyValue, with_value: bool) -> bool:
        found = self.live.get(key)
        return (
            found is not None
            and found.mod_revision == record.mod_revision
            and (not with_value or found.value == record.value)
        )

    # what happens

    def write(self, key: str, value: bytes | None = b"{}", seen: bool = True) -> None:
        """Put or delete (None) a key in etcd; ``seen``: and the watch brings it."""
        self.revision += 1
        if value is None:
            self.etcd.pop(key, None)
        else:
            self.etcd[key] = KeyValue(PREFIX + key.encode(), value, self.revision, self.revision, 1)
        self.past[self.revision] = dict(self.etcd)
        if seen:
            self.see(key)

    def see(self, key: str) -> list[AuditCommand]:
        """Apply what etcd has of a key, and move the cursor to where etcd stands."""
        if key in self.etcd:
            self.live[key] = self.etcd[key]
        else:
            self.live.pop(key, None)
        if place_of(key) is None and self.foreign is not None:
            self.foreign.pop(key, None)
            if key in self.etcd:
                self.foreign[key] = self.etcd[key].mod_revision
        self.cursor = self.revision
        return self.audit.events_applied([key], self.now)

    # the audit

    def state(self) -> AuditState:
        return self.audit.state

    @property
    def now(self) -> float:
        return self.clock

    clock = 0.0

    def due(self) -> list[AuditCommand]:
        """Let time pass until the audit has something to do."""
        assert self.audit.wake_at is not None
        self.clock = self.audit.wake_at
        return self.audit.tick(self.clock)

    def answer(self, command: AuditCommand, limit: int = 1000) -> list[AuditCommand]:
        """Answer a call as etcd does."""
        assert isinstance(command, ReadKeys | ReadNewer)
        self.asked.append(command)
        header = Header(1, 1, self.revision, 2)
        if isinstance(command, ReadNewer):
            newer = [record for record in self.etcd.values() if record.mod_revision >= command.min_mod_revision]
            return self.audit.newer_received(RangeAnswer(header, newer[:1], len(newer) > 1, len(self.etcd)), self.now)
        state = sorted(self.past[command.revision].items())
        state = [(key, record) for key, record in state if PREFIX + key.encode() >= command.key]
        found = [record for _, record in state if record.mod_revision >= command.min_mod_revision]
        if not command.with_values:
            found = [KeyValue(one.key, b"", one.mod_revision, one.create_revision, one.version) for one in found]
        page = RangeAnswer(header, found[:limit], len(found) > limit, len(state))
        return self.audit.page_received(page, self.now)

    def whole(self, limit: int = 1000) -> list[AuditCommand]:
        """Let one audit happen, without anything in between; returns what it finds."""
        commands = self.due()
        while commands and isinstance(commands[0], ReadKeys | ReadNewer):
            [command] = commands
            commands = self.answer(command, limit)
        return commands


@pytest.fixture
def scene() -> Scene:
    scene = Scene()
    for number in range(5):
        scene.write(f"routes/{number}")
    scene.write("gen_id")
    scene.audit.base = scene.cursor
    scene.audit.start(0.0)
    return scene


def found(scene: Scene, reason: str) -> None:
    """The audit finds a loss, and says which."""
    [verdict] = scene.whole()
    assert isinstance(verdict, SuspectLoss)
    assert reason in verdict.reason
    assert scene.state() is AuditState.RESTING
    assert scene.audit.wake_at is not None, "there is a next one"


def test_nothing_is_wrong(scene: Scene) -> None:
    scene.write("routes/7")
    scene.write("routes/0", None)
    assert scene.whole() == [Verified(scene.revision)]
    assert scene.asked == [
        ReadKeys(PREFIX, scene.cursor, 8, with_values=False),
        ReadNewer(scene.cursor + 1),
    ], "only what was written since the last verified revision is read"
    assert scene.audit.base == scene.cursor
    scene.asked.clear()
    assert scene.whole() == [Verified(scene.revision)]
    assert scene.asked[0] == ReadKeys(PREFIX, scene.cursor, scene.cursor + 1, with_values=False)


def test_an_update_that_did_not_come(scene: Scene) -> None:
    scene.write("routes/3", b'{"new": 1}', seen=False)
    scene.write("routes/4")
    found(scene, "routes/3 is not live as of revision 8")


def test_a_new_key_that_did_not_come(scene: Scene) -> None:
    scene.write("routes/new", seen=False)
    scene.write("routes/4")
    found(scene, "routes/new is not live")


def test_a_deletion_that_did_not_come(scene: Scene) -> None:
    scene.write("routes/3", None, seen=False)
    scene.write("routes/4")
    found(scene, "6 keys are known and 5 in etcd")


def test_a_key_that_is_not_there_any_more(scene: Scene) -> None:
    del scene.live["routes/3"]
    found(scene, "5 keys are known and 6 in etcd")


def test_a_loss_among_keys_that_are_no_resources(scene: Scene) -> None:
    scene.write("gen_id", b"2", seen=False)
    scene.write("routes/4")
    found(scene, "gen_id at revision 8 was not noticed")


def test_keys_touched_since_it_began_are_not_compared(scene: Scene) -> None:
    scene.write("routes/7")
    [read] = scene.due()
    scene.write("routes/7", b'{"again": 1}')
    scene.write("routes/0", None)
    [newer] = scene.answer(read)
    assert scene.answer(newer) == [], "the cursor has moved: that is fresh enough"
    assert scene.state() is AuditState.RESTING


def test_what_is_newer_may_come_in_a_while(scene: Scene) -> None:
    [read] = scene.due()
    scene.write("routes/9", seen=False)
    [newer] = scene.answer(read)
    assert scene.answer(newer) == []
    assert scene.state() is AuditState.AWAITING
    assert scene.see("routes/9") == []
    assert scene.state() is AuditState.RESTING
    assert scene.whole() == [Verified(scene.revision)]


def test_first_the_member_is_suspected_then_a_loss(scene: Scene) -> None:
    scene.write("routes/9", seen=False)
    begun = scene.clock
    [verdict] = until_verdict(scene)
    assert isinstance(verdict, SuspectMember)
    assert scene.clock == pytest.approx(begun + INTERVAL + PATIENCE)
    scene.audit.stop()
    scene.audit.start(scene.clock)  # the watch is open again, at another member
    reopened = scene.clock
    [verdict] = until_verdict(scene)
    assert isinstance(verdict, SuspectLoss)
    assert scene.clock == pytest.approx(reopened + RETRY + PATIENCE), "the second look comes soon"


def until_verdict(scene: Scene) -> list[AuditCommand]:
    return scene.whole() or scene.due()


def test_what_came_after_a_suspicion_clears_it(scene: Scene) -> None:
    scene.write("routes/9", seen=False)
    assert isinstance(until_verdict(scene)[0], SuspectMember)
    scene.audit.stop()
    scene.audit.start(scene.clock)
    scene.see("routes/9")
    assert scene.whole() == [Verified(scene.revision)]
    scene.write("routes/8", seen=False)
    assert isinstance(until_verdict(scene)[0], SuspectMember), "not a loss at once"


def test_pages(scene: Scene) -> None:
    for number in range(10):
        scene.write(f"routes/x{number}")
    assert scene.whole(limit=3) == [Verified(scene.revision)]
    keys = [command.key for command in scene.asked if isinstance(command, ReadKeys)]
    assert keys[0] == PREFIX
    assert keys[1] == b"/apisix/routes/x2\0"
    assert len(keys) == 4
    scene.write("routes/x9", b"2", seen=False)
    scene.write("routes/x0")
    [verdict] = scene.whole(limit=1)
    assert isinstance(verdict, SuspectLoss)


def test_keys_that_are_not_known_to_be_no_resources_are_learnt(scene: Scene) -> None:
    """As when the watch went on from a snapshot of somebody else's."""
    scene.foreign = None
    assert scene.whole() == [Verified(scene.revision)]
    assert scene.asked[0] == ReadKeys(PREFIX, scene.cursor, 0, with_values=False)
    assert scene.foreign == {"gen_id": 7}


def test_a_first_audit_reads_everything(scene: Scene) -> None:
    scene.audit.base = 0
    scene.live["routes/2"] = KeyValue(b"", b"", 2)
    found(scene, "routes/2 is not live")


# deep


def deep_scene() -> Scene:
    scene = Scene(deep=DEEP)
    for number in range(5):
        scene.write(f"routes/{number}")
    scene.audit.base = scene.cursor
    scene.audit.start(0.0)
    return scene


def test_a_deep_audit_compares_values_of_keys_that_seem_equal() -> None:
    """A store that was wiped and written anew may have the same keys at the same revisions."""
    scene = deep_scene()
    scene.live["routes/3"] = KeyValue(b"", b'{"other": 1}', scene.etcd["routes/3"].mod_revision, 5, 1)
    times = 0
    while not (commands := scene.whole()) or isinstance(commands[0], Verified):
        times += 1
        assert scene.clock < 1.3 * DEEP
    assert times > 15, "the ordinary ones do not see it"
    assert scene.clock >= 0.8 * DEEP
    [verdict] = commands
    assert isinstance(verdict, SuspectLoss)
    assert "routes/3" in verdict.reason


def test_deep_audits_come_again() -> None:
    scene = deep_scene()
    for _ in range(60):
        assert scene.whole() == [Verified(scene.revision)]
    deep = [command for command in scene.asked if isinstance(command, ReadKeys) and command.with_values]
    assert len(deep) == 2
    assert all(command.min_mod_revision == 0 for command in deep)


@pytest.mark.parametrize(("interval", "deep"), [(0.0, 0.0), (0.0, DEEP), (INTERVAL, 0.0)])
def test_intervals_of_zero_are_never(interval: float, deep: float) -> None:
    scene = Scene(interval, deep)
    scene.audit.start(0.0)
    if not interval and not deep:
        assert scene.audit.wake_at is None
        return
    assert scene.whole() == [Verified(scene.revision)]
    (read, _) = scene.asked
    assert isinstance(read, ReadKeys)
    assert read.with_values == bool(deep)


@pytest.mark.parametrize(("chosen", "after"), [(0.0, 32.0), (0.5, 40.0), (1.0, 48.0)])
def test_intervals_are_spread(chosen: float, after: float) -> None:
    scene = Scene(chosen=chosen)
    scene.audit.start(0.0)
    assert scene.audit.wake_at == pytest.approx(after)


# failures


def test_a_call_that_fails_is_tried_again_soon(scene: Scene) -> None:
    scene.write("routes/9")
    scene.due()
    before = scene.clock
    assert scene.audit.call_failed(14, "unavailable", before) == []
    assert scene.audit.wake_at == pytest.approx(before + RETRY)
    assert scene.whole() == [Verified(scene.revision)]


def test_a_compacted_revision_is_passed_over(scene: Scene) -> None:
    scene.due()
    assert scene.audit.call_failed(OUT_OF_RANGE, "mvcc: required revision has been compacted", scene.clock) == []
    assert scene.state() is AuditState.RESTING


def test_a_revision_that_etcd_has_not_come_to_is_a_loss(scene: Scene) -> None:
    scene.due()
    [verdict] = scene.audit.call_failed(
        OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision", scene.clock
    )
    assert isinstance(verdict, SuspectLoss)


@pytest.mark.parametrize("when", [AuditState.READING, AuditState.COMPARING, AuditState.AWAITING])
def test_what_comes_after_it_was_broken_off_is_ignored(scene: Scene, when: AuditState) -> None:
    scene.write("routes/9", seen=False)
    [read] = scene.due()
    if when is not AuditState.READING:
        [newer] = scene.answer(read)
        if when is AuditState.AWAITING:
            scene.answer(newer)
    assert scene.state() is when
    scene.audit.stop()
    assert scene.audit.wake_at is None
    answer = RangeAnswer(Header(1, 1, 99, 2), [], False, 0)
    assert scene.audit.page_received(answer, scene.clock) == []
    assert scene.audit.newer_received(answer, scene.clock) == []
    assert scene.audit.call_failed(14, "gone", scene.clock) == []
    assert scene.audit.events_applied(["routes/9"], scene.clock) == []
    assert scene.audit.tick(1e9) == []


# laws

KEYS = ["routes/1", "routes/2", "upstreams/1", "gen_id", "routes/"]


def turns(chance: random.Random, scene: Scene) -> Iterator[bool]:
    """Write, and let the watch bring it sooner or later; gives whether something is on its way."""
    late: list[str] = []
    while True:
        if late and chance.random() < 0.5:
            for key in late:
                scene.see(key)
            late.clear()
        key = chance.choice(KEYS)
        scene.write(key, None if key in scene.etcd and chance.random() < 0.3 else b"{}", seen=False)
        if not late and chance.random() < 0.5:
            scene.see(key)
        else:
            late.append(key)
        yield bool(late)


@settings(max_examples=150)
@given(st.randoms(use_true_random=False), st.integers(1, 25))
def test_while_the_watch_only_delays_nothing_is_taken_for_lost(chance: random.Random, count: int) -> None:
    scene = Scene()
    scene.audit.start(0.0)
    writing = turns(chance, scene)
    commands: list[AuditCommand] = []
    for _ in range(count):
        next(writing)
        if not commands and scene.state() is AuditState.RESTING:
            commands = scene.due()
        if commands and chance.random() < 0.7:
            commands = scene.answer(commands[0], limit=chance.randint(1, 3))
        if commands and isinstance(commands[0], Verified):
            assert scene.live == scene.etcd
            commands = []
        assert not commands or isinstance(commands[0], ReadKeys | ReadNewer), commands


@settings(max_examples=150)
@given(st.randoms(use_true_random=False), st.sampled_from(KEYS), st.sampled_from([b"{}", None]))
def test_any_single_loss_is_found_by_the_next_audit(chance: random.Random, lost: str, value: bytes | None) -> None:
    scene = Scene()
    for _ in range(chance.randint(0, 5)):
        scene.write(chance.choice(KEYS))
    scene.audit.base = scene.cursor
    scene.audit.start(0.0)
    if value is None:
        scene.write(lost)
    scene.write(lost, value, seen=False)
    for _ in range(chance.randint(1, 4)):
        scene.write(chance.choice([key for key in KEYS if key != lost]))
    [verdict] = scene.whole()
    assert isinstance(verdict, SuspectLoss)
