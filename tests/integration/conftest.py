"""A real etcd, a real upstream and a real gateway for each test."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.processes import ROOT, Etcd, Gateway
from tests.fakes.upstream import Upstream


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    with Etcd(tmp_path) as member:
        yield member


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture
def gateway(tmp_path: Path, etcd: Etcd, upstream: Upstream) -> Iterator[Gateway]:
    """A gateway with two workers whose route 1 leads everything to the upstream."""
    etcd.put("routes/1", {"uri": "/*", "upstream": {"nodes": {f"127.0.0.1:{upstream.port}": 1}}})
    running = Gateway(tmp_path, etcd.url)
    running.start()
    yield running
    running.kill()


@pytest.fixture
def gateway_of_nobody() -> Iterator[Gateway]:
    """A gateway of root's whose workers are nobody's, without a route, in a directory that nobody can enter."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        etcd = Etcd(directory)
        etcd.start()
        running = Gateway(directory, etcd.url, user="nobody")
        try:
            running.start()
            yield running
        finally:
            running.kill()
            etcd.kill()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the source, to be broken."""
    copy = tmp_path / "tree"
    copy.mkdir()
    shutil.copy(ROOT / "master.py", copy)
    for name in ("worker", "config_sync"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    return copy
