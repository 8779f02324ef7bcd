"""The official questions that predictions are held against, read once a task, for the edition asked."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sleep_tune.evaluation.challenge import AOA_CONTEXTS, GLOBAL_PIQA, File
from sleep_tune.evaluation.official_data import available_tasks, load_items
from sleep_tune.evaluation.official_layout import prediction_text
from sleep_tune.evaluation.prediction_checks import Gold
from sleep_tune.evaluation.tasks import MISSING_VALUES, TASKS, TaskItems

Found = tuple[TaskItems | None, str]


@dataclass
class Questions:
    """Items by file, full or fast, from `data` (None: none). Each comes with the reason where there are none."""

    data: Path | None
    edition: str
    _items: dict[tuple[str, bool], Found] = field(default_factory=dict)
    _gold: dict[tuple[str, bool], Gold | None] = field(default_factory=dict)

    def items(self, file: File, fast: bool) -> Found:
        """The items of a file's task, if all official ones are there. Raises UserError for damaged data."""
        key = (file.task, fast)
        if key not in self._items:
            self._items[key] = self._read(file, fast)
        return self._items[key]

    def gold(self, file: File, fast: bool) -> tuple[Gold | None, str]:
        """What they say of the file's predictions."""
        items, why_not = self.items(file, fast)
        key = (file.task, fast)
        if key not in self._gold:
            self._gold[key] = _gold(items) if items is not None else None
        return self._gold[key], why_not

    def contexts(self) -> tuple[frozenset[tuple[str, str]] | None, str]:
        """Words and the numbers of their contexts, of which aoa has surprisals. Raises UserError for damaged data."""
        items, why_not = self._load("aoa", fast=False)
        if items is not None and len(items.items) != AOA_CONTEXTS:
            why_not = f"the full data in {self.data} are not the official ones ({len(items.items):,} contexts, officially {AOA_CONTEXTS:,})"
            items = None
        return None if items is None else frozenset((item.uid, str(item.index)) for item in items.items), why_not

    def _read(self, file: File, fast: bool) -> Found:
        if file in GLOBAL_PIQA:
            return None, "Global PIQA is not scored by this program"
        items, why_not = self._load(file.task, fast)
        sizes, kind = (file.fast_sizes, "fast") if fast else (file.sizes, "full")
        return (None, why_not) if items is None else _whole(items, sizes, f"the {kind} data in {self.data}")

    def _load(self, task: str, fast: bool) -> Found:
        kind = "fast" if fast else "full"
        if self.data is None:
            return None, f"no {kind} data (give --data)"
        if task not in available_tasks(self.data, fast):
            return None, f"no {kind} data in {self.data} (--data)"
        [items] = load_items(self.data, [task], fast, rules=self.edition)
        return items, ""


def _whole(items: TaskItems, sizes: Mapping[str, int], what: str) -> Found:
    counts, expected = Counter(item.uid.lower() for item in items.items), {uid.lower(): count for uid, count in sizes.items()}
    uid = next((uid for uid in {**expected, **counts} if counts[uid] != expected.get(uid, 0)), None)
    if uid is None:
        return items, ""
    return None, f"{what} are not the official ones ({uid}: {counts[uid]:,} items, officially {expected.get(uid, 0):,})"


def _gold(items: TaskItems) -> Gold:
    task = TASKS[items.task]
    if task.aggregate == "reading":
        # the pipelines read the word None for a missing value
        lonely = (item.index for item in items.items if len(item.sentences) < 2 or item.sentences[1] in MISSING_VALUES)
        return Gold({}, frozenset(lonely))
    candidates: dict[str, list[frozenset[str]]] = {}
    for item in items.items:
        texts = frozenset(prediction_text(items, item, candidate).strip() for candidate in range(len(item.sentences)))
        candidates.setdefault(item.uid.lower(), []).append(texts)
    return Gold(candidates)
