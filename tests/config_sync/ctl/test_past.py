"""Watch, history and rollback against a real etcd."""

import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.config_sync.ctl.conftest import Tool
from tests.fakes.processes import PATIENCE, Etcd

ROUTE = {"uri": "/a", "upstream_id": "u"}


@pytest.fixture
def changed(etcd: Etcd) -> Etcd:
    """A store with a route that was created, changed, deleted and created again, at revisions 2 to 5."""
    etcd.put("routes/1", ROUTE)
    etcd.put("routes/1", {**ROUTE, "uri": "/b"})
    etcd.delete("routes/1")
    etcd.put("routes/1", {**ROUTE, "uri": "/c"})
    return etcd


def uri_of(etcd: Etcd, tool: Tool) -> str:
    exported = tool.run("export").stdout
    return next(line.split()[-1] for line in exported.splitlines() if "uri:" in line)


def test_history_from_the_beginning(tool: Tool, changed: Etcd) -> None:
    told = tool.run("history", "routes/1")
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines() == [
        "2  create  routes/1",
        "3  put     routes/1  version 2  $.uri",
        "4  delete  routes/1",
        "5  create  routes/1",
    ]
    assert tool.run("history", "/apisix/routes/1").stdout == told.stdout
    assert '"uri": "/b"' in tool.run("history", "routes/1", "--values").stdout


def test_history_of_a_key_that_is_gone(tool: Tool, changed: Etcd) -> None:
    changed.delete("routes/1")
    assert tool.run("history", "routes/1").stdout.splitlines()[-1] == "6  delete  routes/1"
    unknown = tool.run("history", "routes/2")
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "routes/2: etcd knows nothing of it: it was never written" in unknown.stderr


@pytest.mark.parametrize(("compacted", "first"), [(3, "3  put"), (4, "5  create")])
def test_history_after_a_compaction(tool: Tool, changed: Etcd, compacted: int, first: str) -> None:
    changed.compact(compacted)
    told = tool.run("history", "routes/1")
    assert told.returncode == 0, told.stderr
    assert f"what is known begins at revision {compacted}\n" in told.stderr
    assert told.stdout.startswith(first)
    assert told.stdout.splitlines()[-1] == "5  create  routes/1"


def test_rollback(tool: Tool, changed: Etcd) -> None:
    dry = tool.run("rollback", "routes/1@3", "--dry-run")
    assert (dry.returncode, dry.stdout.splitlines()[0]) == (0, "~ routes/1  $.uri")
    assert uri_of(changed, tool) == "/c"
    done = tool.run("rollback", "routes/1@3")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "routes/1 is what it was at revision 3, at revision 6"
    assert uri_of(changed, tool) == "/b"
    assert tool.run("rollback", "routes/1@3").stdout == "routes/1 is what it was at revision 3\n"


def test_rollback_of_a_key_that_is_gone(tool: Tool, changed: Etcd) -> None:
    changed.delete("routes/1")
    assert tool.run("rollback", "routes/1@5").returncode == 0
    assert uri_of(changed, tool) == "/c"


def test_a_rollback_that_cannot_be(tool: Tool, changed: Etcd) -> None:
    for key, reason in {
        "routes/1@4": "was not there at revision 4",
        "routes/1@99": "not come to this revision yet",
        "routes/1": "must be KEY@REVISION",
        "routes/1@x": "must be KEY@REVISION",
    }.items():
        refused = tool.run("rollback", key)
        assert refused.returncode == 2
        assert reason in refused.stderr


def test_rollback_beyond_a_compaction_says_what_is_kept(tool: Tool, changed: Etcd) -> None:
    changed.compact(5)
    refused = tool.run("rollback", "routes/1@3")
    assert refused.returncode == 2
    assert "this revision is gone; revisions from 5 on are kept" in refused.stderr


def test_rollback_to_what_was_not_valid(tool: Tool, etcd: Etcd) -> None:
    etcd.put("routes/1", {**ROUTE, "uri": 5})
    etcd.put("routes/1", ROUTE)
    refused = tool.run("rollback", "routes/1@2")
    assert refused.returncode == 2
    assert "error: routes/1: $.uri: " in refused.stderr
    assert tool.run("rollback", "routes/1@2", "--no-validate").returncode == 0


class Output(NamedTuple):
    """What reads the next line of the result, and of all else that is said."""

    line: Callable[[], str]
    note: Callable[[], str]


@contextmanager
def watching(tool: Tool, *arguments: str) -> Iterator[Output]:
    """Run a watch. It ends when interrupted, and that is no failure."""
    process = subprocess.Popen(
        tool.command("watch", *arguments),
        cwd=tool.directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert "watching /apisix/" in process.stderr.readline()
        yield Output(process.stdout.readline, process.stderr.readline)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        process.stderr.close()


def test_watch_from_a_revision_on(tool: Tool, changed: Etcd) -> None:
    with watching(tool, "--from", "3") as told:
        assert told.line() == "3  put     routes/1  version 2  $.uri\n"
        assert told.line() == "4  delete  routes/1\n"
        assert told.line() == "5  create  routes/1\n"
        changed.put("routes/1", {**ROUTE, "uri": "/d"})
        assert told.line() == "6  put     routes/1  version 2  $.uri\n"


def test_watch_as_json_from_now_on(tool: Tool, changed: Etcd) -> None:
    with watching(tool, "--json") as told:
        changed.put("routes/1", ROUTE)
        changed.put("routes/2", b"{")
        changed.delete("routes/2")
        assert [json.loads(told.line()) for _ in range(3)] == [
            put("routes/1", 6, create_revision=5, version=2, value=ROUTE),
            put("routes/2", 7, create_revision=7, version=1, base64="ew=="),
            {"revision": 8, "type": "delete", "key": "routes/2"},
        ]


def put(key: str, revision: int, **fields: Any) -> dict[str, Any]:
    return {"revision": revision, "type": "put", "key": key, **fields}


def test_a_watch_survives_etcd_and_a_compaction(tool: Tool, changed: Etcd) -> None:
    with watching(tool) as told:
        changed.put("routes/1", ROUTE)
        assert told.line().startswith("6  put")
        changed.kill()
        changed.start()
        changed.put("routes/2", ROUTE)
        assert told.line() == "7  create  routes/2\n"
    changed.compact(7)
    with watching(tool, "--from", "2") as told:
        changed.put("routes/3", ROUTE)
        assert told.line() == "8  create  routes/3\n"


def test_a_watch_follows_a_store_that_was_wiped(tool: Tool, changed: Etcd, tmp_path: Path) -> None:
    with watching(tool) as told:
        changed.put("routes/1", ROUTE)
        assert told.line().startswith("6  put")
        changed.kill()
        shutil.rmtree(tmp_path / "etcd")
        changed.start()
        while "below 6: was it restored?" not in (note := told.note()):
            assert note, "the watch has ended"
        changed.put("routes/2", ROUTE)
        assert told.line() == "2  create  routes/2\n"
