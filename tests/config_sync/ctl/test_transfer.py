"""Import, export, diff and validate against a real etcd."""

import base64
import json
from pathlib import Path
from typing import Any

from tests.config_sync.ctl.conftest import Tool
from tests.fakes.processes import Etcd, free_port

UPSTREAM = {"nodes": {"127.0.0.1:80": 1}}


def route(number: int, uri: str = "") -> dict[str, Any]:
    return {"id": str(number), "uri": uri or f"/{number}", "upstream_id": "u"}


def file_of(**sections: Any) -> str:
    return json.dumps(sections)


def lines(text: str) -> list[str]:
    return text.splitlines()


def keys_of(etcd: Etcd) -> int:
    return int(etcd.call("kv/range", {"key": "AA==", "range_end": "AA==", "count_only": True}).get("count", 0))


def test_only_what_differs_is_written_and_only_pruned_what_the_file_has_not(tool: Tool, etcd: Etcd) -> None:
    file = file_of(upstreams=[{"id": "u", **UPSTREAM}], routes=[route(1), route(2)])
    first = tool.run("import", "-", text=file)
    assert (first.returncode, first.stdout) == (0, "3 added, 0 changed, 0 equal, at revision 2\n")
    again = tool.run("import", "-", text=file)
    assert (again.returncode, again.stdout) == (0, "0 added, 0 changed, 3 equal\n")
    etcd.put("routes/1", route(1, uri="/other"))
    etcd.put("routes/3", route(3))
    difference = tool.run("diff", "-", text=file)
    assert difference.returncode == 1
    assert lines(difference.stdout) == [
        "~ routes/1  $.uri",
        "- routes/3",
        "0 added, 1 changed, 1 deleted, 2 equal",
    ]
    kept = tool.run("import", "-", text=file)
    assert kept.stdout == "0 added, 1 changed, 2 equal, at revision 5\n"
    pruned = tool.run("import", "-", "--prune", text=file)
    assert pruned.stdout == "- routes/3\n0 added, 0 changed, 1 deleted, 3 equal, at revision 6\n"
    assert tool.run("diff", "-", text=file).returncode == 0


def test_pruning_leaves_alone_what_is_no_resource(tool: Tool, etcd: Etcd) -> None:
    for key in ("routes/", "gen_id", "data_plane/server_info/x", "routes/1"):
        etcd.put(key, b"init_dir")
    tool.run("import", "-", "--prune", text=file_of(routes=[]))
    assert keys_of(etcd) == 3


def test_a_dry_run_writes_nothing(tool: Tool, etcd: Etcd) -> None:
    etcd.put("routes/9", route(9))
    dry = tool.run("import", "-", "--prune", "--dry-run", text=file_of(routes=[route(1)]))
    assert dry.returncode == 0
    assert lines(dry.stdout) == ["+ routes/1", "- routes/9", "dry run: 1 added, 0 changed, 1 deleted, 0 equal"]
    assert keys_of(etcd) == 1


def test_nothing_is_written_when_something_is_not_valid_unless_asked_for(tool: Tool, etcd: Etcd) -> None:
    file = file_of(routes=[route(1), {"id": "2", "uri": "/2", "priority": "high", "upstream_id": "u"}])
    refused = tool.run("import", "-", text=file)
    assert refused.returncode == 2
    assert "error: routes/2: $.priority: " in refused.stderr
    assert "nothing is written" in refused.stderr
    assert keys_of(etcd) == 0
    assert tool.run("import", "-", "--no-validate", text=file).returncode == 0
    assert keys_of(etcd) == 2


def test_ten_thousand_objects_go_there_and_back(tool: Tool, etcd: Etcd, tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text(file_of(routes=[{**route(at), "desc": "x" * 200} for at in range(10_000)]))
    imported = tool.run("import", "in.json")
    assert imported.stdout.startswith("10000 added, 0 changed, 0 equal"), imported.stderr
    exported = tool.run("export", "out.yaml")
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "out.yaml").stat().st_mode & 0o077 == 0  # it may hold secrets
    same = tool.run("diff", "out.yaml")
    assert (same.returncode, same.stdout) == (0, "0 added, 0 changed, 0 deleted, 10000 equal\n")


def test_an_export_names_what_it_has_to_leave_out(tool: Tool, etcd: Etcd) -> None:
    etcd.put("routes/1", route(1))
    etcd.put("routes/2", b"{")
    etcd.put("routes/3", b"[]")
    key = base64.b64encode(b"/apisix/routes/\xff").decode()
    etcd.call("kv/put", {"key": key, "value": base64.b64encode(json.dumps(route(4)).encode()).decode()})
    exported = tool.run("export")
    assert exported.returncode == 2
    assert "routes/2, routes/3, routes/\\udcff: cannot stand in a file" in exported.stderr
    assert lines(exported.stdout)[-1] == "#END"
    assert "uri: /1" in exported.stdout
    assert "- routes/\\udcff" in lines(tool.run("diff", "-", text=file_of(routes=[route(1)])).stdout)


def test_a_value_that_etcd_does_not_take_is_named_with_a_way_out(tool: Tool, etcd: Etcd) -> None:
    file = file_of(upstreams=[{"id": "u", **UPSTREAM}], routes=[{**route(1), "labels": {"a": "x" * 2_000_000}}])
    refused = tool.run("import", "-", "--no-validate", text=file)
    assert refused.returncode == 2
    assert "request is too large" in refused.stderr
    assert "routes/1" in refused.stderr
    assert "1 of 2 changes are written" in refused.stderr


def test_validation_needs_no_etcd(tool: Tool) -> None:
    tool.url = f"http://127.0.0.1:{free_port()}"
    good = tool.run("validate", "-", text=file_of(upstreams=[{"id": "u", **UPSTREAM}], routes=[route(1)]))
    assert (good.returncode, good.stdout, good.stderr) == (0, "-: 2 objects, 0 not valid\n", "")
    bad = tool.run("validate", "-", text=file_of(routes=[{"id": "1", "uri": 5, "upstream_id": "u"}, route(2)]))
    assert (bad.returncode, bad.stdout) == (1, "-: 2 objects, 1 not valid\n")
    assert "error: routes/1: $.uri: " in bad.stderr
    assert "warning: routes/2: $.upstream_id: upstreams/u is not there" in bad.stderr


def test_a_file_that_cannot_be_used_is_named(tool: Tool, tmp_path: Path) -> None:
    missing = tool.run("diff", "missing.yaml")
    assert (missing.returncode, missing.stderr) == (
        2,
        "propylon ctl: missing.yaml: cannot be read: No such file or directory\n",
    )
    (tmp_path / "half.yaml").write_text("routes:\n- id: 1\n")
    half = tool.run("import", "half.yaml")
    assert half.returncode == 2
    assert "half.yaml" in half.stderr
    assert "#END" in half.stderr
