"""The token store: a corpus as memory-mapped arrays, built once in the cache, shared by all trials.

Legend: T tokens, N samples, V vocabulary. A sample's words are those whose first token lies in it, so they add up to the corpus exactly.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from sleep_tune.data import cleaning as cleaning_rules
from sleep_tune.data import minimal_pairs, packing
from sleep_tune.data import tokenizer as tokenizers
from sleep_tune.data.cache import build_once
from sleep_tune.data.corpora import Corpus, Source, Split, find_corpus, open_corpus
from sleep_tune.data.packing import DTYPES, FORMAT, MANIFEST
from sleep_tune.data.raw_files import digest_and_remember
from sleep_tune.data.text import (
    PAIRS,
    CorpusReport,
    Limit,
    first_words_of_all,
    pairs_are_whole,
    quotas,
    read_report,
    text_is_whole,
    write_text_directory,
)
from sleep_tune.digests import digest
from sleep_tune.errors import UserError
from sleep_tune.files import cache_directory, file_digest


class StoreDamaged(Exception):
    """A store that is not what was written: it is built again by whoever prepares the corpus."""


@dataclass(frozen=True)
class TokenStore:
    """Arrays of one split, mapped read-only. Sample i is tokens[offsets[i]:offsets[i + 1]], words_N[i] words of domain domain_N[i]."""

    tokens: NDArray[np.uint16]
    offsets: NDArray[np.int64]
    words_N: NDArray[np.uint16]
    domain_N: NDArray[np.uint8]
    domains: tuple[str, ...]
    word_initial_V: NDArray[np.bool_]
    row_length: int
    kind: Literal["packed", "lines"]
    vocab_size: int
    digest: str
    tokenizer_digest: str
    words: int

    @property
    def samples(self) -> int:
        """N."""
        return len(self.words_N)


def open_store(directory: Path, expect_digest: str | None = None) -> TokenStore:
    """Map the store in `directory`. Sizes are checked always, content by `verify_store`.

    Raises StoreDamaged where a file is missing or short, UserError where the store is not the expected one.
    """
    manifest = _manifest(directory)
    arrays = {name: _mapped(directory / name, manifest["files"][name]["bytes"], dtype) for name, dtype in DTYPES.items()}
    if expect_digest is not None and manifest["digest"] != expect_digest:
        raise UserError(f"token store {directory}: digest {manifest['digest']}, expected {expect_digest}")
    return TokenStore(
        tokens=arrays[packing.TOKENS],
        offsets=arrays[packing.OFFSETS],
        words_N=arrays[packing.WORDS],
        domain_N=arrays[packing.DOMAINS],
        domains=tuple(manifest["domains"]),
        word_initial_V=arrays[packing.WORD_INITIAL],
        row_length=manifest["row_length"],
        kind=manifest["kind"],
        vocab_size=manifest["vocab_size"],
        digest=manifest["digest"],
        tokenizer_digest=manifest["tokenizer_digest"],
        words=manifest["words"],
    )


def _manifest(directory: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        if manifest["format"] == FORMAT and manifest["files"].keys() == DTYPES.keys():
            return cast(dict[str, Any], manifest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreDamaged(f"{directory / MANIFEST}: {error}") from error
    raise StoreDamaged(f"{directory / MANIFEST}: not a manifest of format {FORMAT}")


def _mapped(path: Path, size: int, dtype: type[np.generic]) -> NDArray[Any]:
    found = path.stat().st_size if path.exists() else 0
    if found != size or size == 0:
        raise StoreDamaged(f"{path}: {found} bytes, {size} were written")
    return np.memmap(path, dtype, "r")


def verify_store(directory: Path) -> None:
    """Compare every file's digest with the manifest. Raises StoreDamaged."""
    manifest = _manifest(directory)
    for name, entry in manifest["files"].items():
        if not (directory / name).is_file() or file_digest(directory / name) != entry["digest"]:
            raise StoreDamaged(f"{directory / name}: not what was written")


def store_is_whole(directory: Path) -> bool:
    """Whether `verify_store` has nothing to say."""
    try:
        verify_store(directory)
    except StoreDamaged:
        return False
    return True


@dataclass(frozen=True)
class Prepared:
    """What a trial needs of its data, by path: picklable, and cheap to send to another process."""

    corpus_digest: str
    tokenizer_digest: str
    directory: Path
    dev_directory: Path
    tokenizer_file: Path
    report: tuple[CorpusReport, ...]
    train_words: int
    pairs_file: Path | None


@dataclass(frozen=True)
class Recipe:
    """What decides, with the corpus, every byte of a token store."""

    words: int | None
    cleaning: str
    rows: str
    row_length: int
    vocab_size: int

    def places(self, corpus: Corpus) -> "_Places":
        """Where the products of `corpus` lie: each in a directory named after all that decides its content."""
        root = cache_directory()
        text = digest(corpus.digest, self.cleaning, _code_digest(cleaning_rules), _code_digest(minimal_pairs))
        tokenizer = digest(text, str(self.words), str(self.vocab_size), _code_digest(tokenizers))
        train, dev = (digest(tokenizer, split, self.rows, str(self.row_length), _code_digest(packing)) for split in ("train", "dev"))
        return _Places(root / "text" / text, root / "tokenizers" / tokenizer, root / "stores" / train, root / "stores" / dev)


@dataclass(frozen=True)
class _Places:
    text: Path
    tokenizer: Path
    train: Path
    dev: Path

    def are_whole(self) -> bool:
        """Whether all that a trial reads is what was written. The cleaned text is no part of that: it may be large, and is read no more."""
        stores = store_is_whole(self.train) and store_is_whole(self.dev)
        return stores and tokenizers.tokenizer_is_whole(self.tokenizer) and pairs_are_whole(self.text)


def _code_digest(module: ModuleType) -> str:
    """Other code may write other bytes: what it wrote before is not looked at again."""
    return digest(Path(str(module.__file__)).read_bytes())


def prepare(
    source: Source,
    words: int | None,
    cleaning: str,
    rows: str,
    row_length: int,
    vocab_size: int,
    say: Callable[[str], None] = lambda line: None,
) -> Prepared:
    """Clean, train the tokenizer and build both stores, or find them in the cache; what is damaged there is built again.

    `words` limits the training text to its first words, in proportion over the domains. `say` gets a line for each stage to be built.
    Of several processes one builds and the others wait. Raises UserError for bad text or a cache that cannot be written.
    """
    corpus = open_corpus(source, digest_and_remember, say)
    recipe = Recipe(words, cleaning, rows, row_length, vocab_size)
    places = recipe.places(corpus)
    found = _found(corpus, places)
    if found and places.are_whole():
        return found
    _build(corpus, recipe, places, say)
    prepared = _found(corpus, places)
    if prepared is None:
        raise UserError(f"cache {cache_directory()}: another process removes or changes what is prepared in it")
    return prepared


def _build(corpus: Corpus, recipe: Recipe, places: _Places, say: Callable[[str], None]) -> None:
    def build_text(new: Path) -> None:
        say(f"cleaning {', '.join(part.domain for part in corpus.split('train'))}")
        write_text_directory(corpus, recipe.cleaning, new)

    build_once(places.text, text_is_whole, build_text)
    limits = _limits(places.text, recipe.words)

    def build_tokenizer(new: Path) -> None:
        say(f"training a tokenizer of {recipe.vocab_size:,} tokens")
        tokenizers.write_tokenizer(first_words_of_all(limits["train"]), recipe.vocab_size, new)

    build_once(places.tokenizer, tokenizers.tokenizer_is_whole, build_tokenizer)

    def build_store(split: Split, new: Path) -> None:
        say(f"encoding the {split} text")
        task = packing.Task(tuple(limits[split]), places.tokenizer / tokenizers.FILE, recipe.rows, recipe.row_length)
        packing.write_store(task, new)

    build_once(places.train, store_is_whole, partial(build_store, "train"))
    build_once(places.dev, store_is_whole, partial(build_store, "dev"))


def find_prepared(source: Source, words: int | None, cleaning: str, rows: str, row_length: int, vocab_size: int) -> Prepared | None:
    """What `prepare` would return if nothing had to be built, else None. Writes nothing, imports nothing heavy, refuses bad text alike."""
    corpus = find_corpus(source)
    recipe = Recipe(words, cleaning, rows, row_length, vocab_size)
    return _found(corpus, recipe.places(corpus)) if corpus else None


def _found(corpus: Corpus, places: _Places) -> Prepared | None:
    try:
        report = read_report(places.text)
        train, dev = open_store(places.train), open_store(places.dev)
        tokenizer_digest = tokenizers.read_digest(places.tokenizer)
    except (StoreDamaged, OSError, ValueError, TypeError, KeyError):
        return None
    if not train.tokenizer_digest == dev.tokenizer_digest == tokenizer_digest:
        return None
    pairs = places.text / PAIRS
    return Prepared(
        corpus_digest=corpus.digest,
        tokenizer_digest=tokenizer_digest,
        directory=places.train,
        dev_directory=places.dev,
        tokenizer_file=places.tokenizer / tokenizers.FILE,
        report=report,
        train_words=train.words,
        pairs_file=pairs if pairs.exists() else None,
    )


def _limits(text: Path, words: int | None) -> dict[Split, list[Limit]]:
    """Of every domain of train and dev: its name, its cleaned file, and how many words of it are taken (dev: all)."""
    report = read_report(text)
    train = [entry for entry in report if entry.split == "train"]
    taken = quotas([entry.words for entry in train], words)
    return {
        "train": [Limit(entry.domain, text / entry.file, take) for entry, take in zip(train, taken, strict=True)],
        "dev": [Limit(entry.domain, text / entry.file, entry.words) for entry in report if entry.split == "dev"],
    }
