"""The digests of uploads, however they are cut."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.reload.upstream import Upload, content


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=1, max_size=5), st.booleans(), st.data())
def test_an_upload_is_digested(pieces: list[bytes], chunked: bool, data: st.DataObject) -> None:
    body = b"".join(pieces)
    raw = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n" if chunked else body
    upload = Upload(None if chunked else len(body))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=6)))
    answers = [upload.feed(raw[start:end]) for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert answers[:-1] == [None] * len(cuts)
    assert answers[-1] == f"{len(body)} {hashlib.sha256(body).hexdigest()}".encode()


def test_the_same_seed_has_the_same_content() -> None:
    assert content(7, 1000) == content(7, 1000)
    assert content(7, 1000) != content(8, 1000)
