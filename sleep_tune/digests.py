"""Digests of values: equal content, equal text, in any process."""

import hashlib
import json
from typing import Any


def digest(*parts: bytes | str, size: int = 16) -> str:
    """BLAKE2b of length-prefixed `parts`, as 2*size hex characters."""
    state = hashlib.blake2b(digest_size=size)
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
