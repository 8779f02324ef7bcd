"""Parses JSON that people made: whatever Python's parser trips over, or takes without a word, is one line that says what it is."""

import json
import math
from typing import Any, TypeGuard


class BadJson(ValueError):
    """Text that is not JSON, or holds what no reader of it can use; the message says what and where in the text."""


def parse(text: str | bytes) -> Any:
    """The value in `text`, bytes being UTF-8. NaN and Infinity are let through: whose field it is, its reader knows.

    Raises BadJson, also for bytes that are not UTF-8, numbers of thousands of digits, nesting deeper than Python's stack, half a
    surrogate pair (no tokenizer takes it), and an object that gives a key twice.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError:
            raise BadJson("not UTF-8 text") from None
    if text.startswith("\ufeff"):
        raise BadJson("not JSON (it begins with a byte order mark)")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BadJson(f"not JSON ({error.msg} at character {error.pos + 1}; a truncated file?)") from None
    except RecursionError:
        raise BadJson("not JSON that can be read (nested too deeply)") from None
    except BadJson:
        raise
    except ValueError:  # Python refuses to convert more than 4,300 digits
        raise BadJson("not JSON that can be read (a number with thousands of digits)") from None
    if "\\u" in text:  # the only way in, the file being UTF-8
        half = next((unit for unit in _texts(value) if _is_broken(unit)), None)
        if half is not None:
            raise BadJson(f"text {half[:60]!a} holds half of a surrogate pair, which is no character")
    return value


def is_number(value: Any) -> TypeGuard[int | float]:
    """Whether a value is a number that can be reckoned with: finite, and no truth value."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise BadJson(f"key {next(key for key in keys if keys.count(key) > 1)[:60]!a} is given twice")
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_object)  # kept: json.loads makes one anew for each line


def _texts(value: Any) -> list[str]:
    """Every text in a value, keys too. Without recursion: a value may be nested as deeply as the parser went."""
    texts, left = [], [value]
    while left:
        part = left.pop()
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict):
            left += [*part, *part.values()]
        elif isinstance(part, list):
            left += part
    return texts


def _is_broken(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
