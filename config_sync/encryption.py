"""Fields that APISIX's Admin API has encrypted, made readable (data-model.md section 13).

AES in CBC mode with PKCS#7 padding; the initialisation vector is the first 16 bytes of the key; the outcome is in
base64. Nothing in the text tells that it is encrypted, nor with which key.
"""

import binascii
from base64 import b64decode
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import Cipher

_BLOCK = 16


class Keyring:
    """The keys of the settings (``data_encryption``), in the order they are tried."""

    def __init__(self, keys: Sequence[str], are_fields_encrypted: bool = True) -> None:
        """Take keys of 16 or 32 bytes.

        Without ``are_fields_encrypted`` only keys of certificates are decrypted, not fields of plugins.
        """
        self.are_fields_encrypted = are_fields_encrypted
        self._keys = [key.encode() for key in keys]
        self._ciphers: list[Cipher[Any]] | None = None

    def __repr__(self) -> str:
        """Show everything but the keys."""
        return f"<Keyring {len(self._keys)} keys>"

    def decrypt(self, text: str) -> str:
        """Decrypt a text with the first key that fits; what no key fits is returned as it is."""
        data = _encrypted(text)
        if data is None:
            return text
        if self._ciphers is None:
            self._ciphers = [_cipher(key) for key in self._keys]
        for cipher in self._ciphers:
            decryptor = cipher.decryptor()
            plain = _unpadded(decryptor.update(data) + decryptor.finalize())
            if plain is not None:
                return plain
        return text


def _encrypted(text: str) -> bytes | None:
    """Return the bytes of what may be encrypted: base64 of whole blocks."""
    if len(text) < 4 * _BLOCK // 3 or len(text) % 4:
        return None
    try:
        data = b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if data and len(data) % _BLOCK == 0 else None


def _cipher(key: bytes) -> "Cipher[Any]":
    # Imported when the first text looks encrypted: it takes 10 MB and 30 ms, which most configurations do not need.
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.algorithms import AES
    from cryptography.hazmat.primitives.ciphers.modes import CBC

    return Cipher(AES(key), CBC(key[:_BLOCK]))


def _unpadded(data: bytes) -> str | None:
    """Take the padding away; None when the padding or the text shows that the key was wrong."""
    count = data[-1]
    if not 1 <= count <= _BLOCK or not data.endswith(bytes((count,)) * count):
        return None
    try:
        return data[:-count].decode()
    except UnicodeDecodeError:
        return None
