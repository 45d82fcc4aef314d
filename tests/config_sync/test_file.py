"""The file provider on real files: what has changed is taken over, everything else stays."""

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import uvloop

from config_sync import file_watch
from config_sync.cache import Change, ConfigStore
from config_sync.file import FileProvider
from config_sync.file_watch import FileWatch
from config_sync.guard import Guard
from config_sync.settings import GuardSettings, YamlSettings
from tests.config_sync.test_file_trace import config_map
from tests.fakes.processes import PATIENCE


def document(**uris: str) -> str:
    """Write a file with these routes."""
    routes = "".join(f"- {{id: {id_}, uri: {uri}, upstream_id: u}}\n" for id_, uri in uris.items())
    return f"routes:\n{routes}#END\n"


class Running:
    """A provider, its store and what was heard of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, path: Path, guard: Guard | None = None) -> None:
        self.loop = loop
        self.store = ConfigStore(guard=guard)
        self.changes: list[tuple[str, bool]] = []
        self.progress: list[int] = []
        self.store.subscribe(self._heard)
        self.provider = FileProvider(YamlSettings(path=str(path)), self.store, loop, self.progress.append)
        self.provider.start()

    def _heard(self, changes: Sequence[Change]) -> None:
        self.changes += [(change.id, change.new is not None) for change in changes]

    def uris(self) -> dict[str, str]:
        """Return what is live."""
        return {id_: self.store.value("routes", id_).uri for id_ in self.store.caches["routes"].items}  # type: ignore[union-attr]

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Run the loop until something holds."""
        until = self.loop.time() + PATIENCE
        while not holds():
            assert self.loop.time() < until, f"{what}; {self.uris()}, {self.provider.state()}"
            self.loop.run_until_complete(asyncio.sleep(0.002))

    def until_live(self, **uris: str) -> None:
        """Run the loop until these routes are live."""
        self.until(lambda: self.uris() == uris and self.provider.state().stage == "watching", f"{uris} live")

    def until_stage(self, stage: str) -> str:
        """Run the loop until the provider is at a stage; returns its error."""
        self.until(lambda: self.provider.state().stage == stage, stage)
        return self.provider.state().last_error


Run = Callable[..., Running]


@pytest.fixture(params=["inotify", "polling"])
def notice(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what changes are noticed; each must do alone, and without waiting for the other."""
    if request.param == "inotify":
        monkeypatch.setattr(file_watch, "POLL_SECONDS", 60.0)
        return
    monkeypatch.setattr(file_watch, "POLL_SECONDS", 0.02)

    def no_inotify() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(file_watch, "INotify", no_inotify)


@pytest.fixture
def run() -> Iterator[Run]:
    loop = uvloop.new_event_loop()
    running: list[Running] = []

    def start(path: Path, guard: Guard | None = None) -> Running:
        running.append(Running(loop, path, guard))
        return running[-1]

    yield start
    for one in running:
        one.provider.stop()
    for one in running:
        one.provider._watch.join(PATIENCE)
        assert not one.provider._watch._thread.is_alive()
    loop.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    directory = tmp_path / "conf"
    directory.mkdir()
    return directory / "apisix.yaml"


def test_only_what_has_changed_changes(path: Path, run: Run, notice: None) -> None:
    path.write_text(document(a="/a", b="/b", c="/c"))
    live = run(path)
    live.until_live(a="/a", b="/b", c="/c")
    items = dict(live.store.caches["routes"].items)
    live.changes.clear()
    path.write_text("# other lines, another order\n" + document(c="/c", a="/a", b="/changed", d="/d"))
    live.until_live(a="/a", b="/changed", c="/c", d="/d")
    assert live.changes == [("b", True), ("d", True)]
    after = live.store.caches["routes"].items
    assert after["a"] is items["a"]
    assert after["c"] is items["c"]
    assert live.progress == sorted(set(live.progress))
    assert live.progress[-1] == live.store.revision == live.store.changed == live.provider.state().revision


def test_a_file_renamed_over(path: Path, run: Run, notice: None) -> None:
    path.write_text(document(a="/a"))
    live = run(path)
    live.until_live(a="/a")
    for uri in ("/b", "/c"):
        other = path.with_name("other")
        other.write_text(document(a=uri))
        other.rename(path)
        live.until_live(a=uri)


def test_a_link_swapped_as_by_kubernetes(path: Path, run: Run, notice: None) -> None:
    config_map(path.parent, "..first", document(a="/a"))
    path.symlink_to("..data/apisix.yaml")
    live = run(path)
    live.until_live(a="/a")
    config_map(path.parent, "..second", document(a="/b"))
    shutil.rmtree(path.parent / "..first")
    live.until_live(a="/b")
    config_map(path.parent, "..third", document(a="/c"))
    live.until_live(a="/c")


def test_a_directory_that_vanishes_and_comes_back(path: Path, run: Run, notice: None) -> None:
    path.write_text(document(a="/a"))
    live = run(path)
    live.until_live(a="/a")
    shutil.rmtree(path.parent)
    error = live.until_stage("refused")
    assert "No such file or directory; what was read before stays" in error
    assert live.uris() == {"a": "/a"}
    path.parent.mkdir()
    path.write_text(document(a="/b"))
    live.until_live(a="/b")
    path.parent.rename(path.parent.with_name("aside"))
    live.until_stage("refused")
    other = path.parent.with_name("other")
    other.mkdir()
    (other / path.name).write_text(document(a="/c"))
    other.rename(path.parent)
    live.until_live(a="/c")
    assert live.provider.state().last_error == ""


def test_a_bad_file_changes_nothing_and_says_where_it_is_bad(
    path: Path, run: Run, notice: None, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(document(a="/a"))
    live = run(path)
    live.until_live(a="/a")
    before = live.store.revision
    path.write_text("routes:\n- {id: b, uri: /b, upstream_id: u}\n- oops\n#END\n")
    error = live.until_stage("refused")
    assert error == f"{path}: line 3: routes[1]: must be an object; what was read before stays"
    assert error in caplog.messages
    assert live.uris() == {"a": "/a"}
    assert live.store.revision == live.provider.state().revision == before
    path.write_text(document(a="/b"))
    live.until_live(a="/b")


def test_a_bad_object_costs_only_itself(path: Path, run: Run) -> None:
    path.write_text(document(a="/a", b="/b"))
    live = run(path)
    live.until_live(a="/a", b="/b")
    path.write_text("routes:\n- {id: a, uri: 7, upstream_id: u}\n- {id: b, uri: /c, upstream_id: u}\n#END")
    live.until_live(a="/a", b="/c")
    assert list(live.store.rejected) == ["routes/a"]
    path.write_text(document(a="/d", b="/c"))
    live.until_live(a="/d", b="/c")
    assert not live.store.rejected


def test_a_file_that_is_not_there_yet_is_waited_for(path: Path, run: Run, notice: None) -> None:
    path.parent.rmdir()
    live = run(path)
    error = live.until_stage("refused")
    assert error == f"{path}: {path.parent}: No such file or directory; nothing is served before it can be read"
    assert not live.progress
    path.parent.mkdir()
    path.write_text(document(a="/a"))
    live.until_live(a="/a")


def test_an_emptied_file_with_its_last_line_removes_everything(path: Path, run: Run) -> None:
    path.write_text(document(a="/a"))
    live = run(path)
    live.until_live(a="/a")
    path.write_text("")
    live.until_stage("refused")
    path.write_text("#END\n")
    live.until_live()
    assert live.changes == [("a", True), ("a", False)]


def test_a_file_that_is_only_touched_changes_nothing_but_the_revision(path: Path, run: Run, notice: None) -> None:
    path.write_text(document(a="/a"))
    live = run(path)
    live.until_live(a="/a")
    live.changes.clear()
    item, changed = live.store.caches["routes"].items["a"], live.store.changed
    os.utime(path)
    live.until(lambda: len(live.progress) == 2, "read again")
    assert not live.changes
    assert live.store.caches["routes"].items["a"] is item
    assert live.store.changed == changed < live.store.revision


def test_one_born_later_agrees_with_one_that_saw_every_change(path: Path, run: Run) -> None:
    path.write_text(document(a="/a", b="/b"))
    old = run(path)
    old.until_live(a="/a", b="/b")
    path.write_text(document(a="/a", b="/c", c="/c"))
    old.until_live(a="/a", b="/c", c="/c")
    path.write_text(document(a="/a", b="/c"))
    old.until_live(a="/a", b="/c")
    young = run(path)
    young.until_live(a="/a", b="/c")
    assert young.store.digests == old.store.digests
    assert young.store.revision == old.store.revision


def test_what_would_remove_too_much_is_held_back_until_confirmed(path: Path, run: Run) -> None:
    confirmed = [0.0]
    time = iter(range(1, 1_000_000))
    guard = Guard(GuardSettings(min_routes=2), lambda: float(next(time)), lambda: confirmed[0])
    path.write_text(document(a="/a", b="/b", c="/c"))
    live = run(path, guard)
    live.until_live(a="/a", b="/b", c="/c")
    path.write_text(document(a="/x"))
    error = live.until_stage("held")
    assert error == f"{path}: would remove 2 of 3 routes at once: held back until it is confirmed"
    assert live.uris() == {"a": "/a", "b": "/b", "c": "/c"}
    assert len(live.progress) == 1
    confirmed[0] = 1e9
    live.until_live(a="/x")
    assert live.store.held is None


def test_a_reader_that_dies_is_followed_by_another(path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_watch, "POLL_SECONDS", 0.02)
    start = FileWatch._start_reader
    dead = [
        [sys.executable, "-c", "raise SystemExit(1)"],
        [sys.executable, "-c", "import os; os.write(1, b'\\0\\0\\1\\0half'); os.kill(os.getpid(), 9)"],
    ]

    def start_reader(watch: FileWatch, output: int) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(dead.pop(), stdout=output) if dead else start(watch, output)

    monkeypatch.setattr(FileWatch, "_start_reader", start_reader)
    path.write_text(document(a="/a"))
    run(path).until_live(a="/a")
    assert not dead


def test_many_pages_come_through_and_a_stop_in_their_middle_leaves_nothing_behind(path: Path, run: Run) -> None:
    routes = {f"r{at}": f"/{at}" for at in range(3000)}
    path.write_text(document(**routes))
    live = run(path)
    live.until_live(**routes)
    path.write_text(document(**{**routes, "r7": "/changed"}))
    live.until_stage("reading")
    live.provider.stop()
    live.provider._watch.join(PATIENCE)
    assert not live.provider._watch._thread.is_alive()
