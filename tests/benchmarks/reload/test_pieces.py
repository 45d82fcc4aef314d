"""A long scenario is put together from pieces."""

from pathlib import Path

from benchmarks.reload import pieces


def test_pieces_add_up(tmp_path: Path) -> None:
    path = tmp_path / "results" / "reload.json"
    assert pieces.done(path) == 0
    pieces.add(path, "run", {"rounds": 3, "answered": 10, "failed": 0, "complaints": []})
    assert pieces.done(path) == 3
    whole = pieces.add(path, "run", {"rounds": 4, "answered": 20, "failed": 1, "complaints": ["one"]})
    assert (whole["rounds"], whole["answered"], whole["failed"], whole["complaints"]) == (7, 30, 1, ["one"])
    assert pieces.done(path) == 7


def test_without_a_file_nothing_is_kept() -> None:
    pieces.add(None, "run", {"rounds": 3, "answered": 10, "failed": 0, "complaints": []})
    assert pieces.done(None) == 0
