"""The watch machine as scripts: what has happened in, commands out."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config_sync.cache import ConfigStore, Deletion, Entry, place_of
from config_sync.etcd.messages import Header, KeyValue, RangeAnswer, WatchError, WatchEvent, WatchLine, WatchResult
from config_sync.etcd.watch import (
    DEADLINE,
    POLL_GRACE,
    RELIST_SPREAD,
    TRANSITIONS,
    Apply,
    Authenticate,
    Command,
    Complete,
    Disconnect,
    Limits,
    OpenWatch,
    ReadPage,
    ReadRevision,
    Report,
    Stage,
    State,
    Trigger,
    UseNextEndpoint,
    Watch,
)

PREFIX = b"/apisix/"


class Script:
    """A machine and the versions of keys that were applied."""

    def __init__(self, has_credentials: bool = False) -> None:
        self.versions: dict[str, tuple[int, int]] = {}
        self.watch = Watch(PREFIX, Limits(30, 50), has_credentials, self.versions.get, lambda: 0.5)

    def watching(self, revision: int = 10) -> "Script":
        """Bring it to watch at a revision."""
        self.watch.start(0.0)
        self.watch.page_received(RangeAnswer(Header(1, 1, revision)), 0.0)
        self.watch.snapshot_taken(0.0)
        assert self.watch.line_received(created(revision), 0.0) == []
        assert self.watch.state is State.WATCHING
        return self


def kv(key: str, mod: int, create: int = 0, version: int = 1) -> KeyValue:
    return KeyValue(PREFIX + key.encode(), b"{}", mod, create or mod, version)


def created(revision: int) -> WatchLine:
    return WatchLine(WatchResult(Header(1, 1, revision), 1, created=True))


def events(*records: KeyValue | tuple[str, int], header: int = 999, fragment: bool = False) -> WatchLine:
    """A message; a pair is the deletion of a key at a revision."""
    found = []
    for record in records:
        if isinstance(record, KeyValue):
            found.append(WatchEvent(record))
        else:
            key, revision = record
            found.append(WatchEvent(KeyValue(PREFIX + key.encode(), mod_revision=revision), "DELETE"))
    return WatchLine(WatchResult(Header(1, 1, header), 1, events=found, fragment=fragment))


def error(message: str, code: int = 0) -> WatchLine:
    return WatchLine(error=WatchError(code, message))


def without_reports(commands: Sequence[Command]) -> list[Command]:
    return [command for command in commands if not isinstance(command, Report)]


def end_poll(watch: Watch) -> list[Command]:
    """Let a poll end as the server does."""
    watch.line_received(error(DEADLINE, 4), 1.0)
    return watch.stream_ended(1.0)


def take_list(watch: Watch, answer: RangeAnswer, now: float) -> list[Command]:
    """Answer with the last page of a list, and take the snapshot over."""
    return [*watch.page_received(answer, now), *watch.snapshot_taken(now)]


OPEN_10 = OpenWatch(10, 50)
GIVE_UP = [Disconnect(), UseNextEndpoint()]


def test_list_in_pages_at_one_revision_then_watch_from_there() -> None:
    watch = Script().watch
    assert watch.start(0.0) == [ReadPage(PREFIX, 0)]
    page = RangeAnswer(Header(1, 1, 10), [kv("routes/1", 5)], more=True, count=2)
    assert watch.page_received(page, 0.0) == [
        Stage([Entry("routes/1", b"{}", 5, 5, 1)], is_first=True),
        ReadPage(b"/apisix/routes/1\0", 10),
    ]
    last = RangeAnswer(Header(1, 1, 12), [kv("routes/2", 7)], count=1)
    assert watch.page_received(last, 0.0) == [Stage([Entry("routes/2", b"{}", 7, 7, 1)], is_first=False), Complete(10)]
    assert (watch.state, watch.cursor) == (State.APPLYING, 0)
    assert watch.connection_lost("an idle connection", 0.0) == []
    assert watch.snapshot_taken(0.0) == [OPEN_10]
    assert watch.cursor == 10


def test_events_move_the_cursor_and_headers_do_not() -> None:
    watch = Script().watching().watch
    assert watch.line_received(events(kv("routes/1", 11), header=5000), 1.0) == [
        Apply([Entry("routes/1", b"{}", 11, 11, 1)], 11)
    ]
    assert watch.cursor == 11
    assert watch.line_received(events(("routes/1", 12)), 1.0) == [Apply([Deletion("routes/1", 12)], 12)]


def test_what_is_not_newer_than_the_cursor_is_dropped() -> None:
    watch = Script().watching().watch
    assert watch.line_received(events(kv("routes/1", 10)), 1.0) == []
    assert watch.line_received(events(kv("routes/1", 9), kv("routes/2", 11)), 1.0) == [
        Apply([Entry("routes/2", b"{}", 11, 11, 1)], 11)
    ]


def test_fragments_are_applied_together() -> None:
    watch = Script().watching().watch
    assert watch.line_received(events(kv("routes/1", 11), fragment=True), 1.0) == []
    assert watch.cursor == 10
    (apply,) = watch.line_received(events(kv("routes/2", 11)), 1.0)
    assert isinstance(apply, Apply)
    assert [event.key for event in apply.events] == ["routes/1", "routes/2"]


def test_fragments_of_a_lost_stream_are_thrown_away() -> None:
    watch = Script().watching().watch
    watch.line_received(events(kv("routes/1", 11), fragment=True), 1.0)
    assert without_reports(watch.connection_lost("reset", 1.0)) == GIVE_UP
    assert watch.tick(2.0) == [OPEN_10]
    watch.line_received(created(20), 2.0)
    (apply,) = watch.line_received(events(kv("routes/2", 12)), 2.0)
    assert isinstance(apply, Apply)
    assert [event.key for event in apply.events] == ["routes/2"]


def test_progress_of_our_watch_moves_the_cursor() -> None:
    watch = Script().watching().watch
    assert watch.line_received(WatchLine(WatchResult(Header(1, 1, 30), 1)), 1.0) == [Apply([], 30)]
    assert watch.line_received(WatchLine(WatchResult(Header(1, 1, 40), -1)), 1.0) == []
    assert watch.cursor == 30


def test_progress_between_fragments_certifies_nothing_and_loses_nothing() -> None:
    watch = Script().watching().watch
    watch.line_received(events(kv("routes/1", 11), fragment=True), 1.0)
    assert watch.line_received(WatchLine(WatchResult(Header(1, 1, 30), 1)), 1.0) == []
    (apply,) = watch.line_received(events(kv("routes/2", 11)), 1.0)
    assert isinstance(apply, Apply)
    assert [event.key for event in apply.events] == ["routes/1", "routes/2"]


def test_the_end_of_a_poll_is_no_failure() -> None:
    watch = Script().watching().watch
    assert watch.line_received(error(DEADLINE, 4), 50.0) == []
    assert watch.stream_ended(50.0) == [OPEN_10]
    watch.line_received(created(10), 50.0)
    assert watch.state is State.WATCHING
    assert watch.failures == 0


def test_a_poll_whose_end_is_announced_but_does_not_come_is_given_up() -> None:
    watch = Script().watching().watch
    watch.line_received(error(DEADLINE, 4), 50.0)
    assert without_reports(watch.tick(55.0)) == GIVE_UP


@pytest.mark.parametrize("opened", [True, False])
def test_a_stream_that_ends_before_its_time_is_a_failure(opened: bool) -> None:
    watch = Script().watching().watch
    if not opened:
        end_poll(watch)
    assert without_reports(watch.stream_ended(1.0)) == GIVE_UP
    assert watch.state is State.WAITING


def test_fragments_of_a_poll_that_ended_are_thrown_away() -> None:
    watch = Script().watching().watch
    watch.line_received(events(kv("routes/1", 11), fragment=True), 1.0)
    assert end_poll(watch) == [OPEN_10]
    watch.line_received(created(20), 2.0)
    (apply,) = watch.line_received(events(kv("routes/2", 12)), 2.0)
    assert isinstance(apply, Apply)
    assert [event.key for event in apply.events] == ["routes/2"]


@pytest.mark.parametrize(("watch_timeout", "poll"), [(0.2, 1), (7.9, 7), (50, 50)])
def test_a_poll_is_whole_seconds_and_never_without_end(watch_timeout: float, poll: int) -> None:
    watch = Watch(PREFIX, Limits(30, watch_timeout), False, lambda _: None, lambda: 0.5)
    watch.start(0.0)
    assert take_list(watch, RangeAnswer(Header(1, 1, 10)), 0.0)[-1] == OpenWatch(10, poll)
    watch.line_received(created(10), 0.0)
    assert watch.wake_at == poll + POLL_GRACE


@pytest.mark.parametrize("message", ["etcdserver: no leader", "transport is closing", "error reading from server: EOF"])
def test_a_member_that_fails_is_left_with_the_same_cursor(message: str) -> None:
    watch = Script().watching().watch
    assert without_reports(watch.line_received(error(message, 14), 1.0)) == GIVE_UP
    assert watch.state is State.WAITING
    assert watch.wake_at == pytest.approx(1.05)
    assert watch.tick(1.04) == []
    assert watch.tick(1.06) == [OPEN_10]


def test_delays_grow_to_a_second_and_begin_anew_after_a_success() -> None:
    watch = Script().watching().watch
    delays = []
    for _ in range(8):
        now = watch.wake_at or 0.0
        watch.tick(now)
        watch.connection_lost("refused", now)
        assert watch.wake_at is not None
        delays.append(round(watch.wake_at - now, 3))
    assert delays == sorted(delays)
    assert delays[-1] == 1.0
    watch.tick(watch.wake_at or 0.0)
    watch.line_received(created(10), 0.0)
    watch.connection_lost("reset", 0.0)
    assert watch.wake_at == pytest.approx(0.05)


@pytest.mark.parametrize(("state", "waits"), [(State.LISTING, 30.0), (State.OPENING, 5.0), (State.WATCHING, 55.0)])
def test_silence_is_bounded_in_every_state(state: State, waits: float) -> None:
    script = Script()
    watch = script.watch
    if state is State.WATCHING:
        script.watching()
    else:
        watch.start(0.0)
        if state is State.OPENING:
            take_list(watch, RangeAnswer(Header(1, 1, 10)), 0.0)
    assert watch.state is state
    assert watch.tick(waits - 0.1) == []
    assert without_reports(watch.tick(waits)) == GIVE_UP


def test_compaction_beyond_the_cursor_lists_again_at_a_time_of_its_own() -> None:
    watch = Script().watching().watch
    canceled = WatchLine(WatchResult(Header(1), 1, canceled=True, compact_revision=44))
    assert without_reports(watch.line_received(canceled, 1.0)) == [Disconnect()]
    assert watch.wake_at == 1.0 + RELIST_SPREAD * 0.5
    assert watch.failures == 0
    assert watch.tick(watch.wake_at) == [ReadPage(PREFIX, 0)]
    assert take_list(watch, RangeAnswer(Header(1, 1, 60)), 2.0) == [
        Stage([], is_first=True),
        Complete(60),
        OpenWatch(60, 50),
    ]


def test_compaction_while_paging_begins_the_list_again() -> None:
    watch = Script().watch
    watch.start(0.0)
    watch.page_received(RangeAnswer(Header(1, 1, 10), [kv("routes/gone", 5)], more=True), 0.0)
    assert watch.call_failed(11, "mvcc: required revision has been compacted", 0.0) == [ReadPage(PREFIX, 0)]
    assert take_list(watch, RangeAnswer(Header(1, 1, 20)), 0.0) == [
        Stage([], is_first=True),
        Complete(20),
        OpenWatch(20, 50),
    ]


def test_canceled_is_looked_at_before_created() -> None:
    watch = Script().watching().watch
    end_poll(watch)
    both = WatchLine(WatchResult(Header(1, 1, 10), -1, created=True, canceled=True, cancel_reason="range is empty"))
    assert without_reports(watch.line_received(both, 1.0)) == GIVE_UP


def behind_the_cursor() -> Watch:
    """A machine at 10 that was answered by a member at 3, and has asked for the store's revision."""
    watch = Script().watching(10).watch
    end_poll(watch)
    assert without_reports(watch.line_received(created(3), 1.0)) == GIVE_UP
    assert watch.tick(5.0) == [ReadRevision()]
    assert watch.state is State.COMPARING
    return watch


@pytest.mark.parametrize("revision", [10, 12])
def test_a_member_that_lags_is_left_and_nothing_is_listed(revision: int) -> None:
    assert behind_the_cursor().revision_received(RangeAnswer(Header(1, 1, revision)), 5.0) == [OPEN_10]


def test_a_store_that_went_back_is_listed() -> None:
    watch = behind_the_cursor()
    assert watch.revision_received(RangeAnswer(Header(1, 1, 3)), 5.0) == [ReadPage(PREFIX, 0)]
    commands = take_list(watch, RangeAnswer(Header(1, 1, 3)), 5.0)
    assert without_reports(commands) == [Stage([], is_first=True), Complete(3), OpenWatch(3, 50)]
    assert any(isinstance(command, Report) and command.error for command in commands)


def test_another_cluster_found_while_comparing_is_listed() -> None:
    assert behind_the_cursor().revision_received(RangeAnswer(Header(2, 1, 99)), 5.0) == [ReadPage(PREFIX, 0)]


def test_a_comparison_that_fails_is_tried_again() -> None:
    watch = behind_the_cursor()
    assert without_reports(watch.connection_lost("reset", 5.0)) == GIVE_UP
    assert watch.tick(9.0) == [ReadRevision()]
    assert without_reports(watch.tick(39.0)) == GIVE_UP


def test_a_list_that_changes_cluster_between_pages_begins_again() -> None:
    watch = Script().watching().watch
    watch.line_received(events(kv("routes/1", 11, 5, 1)), 1.0)
    canceled = WatchLine(WatchResult(Header(1), 1, canceled=True, compact_revision=44))
    watch.line_received(canceled, 1.0)
    watch.tick(5.0)
    watch.page_received(RangeAnswer(Header(1, 1, 50), [kv("routes/old", 5)], more=True), 5.0)
    other = RangeAnswer(Header(2, 1, 70), [kv("routes/new", 6)])
    assert without_reports(watch.page_received(other, 5.0)) == [ReadPage(PREFIX, 0)]
    stage = without_reports(watch.page_received(other, 5.0))[0]
    assert isinstance(stage, Stage)
    assert stage.is_first
    assert [entry.key for entry in stage.entries] == ["routes/new"]


def test_a_compaction_error_without_a_page_does_not_spin() -> None:
    watch = Script().watch
    watch.start(0.0)
    assert without_reports(watch.call_failed(11, "mvcc: required revision is a future revision", 0.0)) == GIVE_UP


def test_a_second_created_on_one_stream_is_not_believed() -> None:
    watch = Script().watching().watch
    assert without_reports(watch.line_received(created(10), 1.0)) == GIVE_UP


def test_a_line_that_says_nothing_is_a_failure() -> None:
    watch = Script().watching().watch
    assert without_reports(watch.line_received(WatchLine(), 1.0)) == GIVE_UP
    assert watch.line_received(events(kv("routes/1", 11)), 1.0) == []  # of a stream that was given up


def test_another_cluster_lists_again() -> None:
    watch = Script().watching().watch
    line = WatchLine(WatchResult(Header(2, 1, 11), 1, events=[WatchEvent(kv("routes/1", 11))]))
    assert without_reports(watch.line_received(line, 1.0)) == [Disconnect(), ReadPage(PREFIX, 0)]
    commands = take_list(watch, RangeAnswer(Header(2, 1, 4)), 1.0)
    assert without_reports(commands) == [Stage([], is_first=True), Complete(4), OpenWatch(4, 50)]


def test_a_version_that_jumps_means_lost_events() -> None:
    script = Script().watching()
    script.versions["routes/1"] = (5, 1)
    lost = script.watch.line_received(events(kv("routes/1", 12, create=5, version=3)), 1.0)
    assert without_reports(lost) == [Disconnect(), ReadPage(PREFIX, 0)]


def test_versions_within_one_message_and_after_a_new_creation_are_no_jump() -> None:
    script = Script().watching()
    script.versions["routes/1"] = (5, 1)
    line = events(kv("routes/1", 11, 5, 2), kv("routes/1", 12, 5, 3), ("routes/1", 13), kv("routes/1", 14, 14, 1))
    (apply,) = script.watch.line_received(line, 1.0)
    assert isinstance(apply, Apply)
    assert len(apply.events) == 4


def test_token_first_when_there_are_credentials() -> None:
    watch = Script(has_credentials=True).watch
    assert watch.start(0.0) == [Authenticate()]
    assert watch.token_received(0.0) == [ReadPage(PREFIX, 0)]


@pytest.mark.parametrize(
    "line",
    [
        error("etcdserver: invalid auth token", 16),
        WatchLine(
            WatchResult(Header(1), 1, created=True, canceled=True, cancel_reason="etcdserver: permission denied")
        ),
        WatchLine(
            WatchResult(Header(1), -1, created=True, canceled=True, cancel_reason="etcdserver: user name is empty")
        ),
    ],
)
def test_a_refused_token_is_renewed_once(line: WatchLine) -> None:
    watch = Script(has_credentials=True).watch
    watch.start(0.0)
    watch.token_received(0.0)
    take_list(watch, RangeAnswer(Header(1, 1, 10)), 0.0)
    assert watch.line_received(line, 0.0) == [Disconnect(), Authenticate()]
    assert watch.token_received(0.0) == [OPEN_10]
    assert without_reports(watch.line_received(line, 0.0)) == GIVE_UP
    assert watch.wake_at == pytest.approx(0.5)


def test_after_a_second_refusal_the_next_member_is_asked_with_a_new_token() -> None:
    watch = Script(has_credentials=True).watch
    watch.start(0.0)
    watch.token_received(0.0)
    now = 0.0
    for delay in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0):
        assert watch.call_failed(7, "etcdserver: permission denied", now) == [Disconnect(), Authenticate()]
        assert watch.token_received(now) == [ReadPage(PREFIX, 0)]
        assert without_reports(watch.call_failed(7, "etcdserver: permission denied", now)) == GIVE_UP
        assert watch.wake_at == pytest.approx(now + delay)
        now += delay
        assert watch.tick(now) == [Authenticate()]
        assert watch.token_received(now) == [ReadPage(PREFIX, 0)]
    take_list(watch, RangeAnswer(Header(1, 1, 10)), now)
    assert watch.line_received(error("etcdserver: invalid auth token", 16), now) == [Disconnect(), Authenticate()]
    assert without_reports(watch.call_failed(3, "invalid user ID or password", now)) == GIVE_UP
    assert watch.wake_at == pytest.approx(now + 0.5)


@pytest.mark.parametrize(
    ("code", "message", "delay"),
    [
        (3, "etcdserver: authentication failed, invalid user ID or password", 0.5),
        (14, "etcdserver: request timed out", 0.05),
    ],
)
def test_a_wrong_password_is_not_tried_again_at_once(code: int, message: str, delay: float) -> None:
    watch = Script(has_credentials=True).watch
    watch.start(0.0)
    assert without_reports(watch.call_failed(code, message, 0.0)) == GIVE_UP
    assert watch.wake_at == pytest.approx(delay)
    assert watch.tick(31.0) == [Authenticate()]


def test_credentials_that_etcd_does_not_ask_for_are_left_out() -> None:
    watch = Script(has_credentials=True).watch
    watch.start(0.0)
    commands = watch.call_failed(9, "etcdserver: authentication is not enabled", 0.0)
    assert without_reports(commands) == [ReadPage(PREFIX, 0)]


def test_without_credentials_a_refusal_is_no_reason_to_authenticate() -> None:
    watch = Script().watch
    watch.start(0.0)
    assert without_reports(watch.call_failed(3, "etcdserver: user name is empty", 0.0)) == GIVE_UP
    assert watch.wake_at == pytest.approx(0.5)


def test_every_state_is_in_the_table_and_can_be_left() -> None:
    assert set(TRANSITIONS) == set(State)
    reached = {state for moves in TRANSITIONS.values() for state in moves.values()}
    assert reached == set(State) - {State.IDLE}
    assert all(Trigger.WAIT in moves for state, moves in TRANSITIONS.items() if state is not State.IDLE)


class History:
    """A store that remembers every event, as etcd does until it is compacted."""

    def __init__(self, chance: random.Random, size: int) -> None:
        self.log: list[WatchEvent] = []
        self.live: dict[bytes, KeyValue] = {}
        revision = 1
        for _ in range(size):
            revision += 1
            for id_ in chance.sample("abcd", chance.randint(1, 2)):
                key = PREFIX + b"plugin_configs/" + id_.encode()
                before = self.live.get(key)
                if before is not None and chance.random() < 0.3:
                    del self.live[key]
                    self.log.append(WatchEvent(KeyValue(key, mod_revision=revision), "DELETE"))
                    continue
                create, version = (before.create_revision, before.version + 1) if before else (revision, 1)
                self.live[key] = KeyValue(key, b"%d" % revision, revision, create, version)
                self.log.append(WatchEvent(self.live[key]))
        self.revision = revision

    def since(self, revision: int) -> list[WatchEvent]:
        return [event for event in self.log if event.kv.mod_revision >= revision]


@settings(max_examples=200)
@given(st.randoms(use_true_random=False), st.integers(1, 25))
def test_any_cut_and_replay_ends_in_the_state_of_a_snapshot(chance: random.Random, size: int) -> None:
    history = History(chance, size)
    store = ConfigStore()

    def known(key: str) -> tuple[int, int] | None:
        directory, id_ = place_of(key) or ("", "")
        item = store.caches[directory].items.get(id_)
        return (item.create_revision, item.version) if item else None

    watch = Watch(PREFIX, Limits(30, 50), False, known, chance.random)

    now = 0.0
    incoming = store.receive()

    def carry_out(commands: Sequence[Command]) -> None:
        nonlocal incoming
        for command in commands:
            if isinstance(command, Apply):
                store.apply(command.events, command.revision)
            elif isinstance(command, Stage):
                incoming = store.receive() if command.is_first else incoming
                list(incoming.add(command.entries))
            elif isinstance(command, Complete):
                list(incoming.complete(command.revision))
                carry_out(watch.snapshot_taken(now))

    carry_out(watch.start(0.0))
    carry_out(watch.page_received(RangeAnswer(Header(1, 1, 1)), 0.0))
    while watch.cursor < history.revision:
        carry_out(watch.line_received(created(history.revision), now))
        waiting = history.since(max(1, watch.cursor))
        while waiting:
            count = chance.randint(1, len(waiting))
            ends_inside = count < len(waiting) and waiting[count].kv.mod_revision == waiting[count - 1].kv.mod_revision
            message = WatchResult(Header(1, 1, history.revision), 1, events=waiting[:count], fragment=ends_inside)
            carry_out(watch.line_received(WatchLine(message), now))
            waiting = waiting[count:]
            if chance.random() < 0.3:
                break
        now += 100.0
        carry_out(watch.connection_lost("cut", now))
        now += 100.0
        carry_out(watch.tick(now))
    live = {key[len(PREFIX) + len("plugin_configs/") :].decode(): record.value for key, record in history.live.items()}
    assert {id_: item.raw for id_, item in store.caches["plugin_configs"].items.items()} == live
