"""The command line: where settings come from, and what goes wrong before anything is asked."""

import subprocess
import sys
from pathlib import Path

import pytest

from config_sync.ctl.command import main
from tests.config_sync.ctl.conftest import Tool
from tests.fakes.processes import PATIENCE, ROOT, Etcd


def test_settings_of_a_file_and_the_command_line_over_them(tool: Tool, etcd: Etcd, tmp_path: Path) -> None:
    etcd.put("routes/1", {"uri": "/", "upstream_id": "u"})
    conf = tmp_path / "settings.yaml"
    conf.write_text(f'{{"etcd": {{"host": "{etcd.url}", "prefix": "/other"}}}}')
    command = [sys.executable, str(ROOT / "master.py"), "ctl", "export", "-c", str(conf)]
    assert run(command, tmp_path).stdout == "#END\n"
    assert "uri: /\n" in run([*command, "--prefix", "/apisix/"], tmp_path).stdout


def run(command: list[str], directory: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=PATIENCE, check=False)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["export"], "conf/config.yaml: cannot be read"),
        (["export", "-c", "missing.yaml"], "missing.yaml: cannot be read"),
        (["validate", "-c", "missing.yaml", "file"], "missing.yaml: cannot be read"),
        (["export", "--endpoint", "http://127.0.0.1:1", "--prefix", "apisix"], "--prefix: must begin with a slash"),
        (["validate", "missing.yaml"], "missing.yaml: cannot be read"),
    ],
)
def test_what_goes_wrong_before_anything_is_asked(
    arguments: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    assert f"propylon ctl: {reason}" in capsys.readouterr().err


def test_without_the_extra_it_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "config_sync.etcd.store", raising=False)
    monkeypatch.setitem(sys.modules, "etcd3", None)
    assert main(["export", "--endpoint", "http://127.0.0.1:1"]) == 2
    assert "needs etcd3, which comes with the extra: pip install 'propylon[tools]'" in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_crash(tool: Tool, tmp_path: Path) -> None:
    (tmp_path / "many.json").write_text(str({"routes": [{"uri": f"/{at}"} for at in range(9000)]}).replace("'", '"'))
    command = tool.command("diff", "many.json")
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(PATIENCE) == 2
