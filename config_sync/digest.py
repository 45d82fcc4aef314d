"""The digest of a directory: two that hold the same records have the same one, in whatever order they came.

It is the sum of its records' hashes, modulo 2**128: to put or delete a record costs one addition, whatever the
size of the directory. A record's hash is the BLAKE2b hash, of 16 bytes, of its key below the prefix, a zero byte,
its ``mod_revision`` as 8 bytes (big endian), and its value.
"""

from hashlib import blake2b

MODULUS = 1 << 128


def record_hash(key: str, mod_revision: int, value: bytes) -> int:
    """Hash one record; ``key`` is below the prefix, as in "routes/1"."""
    head = key.encode("utf-8", "surrogateescape") + b"\0" + mod_revision.to_bytes(8, "big")
    return int.from_bytes(blake2b(head + value, digest_size=16).digest(), "big")
