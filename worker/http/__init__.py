"""HTTP/1.x on both sides; ``serve`` is the file to read first."""
