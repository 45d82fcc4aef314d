"""Where paths lead to: every way to replace a file shows, and makes the revision grow."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from config_sync.file_trace import trace


def config_map(directory: Path, name: str, text: str) -> None:
    """Publish a file as Kubernetes does: a directory of its own, a link to it that is swapped by rename."""
    (directory / name).mkdir()
    (directory / name / "apisix.yaml").write_text(text)
    (directory / "..new").symlink_to(name)
    (directory / "..new").rename(directory / "..data")


def write(path: Path) -> None:
    path.write_text("new")


def append(path: Path) -> None:
    with path.open("a") as file:
        file.write("more")


def rename_over(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("new")
    other.rename(path)


def keep_old_time(path: Path) -> None:
    path.write_text("new")
    os.utime(path, (1, 1))


def link_to_older(path: Path) -> None:
    path.with_name("link").symlink_to("older")
    path.with_name("link").rename(path)


@pytest.mark.parametrize("replace", [write, append, rename_over, keep_old_time, link_to_older])
def test_every_way_to_replace_a_file_shows_and_the_revision_grows(
    tmp_path: Path, replace: Callable[[Path], None]
) -> None:
    path = tmp_path / "apisix.yaml"
    (tmp_path / "older").write_text("older")
    path.write_text("old")
    before = trace(str(path))
    assert before.file is not None
    assert before == trace(str(path))
    # The kernel's clock for files goes in ticks of some milliseconds.
    while trace(str(path)).revision == before.revision:
        replace(path)
    after = trace(str(path))
    assert after != before
    assert before.revision < after.revision < 2**53
    assert after.directories == (str(tmp_path),)


def test_links_are_followed_and_their_directories_are_told(tmp_path: Path) -> None:
    config_map(tmp_path, "..first", "a")
    (tmp_path / "apisix.yaml").symlink_to("..data/apisix.yaml")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "conf.yaml").symlink_to(tmp_path / "elsewhere" / ".." / "apisix.yaml")
    found = trace(str(elsewhere / "conf.yaml"))
    assert found.file is not None
    assert len(found.links) == 3
    assert found.directories == (str(elsewhere), str(tmp_path), str(tmp_path / "..first"))
    config_map(tmp_path, "..second", "a")
    swapped = trace(str(elsewhere / "conf.yaml"))
    assert swapped.file != found.file
    assert swapped.revision >= found.revision
    assert swapped.directories[-1] == str(tmp_path / "..second")


def test_what_leads_nowhere_says_why_and_where_to_wait(tmp_path: Path) -> None:
    missing = trace(str(tmp_path / "conf" / "apisix.yaml"))
    assert missing.file is None
    assert missing.fault == f"{tmp_path}/conf: No such file or directory"
    assert missing.directories == (str(tmp_path),)
    (tmp_path / "conf").mkdir()
    assert trace(str(tmp_path / "conf" / "apisix.yaml")).directories == (str(tmp_path / "conf"),)
    assert trace(str(tmp_path / "conf")).fault == f"{tmp_path}/conf: is no regular file"
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert trace(str(tmp_path / "a")).fault == "too many links"
    shutil.rmtree(tmp_path / "conf")
    assert trace(str(tmp_path / "conf" / "apisix.yaml")) == missing
