"""The sentences of items, which tables of items know by a digest only: looked up in the evaluation data."""

from collections.abc import Iterable
from pathlib import Path

from sleep_tune.errors import UserError
from sleep_tune.evaluation.finetune_settings import GLUE, reader
from sleep_tune.evaluation.margins import Items
from sleep_tune.evaluation.official_data import available_tasks, find_directory, load_items, read_items
from sleep_tune.evaluation.result_files import text_key
from sleep_tune.evaluation.tasks import Item

Texts = dict[tuple[str, int], tuple[str, ...]]  # by task and digest; the right candidate first


def texts_of(items: Items, data: Path) -> Texts:
    """The candidates of items of `data`, as far as they are there. Raises UserError for data that is missing or malformed."""
    if not data.exists():
        raise UserError(f"--evaluation-data = {data}: no such file or directory")
    texts: Texts = {}
    for task in dict.fromkeys(items.task):
        of_task = items.task == task
        wanted, rules = set(items.text[of_task].tolist()), items.rules[of_task][0] or "honest"
        for item in _items(data, task, rules):
            key = text_key(item)
            if key in wanted:
                texts[task, key] = item.sentences
    return texts


def _items(data: Path, task: str, rules: str) -> Iterable[Item]:
    if task in GLUE:
        found = find_directory(data, reader(GLUE[task]))
        file = f"{task}.valid.jsonl"
        yield from read_items(reader(GLUE[task]), found, file, rules) if found is not None and file in found.files else ()
        return
    for fast in (False, True):
        if task in available_tasks(data, fast) or data.suffix == ".jsonl":
            [loaded] = load_items(data, [task], fast, rules=rules)
            yield from loaded.items
            return
