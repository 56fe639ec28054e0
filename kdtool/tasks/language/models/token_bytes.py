"""What tokens stand for, in bytes: a token need not be text, only the tokens of a text together are."""

from __future__ import annotations

import json
import re
from functools import cache

from kdtool.tasks.language.models.tokens import Tokens

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
SPACE = "\u2581"
"""What stands for a space in SentencePiece's vocabularies."""


def bytes_of(tokens: Tokens) -> dict[int, bytes]:
    """Return what each token of a vocabulary stands for, by number.

    Byte-level vocabularies (Radford et al., 2019) write each byte as a character of its own; SentencePiece's (Kudo and
    Richardson, 2018) write a space as ``SPACE``, and a byte that is no text as <0xNN>. Special tokens are their names.
    """
    library = tokens.library
    added = {number: str(token) for number, token in library.added_tokens_decoder.items()}
    byte_level = '"ByteLevel"' in json.dumps(json.loads(library.backend_tokenizer.to_str()).get("decoder"))
    read = _byte_level if byte_level else _piece
    return {
        number: added[number].encode() if number in added else read(name) for number, name in tokens.by_number.items()
    }


def _byte_level(name: str) -> bytes:
    alphabet = _alphabet()
    return bytes(alphabet[each] for each in name) if all(each in alphabet for each in name) else name.encode()


def _piece(name: str) -> bytes:
    byte = _BYTE.fullmatch(name)
    return bytes([int(byte[1], 16)]) if byte else name.replace(SPACE, " ").encode()


@cache
def _alphabet() -> dict[str, int]:
    """Return the byte that each character stands for: visible ones themselves, the others those from 256 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + at): byte for at, byte in enumerate(others)}
