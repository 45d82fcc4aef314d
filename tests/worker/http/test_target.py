"""Request targets and the paths that routes see."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import BadRequest
from worker.http.target import normalised_path, split_absolute


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", b"/"),
        (b"/a/b", b"/a/b"),
        (b"/a?x=/../", b"/a"),
        (b"/a#b?c", b"/a"),
        (b"/a%20b", b"/a b"),
        (b"/x//./y", b"/x/y"),
        (b"/a/../b", b"/b"),
        (b"/a/b/..", b"/a/"),
        (b"/a/.", b"/a/"),
        (b"/a%2Fb", b"/a/b"),
        (b"/a/%2e%2e/b", b"/b"),
        (b"/.hidden", b"/.hidden"),
        (b"/...", b"/..."),
    ],
)
def test_normalised_path(target: bytes, path: bytes) -> None:
    assert normalised_path(target) == path


@pytest.mark.parametrize("target", [b"/..", b"/a/../../b", b"/%", b"/%2", b"/%zz", b"/%00", b"/%2e%2e/"])
def test_refused_targets(target: bytes) -> None:
    with pytest.raises(BadRequest):
        normalised_path(target)


@given(st.lists(st.sampled_from([b"/", b"a", b".", b"..", b"%2e", b"%2F", b"b"]), max_size=12))
def test_normalised_paths_stay_as_they_are(parts: list[bytes]) -> None:
    try:
        path = normalised_path(b"/" + b"".join(parts))
    except BadRequest:
        return
    assert path.startswith(b"/")
    assert b"//" not in path
    assert not {b".", b".."} & set(path.split(b"/"))
    assert normalised_path(path) == path


def test_absolute_form() -> None:
    assert split_absolute(b"http://A.b:80/x?y") == (b"A.b:80", b"/x?y")
    assert split_absolute(b"http://a") == (b"a", b"/")
    assert split_absolute(b"http://a?q") == (b"a", b"/?q")


@pytest.mark.parametrize("target", [b"x", b"ftp://a/", b"http://", b"http://u@a/", b"http:///x"])
def test_refused_absolute_forms(target: bytes) -> None:
    with pytest.raises(BadRequest):
        split_absolute(target)
