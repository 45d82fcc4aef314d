"""``propylon ctl plugin``: the list, and the beginning of a new one."""

import subprocess
import sys
from pathlib import Path

import pytest

from config_sync.ctl.command import main
from config_sync.ctl.plugins import lines
from config_sync.ctl.skeleton import new_plugin
from config_sync.errors import ConfigError

ROOT = Path(__file__).parents[3]
PLUGIN = {
    "name": "cors",
    "priority": 4000,
    "phases": ["rewrite", "header_filter"],
    "source": "worker.plugins.cors",
    "enabled": True,
    "fails_closed": False,
    "uses": 3,
    "failures": 0,
    "late": 0,
    "blocked": 0,
    "passed_over": False,
    "timed_calls": 2,
    "average_us": 1.94,
}


def test_plugins_are_listed() -> None:
    failing = {**PLUGIN, "name": "echo", "failures": 12, "average_us": None, "last_failure": "ValueError: no"}
    assert lines({"slot": 1, "pid": 7, "items": [PLUGIN, {**failing, "passed_over": True, "enabled": False}]}) == [
        "name  priority  uses  failures  blocked   us  phases                 source",
        "cors      4000     3         0        0  1.9  rewrite header_filter  worker.plugins.cors",
        "echo      4000     3        12        0       rewrite header_filter  worker.plugins.cors",
        "",
        "of worker 1 (pid 7)",
        "echo is passed over, since it fails too often: ValueError: no",
        "echo is not in the list of enabled plugins",
    ]


def test_a_new_one_works_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plugin", "new", "say-the-word"]) == 0
    assert capsys.readouterr().out == "say_the_word.py\ntest_say_the_word.py\n"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_say_the_word.py"],
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout
    assert main(["plugin", "new", "say-the-word"]) == 2
    assert "say_the_word.py is there already" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "Say", "say_it", "-say", "say-", "say--it", "../say", "1say", "say it"])
def test_not_every_word_is_a_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be lower case"):
        new_plugin(name, tmp_path)
    assert list(tmp_path.iterdir()) == []
