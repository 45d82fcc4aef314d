"""What a master has imported, and what is left to its workers."""

import json
import subprocess
import sys

from tests.fakes.processes import PATIENCE, ROOT
from worker.supervisor.preimport import PREIMPORTED


def modules_after(statement: str) -> set[str]:
    """Return what a fresh interpreter has imported after a statement."""
    program = f"import json, sys; {statement}; print(json.dumps([*sys.modules]))"
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    return {*json.loads(told.stdout)}


def test_a_master_has_what_workers_need_of_the_standard_library_and_none_of_their_code() -> None:
    of_master = modules_after("import master")
    preimported = {module.__name__ for module in PREIMPORTED}
    assert preimported <= of_master
    foreign = ("uvloop", "httptools", "grpc", "regex", "worker.http", "worker.process", "worker.context", "worker.api")
    ours = ("config_sync.etcd", "config_sync.schema", "config_sync.cache", "worker.upstream.builder", "worker.routing")
    assert [name for name in of_master if name.startswith((*foreign, *ours))] == []


def test_nothing_is_imported_in_vain() -> None:
    of_worker = modules_after("import worker.process, config_sync.etcd.sync")
    assert {module.__name__ for module in PREIMPORTED} <= of_worker


def test_a_worker_imports_the_provider_it_uses_and_no_other() -> None:
    of_worker = modules_after("import worker.process")
    assert "config_sync.file" not in of_worker
    assert "config_sync.relay.provider" not in of_worker
