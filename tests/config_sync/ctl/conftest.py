"""The tool as its users start it, against a real etcd."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.processes import PATIENCE, ROOT, Etcd


class Tool:
    """``propylon ctl`` in a directory of its own."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        self.url = url

    def command(self, name: str, *arguments: str) -> list[str]:
        return [sys.executable, str(ROOT / "master.py"), "ctl", name, "--endpoint", self.url, *arguments]

    def run(
        self, name: str, *arguments: str, text: str | None = None, password: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end, with ``text`` as standard input."""
        return subprocess.run(
            self.command(name, *arguments),
            input=text,
            cwd=self.directory,
            env={**os.environ, **({"PROPYLON_ETCD_PASSWORD": password} if password else {})},
            capture_output=True,
            text=True,
            timeout=PATIENCE * 3,
            check=False,
        )


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    with Etcd(tmp_path) as member:
        yield member


@pytest.fixture
def tool(tmp_path: Path, etcd: Etcd) -> Tool:
    return Tool(tmp_path, etcd.url)
