"""Age of acquisition over a series of models: finds the checkpoints, scores one after the other, keeps only their surprisals.

How a model is loaded is the caller's; one is in memory at a time, and the items are tokenised once a tokenizer.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sleep_tune.digests import digest
from sleep_tune.errors import UserError
from sleep_tune.evaluation.age_of_acquisition import MIN_CHECKPOINTS, AgeResult, Checkpoint, Vocabulary, joined, words_seen
from sleep_tune.evaluation.evaluate import plan_items, score_plan
from sleep_tune.evaluation.plan import Plan
from sleep_tune.evaluation.tasks import TaskItems

Load = Callable[[str], tuple[Any, Any]]  # a checkpoint's source -> model, tokenizer


def find_checkpoints(option: str, hub: bool) -> dict[str, Checkpoint]:
    """The checkpoints of a command line, by source: directories with commas between, or one that holds them; revisions of a hub model.

    Words seen are read from the names (chck_10M). Raises UserError for names without a number, two of one number, or too few.
    """
    sources = [part.strip() for part in option.split(",") if part.strip()]
    if not hub:
        sources = [str(directory) for source in sources for directory in _models(source)]
    found = {source: _checkpoint(source if hub else Path(source).resolve().name) for source in sources}
    by_words: dict[float, str] = {}
    for source, checkpoint in found.items():
        other = by_words.setdefault(checkpoint.words_seen, source)
        if other != source:
            raise UserError(f"--checkpoints = {option}: {other} and {source} have seen the same number of words")
    if len(found) < MIN_CHECKPOINTS:
        raise UserError(f"--checkpoints = {option}: {len(found)} found; an age of acquisition needs a series of at least {MIN_CHECKPOINTS}")
    return dict(sorted(found.items(), key=lambda entry: entry[1].words_seen))


def _models(source: str) -> list[Path]:
    """A model directory itself, or those in a directory of checkpoints whose names have a number."""
    directory = Path(source)
    if not directory.is_dir():
        raise UserError(f"--checkpoints = {source}: no such directory")
    if (directory / "config.json").is_file():
        return [directory]
    return [entry for entry in sorted(directory.iterdir()) if (entry / "config.json").is_file() and words_seen(entry.name) is not None]


def _checkpoint(name: str) -> Checkpoint:
    words = words_seen(name)
    if words is None:
        raise UserError(f"--checkpoints: {name}: must be named by the words it has seen (chck_10M)")
    return Checkpoint(name, words)


def score_series(
    load: Load,
    checkpoints: dict[str, Checkpoint],
    items: TaskItems,
    backend: str,
    progress: Callable[[int, int], None] | None = None,
    bf16: bool = False,
) -> AgeResult:
    """The surprisals of `items` at every checkpoint, by source, joined. `progress(done, all)` counts rows of all models."""
    plans: dict[str, Plan] = {}
    results: list[AgeResult] = []
    vocabulary = None
    for done, source in enumerate(checkpoints):
        model, tokenizer = load(source)
        key = digest(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else source
        plan = plans.setdefault(key, plans.get(key) or plan_items(tokenizer, [items], backend))

        def report(rows: int, of: int, before: int = done) -> None:
            if progress:
                progress(before * of + rows, len(checkpoints) * of)

        [result] = score_plan(model, plan, report, bf16=bf16)
        if not isinstance(result, AgeResult):
            raise TypeError(f"items of task {items.task} have no ages")
        results.append(result)
        vocabulary = vocabulary or word_tokens(tokenizer, items)
    return joined(results, list(checkpoints.values()), vocabulary)


def word_tokens(tokenizer: Any, items: TaskItems) -> Vocabulary:
    """Size of the tokenizer, and how many tokens each word has behind another word."""
    before = len(tokenizer("The", add_special_tokens=False)["input_ids"])
    words: Sequence[str] = list(dict.fromkeys(item.uid for item in items.items))
    ids = tokenizer([f"The {word}" for word in words], add_special_tokens=False)["input_ids"] if words else []
    return Vocabulary(int(tokenizer.vocab_size), {word: max(1, len(row) - before) for word, row in zip(words, ids, strict=True)})
