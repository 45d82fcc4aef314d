"""Explanations and warnings of real workers, by the control interface and by the command line."""

import json
import subprocess
import sys

import pytest

from tests.fakes.processes import PATIENCE, ROOT, Etcd, Gateway, wait_until
from tests.fakes.upstream import Upstream


def ctl_explain(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ROOT / "master.py"), "ctl", "explain", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def test_a_request_is_explained(gateway: Gateway, etcd: Etcd, upstream: Upstream) -> None:
    nodes = {"nodes": {f"127.0.0.1:{upstream.port}": 1}}
    etcd.put("routes/2", {"uri": "/two", "hosts": ["two.com"], "upstream": nodes})
    revision = etcd.put("routes/3", {"uri": "/two", "methods": ["PUT"], "upstream": nodes})
    assert gateway.control(f"/v1/sync/wait?revision={revision}")[0] == 200
    status, answer = gateway.control("/v1/explain?uri=/two&host=x.com")
    assert (status, answer["revision"]) == (200, revision)
    assert answer["winner"]["route"] == "1"
    assert {one["route"]: one["reason"] for one in answer["candidates"]} == {"3": "method: takes PUT", "1": ""}
    assert answer["others"] == [{"route": "2", "reason": "host: takes two.com"}]
    told = ctl_explain("-c", str(gateway.conf), "http://two.com/two", "-X", "PUT")
    assert told.returncode == 0, told.stderr
    assert "=> routes/2  /two on two.com" in told.stdout
    told = ctl_explain("--control", f"127.0.0.1:{gateway.control_port}", "/../x", "--json")
    assert told.returncode == 1
    assert json.loads(told.stdout)["answer"]["status"] == 400


def test_a_route_that_can_never_win_is_reported(gateway: Gateway, etcd: Etcd) -> None:
    etcd.put("routes/2", {"uri": "/*", "upstream": {"nodes": {"127.0.0.1:1": 1}}})
    told: list[tuple[str, bool]] = []

    def has_warned() -> list[tuple[str, bool]]:
        told[:] = [(item["key"], item["never_wins"]) for item in gateway.control("/v1/config/warnings")[1]["items"]]
        return told

    wait_until(has_warned, "the warning of the worker that answers")
    assert told == [("routes/2", True)]
    wait_until(lambda: "routes/2: can never win: routes/1 (/*) comes before" in gateway.log(), "the log")
    etcd.delete("routes/1")
    wait_until(lambda: gateway.control("/v1/config/warnings")[1]["total"] == 0, "no warning")


def test_vars_decide_and_are_explained(gateway: Gateway, etcd: Etcd) -> None:
    revision = etcd.put(
        "routes/2",
        {"uri": "/*", "priority": 1, "vars": [["uri", "~~", "^/v"], ["arg_a", "==", "1"]], "upstream_id": "gone"},
    )
    assert gateway.control(f"/v1/sync/wait?revision={revision}")[0] == 200
    assert gateway.get("/v?a=1")[0] == 502
    assert gateway.get("/v?a=2")[0] == 200
    first, second = gateway.control("/v1/explain?uri=/v?a=2")[1]["candidates"]
    assert (first["route"], first["reason"]) == ("2", 'vars: ["arg_a","==","1"] does not hold')
    assert (second["route"], second["result"]) == ("1", "wins")


def test_modes_and_options_are_settings(
    tmp_path_factory: pytest.TempPathFactory, etcd: Etcd, upstream: Upstream
) -> None:
    directory = tmp_path_factory.mktemp("mode")
    nodes = {"nodes": {f"127.0.0.1:{upstream.port}": 1}}
    etcd.put("routes/1", {"uri": "/echo/:id/x", "upstream": nodes})
    gateway = Gateway(
        directory,
        etcd.url,
        worker_processes=1,
        router={
            "http": "radixtree_uri_with_parameter",
            "normalize_uri_like_servlet": True,
            "delete_uri_tail_slash": True,
            "match_uri_encoded_slash": True,
            "verify_interval": 0.1,
        },
    )
    gateway.start()
    try:
        assert gateway.get("/echo/7/x")[0] == 200
        assert gateway.get("/echo/7/8/x")[0] == 404
        assert gateway.get("/echo/7%2F8/x")[0] == 200
        assert gateway.get("/echo/7/x/")[0] == 200
        status, body = gateway.get("/echo/7;a=1/x?q")
        assert status == 200
        assert json.loads(body)["head"].startswith("GET /echo/7;a=1/x?q HTTP/1.1")
        assert gateway.get("/echo/;a=1/x")[0] == 400
    finally:
        gateway.kill()
    assert "the index is not what it should be" not in gateway.log()
