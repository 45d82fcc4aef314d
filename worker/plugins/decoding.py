"""Decoding the bodies of answers, in steps none of which makes much of little: gzip, and br with its library."""

import zlib
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

STEP = 65_536  # bytes that a step takes, or makes

Steps = Callable[[bytes], Iterator[bytes]]
"""Decodes a body in steps; ValueError when it cannot be decoded."""


def steps_by_coding() -> dict[bytes, Steps]:
    """Return by content coding, in lower case, what decodes it."""
    found: dict[bytes, Steps] = {b"": _same, b"identity": _same, b"gzip": _from_gzip, b"x-gzip": _from_gzip}
    if find_spec("brotli") is not None:
        found[b"br"] = partial(_from_br, import_module("brotli"))
    return found


def text_in_steps(pieces: Iterable[bytes], most: int) -> str:
    """Return as text what is decoded step by step; bytes that are not UTF-8 are kept, as ``text_of`` does.

    Raises:
        ValueError: it cannot be decoded.
        OverflowError: there are more bytes than ``most``.
    """
    decode = getincrementaldecoder("utf-8")("surrogateescape").decode
    texts = []
    for piece in pieces:
        most -= len(piece)
        if most < 0:
            raise OverflowError
        texts.append(decode(piece))
    return "".join([*texts, decode(b"", final=True)])


def bytes_in_steps(text: str) -> bytes:
    """Return a text's bytes, of which no step takes long."""
    return b"".join([text[at : at + STEP].encode("utf-8", "surrogateescape") for at in range(0, len(text), STEP)])


def _same(body: bytes) -> Iterator[bytes]:
    return (body[at : at + STEP] for at in range(0, len(body), STEP))


def _from_gzip(body: bytes) -> Iterator[bytes]:
    decoder = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        for taken in _same(body):
            rest = taken
            while rest and not decoder.eof:
                yield decoder.decompress(rest, STEP)
                rest = decoder.unconsumed_tail
            if decoder.eof and (decoder.unused_data or rest):
                break
        while not decoder.eof and (piece := decoder.decompress(b"", STEP)):
            yield piece
    except zlib.error as error:
        raise ValueError("is no gzip") from error
    if not decoder.eof or decoder.unused_data:
        raise ValueError("does not end where its gzip ends")


def _from_br(brotli: Any, body: bytes) -> Iterator[bytes]:
    decoder = brotli.Decompressor()
    try:
        for taken in _same(body):
            rest = taken
            while (piece := decoder.process(rest, output_buffer_limit=STEP)) or not decoder.can_accept_more_data():
                yield piece
                rest = b""
    except brotli.error as error:
        raise ValueError("is no brotli") from error
    if not decoder.is_finished():
        raise ValueError("is only a part")
