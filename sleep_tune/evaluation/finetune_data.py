"""The fine-tuned tasks' work: rows read and sampled, models fine-tuned task by task and seed by seed, one record of each as it is done.

A record is published whole and carries the key of what it was made from: the same command again goes on with the next one.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sleep_tune.digests import canonical_json, digest
from sleep_tune.errors import UserError
from sleep_tune.evaluation.finetune import Encoded, Epoch, Outcome, encode, finetune, longest_row
from sleep_tune.evaluation.finetune_settings import GLUE, GROUP, Pooling, Settings, reader
from sleep_tune.evaluation.forwards import check_vocabulary
from sleep_tune.evaluation.likelihood import Show
from sleep_tune.evaluation.official_data import SOURCE, find_directory, read_items
from sleep_tune.evaluation.strict_json import BadJson, parse
from sleep_tune.evaluation.tasks import Item, TaskItems, sample, uid_key
from sleep_tune.files import write_json
from sleep_tune.streams import stream

Load = Callable[[], tuple[Any, Any]]  # model and tokenizer, when the first of them is needed


@dataclass(frozen=True)
class Work:
    """A task to fine-tune on: `train` of the `there` rows in the file, and the rows that are scored."""

    settings: Settings
    train: tuple[Item, ...]
    there: int
    valid: TaskItems

    @property
    def pilot(self) -> bool:
        """Whether rows were left out, for training or scoring."""
        return len(self.train) < self.there or self.valid.sampled


@dataclass(frozen=True)
class How:
    """What is the same for all tasks; `model` is a digest of the model's files."""

    seeds: tuple[int, ...]
    backend: str
    model: str
    out: Path


@dataclass(frozen=True)
class Tuned:
    """What came of a task: an outcome a seed, and how many rows were cut to `longest` tokens."""

    work: Work
    how: How
    outcomes: tuple[Outcome, ...]
    longest: int
    train_cut: int
    valid_cut_I: np.ndarray


def load_works(
    data: Path,
    tasks: Sequence[str],
    backend: str,
    rules: str = "honest",
    train_rows: int | None = None,
    valid_rows: int | None = None,
    seed: int = 0,
    needed: Collection[str] = (),
) -> tuple[list[Work], list[str]]:
    """The tasks whose files are there, and a line for each that is left out. Rows are left out by `seed`, where fewer are asked for.
    Raises UserError for malformed files, and for a task of `needed` without files."""
    found = find_directory(data, reader(GLUE[tasks[0]])) if tasks else None
    works, notes = [], []
    for task in tasks:
        files = [f"{task}.train.jsonl", f"{task}.valid.jsonl"]
        missing = [file for file in files if found is None or file not in found.files]
        if found is None or missing:
            line = f"no {' and '.join(missing)} in {data} (full_eval/glue_filtered); {SOURCE}"
            if task in needed:
                raise UserError(f"task = {task}: {line}")
            notes.append(f"{task}: skipped: {line}")
            continue
        train, valid = (read_items(reader(GLUE[task]), found, file, rules) for file in files)
        chosen = valid if valid_rows is None else sample(valid, task, valid_rows, seed)
        scored = TaskItems(task, found.dataset, rules, seed, chosen, sampled=len(chosen) < len(valid))
        settings = replace(GLUE[task], pooling=pooling_of(GLUE[task], backend, rules))
        works.append(Work(settings, _subset(train, task, train_rows, seed), len(train), scored))
    return works, notes


def _subset(rows: tuple[Item, ...], task: str, count: int | None, seed: int) -> tuple[Item, ...]:
    """So many rows, drawn by (seed, task) and left in order; fewer are part of more."""
    if count is None or count >= len(rows):
        return rows
    order = stream(seed, "finetune_rows", uid_key(GROUP, task)).permutation(len(rows))
    return tuple(rows[i] for i in sorted(order[:count]))


def pooling_of(settings: Settings, backend: str, rules: str) -> Pooling:
    """The token that the head reads: the official first one, except of a causal model, whose first token has seen nothing of the row;
    there the last, unless rules 2025 ask for the pipeline's own behaviour."""
    return "last" if backend == "causal" and rules != "2025" else settings.pooling


def finetune_works(works: Sequence[Work], how: How, load: Load, show: Show) -> Iterator[Tuned]:
    """Fine-tune what is not done yet, task by task and seed by seed; a record is published after each seed, a task handed on when done.

    The model is loaded once, for the first task that needs it: fine-tuning is of a copy.
    """
    loaded: tuple[Any, Any] | None = None
    for work in works:
        keys = {seed: _key(work, how, seed) for seed in how.seeds}
        records = {seed: _read_record(_place(how, work, seed), keys[seed]) for seed in how.seeds}
        if None in records.values():
            model, tokenizer = loaded = loaded or load()
            longest = longest_row(model, work.settings)
            train, valid = (encode(tokenizer, items, longest) for items in (work.train, work.valid.items))
            check_vocabulary(model, max(max(ids) for rows in (train, valid) for ids in rows.ids_I))
            for seed in [seed for seed in how.seeds if records[seed] is None]:
                progress = show(f"{work.settings.task} seed {seed}")
                outcome = finetune(model, train, valid, work.settings, seed, work.valid.rules, progress)
                record = _record(keys[seed], outcome, longest, train, valid)
                write_json(_place(how, work, seed), record)
                records[seed] = record
        yield _tuned(work, how, [records[seed] for seed in how.seeds])


def _place(how: How, work: Work, seed: int) -> Path:
    return how.out / GROUP / work.settings.task / f"seed_{seed}.json"


def _key(work: Work, how: How, seed: int) -> str:
    texts = canonical_json([[item.sentences, item.numbers["label"]] for items in (work.train, work.valid.items) for item in items])
    return digest(how.model, how.backend, work.valid.rules, str(seed), canonical_json(asdict(work.settings)), str(len(work.train)), texts)


def _record(key: str, outcome: Outcome, longest: int, train: Encoded, valid: Encoded) -> dict[str, Any]:
    return {
        "key": key,
        "epochs": [asdict(epoch) for epoch in outcome.epochs],
        "best": outcome.best,
        "longest": longest,
        "train_cut": int(train.cut_I.sum()),
        "valid_cut": np.flatnonzero(valid.cut_I).tolist(),
        "logits": np.asarray(outcome.logits_IC, dtype=np.float64).tolist(),
    }


def _read_record(path: Path, key: str) -> dict[str, Any] | None:
    """A finished (task, seed), if it is of the same model, rows and settings."""
    if not path.is_file():
        return None
    try:
        record = parse(path.read_bytes())
    except BadJson:
        raise UserError(f"{path}: damaged; delete it to fine-tune again") from None
    return record if isinstance(record, dict) and record.get("key") == key else None


def _tuned(work: Work, how: How, records: Sequence[Any]) -> Tuned:
    outcomes = tuple(
        Outcome(tuple(Epoch(**epoch) for epoch in record["epochs"]), record["best"], np.array(record["logits"], dtype=np.float32))
        for record in records
    )
    cut_I = np.zeros(len(work.valid.items), dtype=bool)
    cut_I[records[0]["valid_cut"]] = True
    return Tuned(work, how, outcomes, records[0]["longest"], records[0]["train_cut"], cut_I)
