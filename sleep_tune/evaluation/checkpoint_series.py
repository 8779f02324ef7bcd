"""A series of checkpoints: finds them, scores one after the other on the same plans, joins their surprisals to ages of acquisition.

How a model is loaded is the caller's. One is in memory at a time; items are tokenised once a tokenizer; each task of a checkpoint is
recorded when it is done.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sleep_tune.digests import digest
from sleep_tune.errors import UserError
from sleep_tune.evaluation.age_of_acquisition import MIN_CHECKPOINTS, AgeResult, Checkpoint, Vocabulary, joined, words_seen
from sleep_tune.evaluation.evaluate import plan_items, score_plan
from sleep_tune.evaluation.finished import Part, Records, Target, items_table
from sleep_tune.evaluation.plan import Plan
from sleep_tune.evaluation.scores import Texts
from sleep_tune.evaluation.tasks import TaskItems

Load = Callable[[str], tuple[Any, Any]]  # a checkpoint's source -> model, tokenizer
Progress = Callable[[int, int], None]


def find_checkpoints(option: str, hub: bool, least: int = MIN_CHECKPOINTS) -> dict[str, Checkpoint]:
    """The checkpoints of a command line, by source: directories with commas between, or one that holds them; revisions of a hub model.

    Words seen are read from the names (chck_10M). Raises UserError for names without a number, two of one number, or fewer than `least`.
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
    if len(found) < least:
        why = f"an age of acquisition needs a series of at least {least}" if least > 1 else "must be model directories named chck_1M, …"
        raise UserError(f"--checkpoints = {option}: {len(found)} found; {why}")
    return dict(sorted(found.items(), key=lambda entry: entry[1].words_seen))


def _models(source: str) -> list[Path]:
    """A model directory itself, or those in a directory of checkpoints whose names have a number."""
    directory = Path(source)
    try:
        if not directory.is_dir():
            raise UserError(f"--checkpoints = {source}: no such directory")
        if (directory / "config.json").is_file():
            return [directory]
        return [entry for entry in sorted(directory.iterdir()) if (entry / "config.json").is_file() and words_seen(entry.name) is not None]
    except OSError as error:
        raise UserError(f"--checkpoints = {source[:200]}: cannot be read ({error.strerror})") from None


def _checkpoint(name: str) -> Checkpoint:
    words = words_seen(name)
    if words is None:
        raise UserError(f"--checkpoints: {name}: must be named by the words it has seen (chck_10M)")
    return Checkpoint(name, words)


def score_series(
    load: Load, targets: Mapping[str, Target], parts: Sequence[Part], records: Records, progress: Progress | None = None
) -> list[str]:
    """Score what is not scored yet of `parts` at every checkpoint, by source; names of the checkpoints that were.

    `progress(done, all)` counts rows of all models. Surprisals for aoa are kept to be joined by `join_ages`. Each part has a plan of its
    own: what shares a batch moves a score by a rounding, and that must not depend on what was scored before an interruption.
    """
    todo = {source: [part for part in parts if records.read(target, part) is None] for source, target in targets.items()}
    todo = {source: missing for source, missing in todo.items() if missing}
    plans: dict[tuple[str, str], Plan] = {}
    for done, (source, missing) in enumerate(todo.items()):
        model, tokenizer = load(source)
        planned = [_plan(plans, tokenizer, source, part, records.backend) for part in missing]
        of, before = sum(plan.n_rows for plan in planned), 0
        for part, plan in zip(missing, planned, strict=True):

            def report(rows: int, _: int, before: int = done * of + before, of: int = len(todo) * of) -> None:
                if progress:
                    progress(before + rows, of)

            [result] = score_plan(model, plan, report, bf16=records.bf16)
            more = _series_facts(result, word_tokens(tokenizer, part.items)) if isinstance(result, AgeResult) else None
            records.keep(targets[source], part, result, more=more)
            before += plan.n_rows
        del model  # before the next one is loaded
    return [targets[source].revision for source in todo]


def _plan(plans: dict[tuple[str, str], Plan], tokenizer: Any, source: str, part: Part, backend: str) -> Plan:
    """The plan of a part for this tokenizer: made once, if the tokenizer can say that it is the same."""
    own = digest(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else source
    key = (own, part.key)
    if key not in plans:
        plans[key] = plan_items(tokenizer, [part.items], backend)
    return plans[key]


def _series_facts(result: AgeResult, vocabulary: Vocabulary) -> dict[str, Any]:
    """What of a checkpoint's surprisals its table has no column for."""
    words = {"size": vocabulary.size, "tokens": dict(vocabulary.tokens)}
    declared = result.texts.declared if result.texts else None
    return {"positions": result.positions, "declared": declared, "sees_ahead": result.sees_ahead, "vocabulary": words}


def join_ages(targets: Mapping[str, Target], part: Part, records: Records) -> bool:
    """Publish the ages of acquisition of a series whose surprisals are all kept, unless they are; whether they were not."""
    ordered = list(targets.values())
    series = digest(*(text for target in ordered for text in (target.revision, target.digest)))
    record = records.read(records.final, part)
    if record is not None and record.get("series") == series:
        return False
    found = [_surprisals(target, part, records) for target in ordered]
    results = [result for result, _ in found]
    checkpoints = [Checkpoint(target.revision, target.words_seen or 0.0) for target in ordered]
    records.keep(records.final, part, joined(results, checkpoints, found[0][1]), more={"series": series})
    return True


def _surprisals(target: Target, part: Part, records: Records) -> tuple[AgeResult, Vocabulary]:
    """A checkpoint's surprisals as they were kept."""
    record = records.read(target, part)
    if record is None:
        raise RuntimeError(f"{target.revision}: no surprisals kept")
    table = items_table(records.items_file(target, part), ["score", "too_long", "unknown", "beyond"])
    surprisal_I = -table["score"].to_numpy().astype(np.float64)
    positions, ahead = record["positions"], record["sees_ahead"]
    checkpoint = (Checkpoint(target.revision, target.words_seen or 0.0),)
    too_long_I, unknown_I, beyond_I = (table[name].to_numpy() for name in ("too_long", "unknown", "beyond"))
    texts = Texts(unknown_I, beyond_I, record["declared"])
    result = AgeResult(part.items, records.label, checkpoint, surprisal_I[None], too_long_I, positions, ahead, texts=texts)
    return result, Vocabulary(record["vocabulary"]["size"], record["vocabulary"]["tokens"])


def word_tokens(tokenizer: Any, items: TaskItems) -> Vocabulary:
    """Size of the tokenizer, and how many tokens each word has behind another word."""
    before = len(tokenizer("The", add_special_tokens=False)["input_ids"])
    words: Sequence[str] = list(dict.fromkeys(item.uid for item in items.items))
    ids = tokenizer([f"The {word}" for word in words], add_special_tokens=False)["input_ids"] if words else []
    return Vocabulary(int(tokenizer.vocab_size), {word: max(1, len(row) - before) for word, row in zip(words, ids, strict=True)})
