"""The process that reads files: what it writes, and what happens when it ends too soon."""

import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_sync.file_reader import Done, Fault, Frame, Page, content_revision, frames_of, main, read_frames
from config_sync.file_trace import trace


def frames(path: Path) -> list[Frame]:
    return list(frames_of(str(path), {"NAME": "b"}))


def write_routes(path: Path, count: int) -> None:
    path.write_text("routes:\n" + "".join(f"- {{id: r{at}, uri: /}}\n" for at in range(count)) + "#END\n")


def test_a_file_comes_in_pages_and_says_at_the_end_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "apisix.yaml"
    write_routes(path, 250)
    *pages, last = frames(path)
    assert [len(page.entries) for page in pages if isinstance(page, Page)] == [100, 100, 50]
    assert last == Done(trace(str(path)).file, [])  # type: ignore[arg-type]
    output = io.BytesIO()
    main(str(path), output)
    output.seek(0)
    assert list(read_frames(output)) == [*pages, last]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"routes: []\n", "the last line must be #END; without it the file is taken for half-written"),
        (b"routes:\n- {id: a}\n- text\n#END", "line 3: routes[1]: must be an object"),
        (b"routes: []\n# \xff\n#END", "line 2: is no UTF-8 text: invalid start byte"),
    ],
)
def test_what_cannot_be_used_is_a_fault_with_its_line(tmp_path: Path, data: bytes, reason: str) -> None:
    path = tmp_path / "apisix.yaml"
    path.write_bytes(data)
    assert frames(path)[-1] == Fault(trace(str(path)).file, reason)


def test_a_file_that_cannot_be_opened_is_a_fault(tmp_path: Path) -> None:
    assert frames(tmp_path / "none") == [Fault(None, "cannot be read: No such file or directory")]


def test_warnings_and_variables_come_through(tmp_path: Path) -> None:
    path = tmp_path / "apisix.yaml"
    path.write_text("routs: []\nroutes: [{id: '${{NAME}}'}]\n#END")
    page, last = frames(path)
    assert isinstance(page, Page)
    assert page.entries[0].key == "routes/b"
    assert isinstance(last, Done)
    assert last.warnings == ["line 1: routs: unknown section, ignored"]


def test_an_end_before_the_end_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "apisix.yaml"
    write_routes(path, 150)
    output = io.BytesIO()
    main(str(path), output)
    whole = output.getvalue()
    for length in (0, 2, 4, 100, len(whole) - 1):
        with pytest.raises(EOFError):
            list(read_frames(io.BytesIO(whole[:length])))


@given(st.binary(), st.binary())
def test_the_revision_of_a_value_depends_on_nothing_else(one: bytes, other: bytes) -> None:
    assert 1 <= content_revision(one) <= 2**50
    assert (content_revision(one) == content_revision(other)) is (one == other)
