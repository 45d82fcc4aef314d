"""Patterns of paths: what a ``uri`` of a route stands for (routing.md section 3).

A pattern without a wildcard is one exact path. Any other has a literal prefix, by which the index finds it, and perhaps
a rest. The rest is compared segment by segment, and never by a regular expression: 100,000 of those take 20 s to
compile, and two ``.*`` in one can be made to search for seconds. Runs of literal and parameter segments between
wildcards are fitted from the right, each as far to the right as it goes, which gives the first wildcard the most, as in
a greedy expression, in one pass.

    /files/*path/raw/:name      prefix  /files/
                                chunks  (files) * (raw :name)
"""

from collections.abc import Iterator

SLASH = b"/"
UNNAMED = ":ext"  # the capture of a wildcard without a name


class Rest:
    """What of a pattern the literal prefix does not say; segments are told apart by slashes."""

    __slots__ = ("_chunks", "_fixed", "_head", "_names", "_size", "_tail")

    def __init__(self, segments: list[bytes], has_parameters: bool) -> None:
        """Compile all segments of a pattern that has a wildcard segment (or a parameter, where those exist)."""
        # A chunk is a run of segments between two wildcards; None is a parameter.
        self._chunks: list[list[bytes | None]] = [[]]
        self._names: list[tuple[bool, str]] = []  # (is a wildcard, name) in the order of captures
        for segment in segments:
            if segment.startswith(b"*"):
                self._chunks.append([])
                self._names.append((True, segment[1:].decode() or UNNAMED))
            elif has_parameters and segment.startswith(b":"):
                self._chunks[-1].append(None)
                self._names.append((False, segment[1:].decode()))
            else:
                self._chunks[-1].append(segment)
        self._size = sum(map(len, self._chunks)) + len(self._chunks) - 1
        # The frequent forms: parameters with at most a wildcard at the end, and one wildcard in the middle.
        self._fixed = self._chunks[0] if self._is_fixed() else None
        before = len(self._chunks[0])
        self._head = b"".join(segment + SLASH for segment in segments[:before])
        self._tail = SLASH + SLASH.join(segments[before + 1 :]) if self._has_one_hole() else None

    def _is_fixed(self) -> bool:
        return len(self._chunks) == 1 or (len(self._chunks) == 2 and not self._chunks[1])

    def _has_one_hole(self) -> bool:
        return len(self._chunks) == 2 and bool(self._chunks[1]) and all(is_wildcard for is_wildcard, _ in self._names)

    def fits(self, path: bytes) -> bool:
        """Tell whether a path that begins with the literal prefix has this rest, too."""
        if self._tail is not None:
            # The head, which ends in a slash, and the tail, which begins with one, must not overlap.
            return (
                path.endswith(self._tail)
                and len(path) >= len(self._head) + len(self._tail)
                and path.startswith(self._head)
            )
        if self._fixed is not None:
            return self._fixed_fits(self._fixed, path)
        return self._placed(path.split(SLASH)) is not None

    def _fixed_fits(self, fixed: list[bytes | None], path: bytes) -> bool:
        segments = path.split(SLASH, len(fixed))
        if len(segments) != self._size:
            return False
        for literal, segment in zip(fixed, segments, strict=False):
            if literal is None:
                if not segment:
                    return False
            elif literal != segment:
                return False
        return True

    def _placed(self, segments: list[bytes]) -> list[int] | None:
        """Return where each chunk begins, or None when they do not fit."""
        chunks = self._chunks
        if len(segments) < self._size or (len(chunks) == 1 and len(segments) != self._size):
            return None
        first, *middle = chunks[:-1] if len(chunks) > 1 else chunks
        last = chunks[-1]
        if not _is_at(first, segments, 0) or not _is_at(last, segments, len(segments) - len(last)):
            return None
        starts = [len(segments) - len(last)] if len(chunks) > 1 else []
        for chunk in reversed(middle):
            at = starts[-1] - 1 - len(chunk)  # a wildcard stands for one segment at least
            lead = chunk[0] if chunk else None
            while at > len(first) and ((lead is not None and segments[at] != lead) or not _is_at(chunk, segments, at)):
                at -= 1
            if at <= len(first):
                return None
            starts.append(at)
        return [0, *reversed(starts)]

    def captures(self, path: bytes) -> dict[str, str]:
        """Return what wildcards and parameters stand for in a path that this pattern matches."""
        segments = path.split(SLASH)
        starts = self._placed(segments)
        if starts is None:
            return {}
        names = iter(self._names)
        return {
            name: SLASH.join(segments[begin:end]).decode("utf-8", "surrogateescape")
            for (begin, end), (_, name) in zip(self._spans(starts), names, strict=True)
        }

    def _spans(self, starts: list[int]) -> Iterator[tuple[int, int]]:
        end = 0
        for at, (start, chunk) in enumerate(zip(starts, self._chunks, strict=True)):
            if at:
                yield end, start
            yield from ((start + i, start + i + 1) for i, literal in enumerate(chunk) if literal is None)
            end = start + len(chunk)

    def shape(self) -> tuple[tuple[bytes | None, ...], ...]:
        """Return what matches alike whenever it is equal: the segments, without the names."""
        return tuple(map(tuple, self._chunks))

    def literals(self) -> list[bytes]:
        """Return the literal segments that a path of this pattern has; empty ones are left out."""
        return [literal for chunk in self._chunks for literal in chunk if literal]


def _is_at(chunk: list[bytes | None], segments: list[bytes], at: int) -> bool:
    for literal, segment in zip(chunk, segments[at : at + len(chunk)], strict=True):
        if not segment if literal is None else literal != segment:
            return False
    return True


class Pattern:
    """A ``uri`` of a route: an exact path, or a literal prefix with perhaps a rest behind it."""

    __slots__ = ("exact", "rest", "size", "text", "wild")

    def __init__(self, text: str, has_parameters: bool = False) -> None:
        """Compile a pattern; ``has_parameters`` in the mode where ``:name`` is one (routing.md section 3)."""
        self.text = text.encode("utf-8", "surrogatepass")
        at = _first_wildcard(self.text, has_parameters)
        self.exact = at < 0
        self.size = len(self.text) if self.exact else at  # bytes of the literal
        self.rest: Rest | None = None  # None: the literal says all
        self.wild = False  # it has a wildcard segment or a parameter
        if self.exact:
            return
        if at == len(self.text) - 1 and self.text.endswith(b"*"):
            self.wild = self._is_whole(at)  # the ordinary prefix: there is nothing else in it
            return
        segments = self.text.split(SLASH)
        marks = b"*:" if has_parameters else b"*"
        # A wildcard inside a segment, when there is no other, makes a plain prefix; what is behind it is ignored.
        self.wild = any(segment[:1] and segment[:1] in marks for segment in segments)
        if self.wild and not (self.text[at:].startswith(b"*") and SLASH not in self.text[at:] and self._is_whole(at)):
            self.rest = Rest(segments, has_parameters)

    def _is_whole(self, at: int) -> bool:
        return at == 0 or self.text[at - 1 : at] == SLASH

    @property
    def literal(self) -> bytes:
        """The exact path, or the literal prefix."""
        return self.text[: self.size]

    @property
    def ignored(self) -> bytes:
        """The part that has no meaning, behind a wildcard inside a segment."""
        return b"" if self.exact or self.wild else self.text[self.size + 1 :]

    def covers(self, path: bytes) -> bool:
        """Tell whether a path matches."""
        if self.exact:
            return path == self.text
        return path.startswith(self.literal) and (self.rest is None or self.rest.fits(path))

    def captures(self, path: bytes) -> dict[str, str] | None:
        """Return what wildcards and parameters stand for in a path that matches; None when there are none."""
        if not self.wild:
            return None
        rest = self.rest or Rest(self.text.split(SLASH), False)
        return rest.captures(path)

    def __repr__(self) -> str:
        """Show the text."""
        return f"<Pattern {self.text.decode('utf-8', 'replace')}>"


def _first_wildcard(text: bytes, has_parameters: bool) -> int:
    star = text.find(b"*")
    if not has_parameters:
        return star
    colon = text.find(b":")
    return star if colon < 0 else colon if star < 0 else min(star, colon)
