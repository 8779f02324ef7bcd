"""Scores of a trial's live model: which tasks, on which items, at which milestones, by the same code that scores any model."""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from sleep_tune.config import Config
from sleep_tune.data.token_store import Prepared
from sleep_tune.evaluation.evaluate import plan_items, score_plan
from sleep_tune.evaluation.finished import Part, Records, Subset, held, part_of
from sleep_tune.evaluation.likelihood import Show
from sleep_tune.evaluation.margins import write_items
from sleep_tune.evaluation.model_source import ModelSource
from sleep_tune.evaluation.official_data import available_tasks, load_items
from sleep_tune.evaluation.plan import Plan
from sleep_tune.evaluation.published import publish, scores_of
from sleep_tune.evaluation.result_files import summary
from sleep_tune.evaluation.scores import ScoreRow, task_score
from sleep_tune.evaluation.tasks import TASKS

# what a training token costs at least in scored ones, which are exact, in fp32: benchmarks/evaluation.py, on CPUs
TRAINING_COST = {"fp32": 3.0, "bf16": 1.4}
TENTH = 10  # of the budget: from there on milestones lie that far apart
SEED = 0  # of the samples: every trial of every study has the same items
BACKENDS = {"mlm": "mlm", "clm": "causal"}  # objective -> how a model that it trained is scored


def scored_milestones(milestones: Sequence[int], tokens_a_word: float, plan_tokens: int, share: float | None) -> set[int]:
    """The milestones at which scoring `plan_tokens` once more keeps the cost of all scoring within `share` of the training before, whose
    words cost as much as `tokens_a_word` scored tokens.

    A function of sizes, not of clocks: a resumed trial scores where the undisturbed one did.
    """
    if share is None:
        return set(milestones)
    chosen: set[int] = set()
    for milestone in sorted(milestones):
        if (len(chosen) + 1) * plan_tokens <= share * milestone * tokens_a_word:
            chosen.add(milestone)
    return chosen


def affordable(size_of: Callable[[int | None], tuple[int, int]], asked: int | None, tokens: float) -> int | None:
    """How many items of every UID cost at most `tokens`, up to `asked` (None: all of them); one where not even that many do.

    `size_of` tells of a number of items the tokens of a plan, and the most items that a UID has in it.
    """
    count = asked
    while (size := size_of(count))[0] > tokens and size[1] > 1:
        # a smaller sample costs a little more an item, as less of it repeats: this comes down to the largest, and stops
        count = max(1, min(int(size[1] * tokens / size[0]), size[1] - 1))
    return count


@dataclass(frozen=True)
class Source:
    """Where a trial's items come from and what they are planned for."""

    data: Path
    tokenizer_file: Path
    rules: str
    backend: str
    full: bool  # the full set; else the fast one, for tasks that have one there

    def fast(self, task: str) -> bool:
        """Whether a task's items are those of the fast set."""
        return not self.full and has_fast_set(self.data, task)

    def part(self, task: str, items_per_uid: int | None) -> Part:
        """A task's items: a seeded sample of so many of every UID; None: all."""
        [items] = load_items(self.data, [task], self.fast(task), items_per_uid, SEED, self.rules)
        return part_of(items, self.fast(task), items_per_uid)

    def plan(self, parts: Sequence[Part]) -> Plan:
        """The plan of all of `parts`."""
        from transformers import PreTrainedTokenizerFast

        from sleep_tune.data.collate import SPECIAL_TOKENS

        bos, pad, eos, unk, mask = SPECIAL_TOKENS
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_file=str(self.tokenizer_file), bos_token=bos, pad_token=pad, eos_token=eos, unk_token=unk, mask_token=mask
        )
        return plan_items(tokenizer, [part.items for part in parts], self.backend)


@lru_cache(maxsize=8)
def has_fast_set(data: Path, task: str) -> bool:
    """Whether `data` has the task in its fast set."""
    return TASKS[task].fast is not None and task in available_tasks(data, fast=True)


@lru_cache(maxsize=16)
def planned(source: Source, tasks: tuple[str, ...], items_per_uid: int | None) -> tuple[tuple[Part, ...], Plan]:
    """The parts of `tasks` and their plan, kept for the next trial in this process."""
    parts = tuple(source.part(task, items_per_uid) for task in tasks)
    return parts, source.plan(parts)


@dataclass(frozen=True)
class OnTheWay:
    """What a trial is scored on at milestones, and at which: always the same items, so that its scores are points of one curve."""

    plans: tuple[tuple[tuple[Part, ...], Plan], ...]
    milestones: frozenset[int]


class Scorer:
    """The tasks of a config, with their items read and tokenised once per process."""

    def __init__(self, config: Config, prepared: Prepared):
        self.evaluation, self.prepared, self.backend = config.evaluation, prepared, BACKENDS[config.objective]
        self.bf16 = config.training.precision == "bf16"

    def word_cost(self, tokens_per_word: float) -> float:
        """What training on a word costs in scored tokens."""
        return TRAINING_COST["bf16" if self.bf16 else "fp32"] * tokens_per_word

    def way(self, milestones: Sequence[int], tokens_per_word: float) -> OnTheWay:
        """The largest sample, up to the one asked for, that the time share allows at every tenth of the budget, which is the last
        milestone; if that is less than one item of every UID, then one, at those milestones at which it can be afforded."""
        asked, share = self.evaluation.milestones, self.evaluation.share
        parts = self._sources(asked.tasks, full=False)
        count = asked.items_per_uid
        if parts and share is not None:

            def size_of(items_per_uid: int | None) -> tuple[int, int]:
                sizes = [_size(source, tasks, items_per_uid) for source, tasks in parts]
                return sum(tokens for tokens, _ in sizes), max(most for _, most in sizes)

            count = affordable(size_of, count, share * self.word_cost(tokens_per_word) * max(milestones) / TENTH)
        plans = tuple(planned(source, tasks, count) for source, tasks in parts)
        cost = sum(plan.n_tokens for _, plan in plans)
        return OnTheWay(plans, frozenset(scored_milestones(milestones, self.word_cost(tokens_per_word), cost, share) if plans else ()))

    def finals(self) -> Iterator[tuple[tuple[Part, ...], Callable[[], Plan]]]:
        """What the final scores take, task by task: the part that is asked for and how to plan it. Whole full sets are not kept in memory;
        their fast sets are scored with them, which costs nothing: their rows are in the plan."""
        asked = self.evaluation.final
        for source, tasks in self._sources(asked.tasks, asked.set == "full"):
            for task in tasks:
                if asked.items_per_uid is not None or task == "pairs" or source.fast(task):
                    parts, plan = planned(source, (task,), asked.items_per_uid)
                    yield parts, partial(_same, plan)
                    continue
                some = [source.part(task, None)]
                if TASKS[task].fast != TASKS[task].full and has_fast_set(source.data, task):
                    some.append(replace(source, full=False).part(task, None))
                yield tuple(some), partial(source.plan, some)

    def on_the_way(
        self, model: Any, milestone: int, milestones: Sequence[int], tokens_per_word: float, items: Path | None = None
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Scores by task and rows of the table of scores at `milestone`, and the file `items`; none where the time share is used up."""
        way = self.way(milestones, tokens_per_word)
        if milestone not in way.milestones:
            return {}, []
        scored = [pair for parts, plan in way.plans for pair in zip(parts, score_plan(model, plan), strict=True)]
        if items is not None:
            write_items(items, [result for _, result in scored])
        return _scores([(part, result.rows) for part, result in scored])

    def at_the_end(
        self, model: Any, saved: Path, directory: Path, show: Show | None = None
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Final scores by task and rows. `directory` gets what the evaluation command writes for the `saved` model, and that goes on from
        there; so does this, where it was interrupted between two tasks. `show` is told of every task how far it is."""
        with held(directory):
            return self._at_the_end(model, Records(directory, ModelSource(str(saved)), self.backend, self.evaluation.rules), show)

    def _at_the_end(self, model: Any, records: Records, show: Show | None) -> tuple[dict[str, float], list[dict[str, Any]]]:
        scored: list[tuple[Part, Sequence[ScoreRow]]] = []
        for parts, plan in self.finals():
            if any(records.read(records.final, part) is None for part in parts):
                on_progress = None if show is None else show(parts[0].items.task)
                for part, result in zip(parts, score_plan(model, plan(), on_progress), strict=True):
                    records.keep(records.final, part, result)
            record = records.read(records.final, parts[0])
            assert record is not None
            scored.append((parts[0], [ScoreRow(**row) for row in record["rows"]]))
        self._publish(records, [part for part, _ in scored])
        return _scores(scored)

    def _publish(self, records: Records, parts: Sequence[Part]) -> None:
        asked = self.evaluation.final
        usual = Subset(asked.set, asked.items_per_uid)
        scores = scores_of(records, records.gather([records.final]), {part.items.task: part.subset for part in parts}, usual)
        publish(records, scores, SEED, scores.notes)

    def _sources(self, tasks: Sequence[str], full: bool) -> list[tuple[Source, tuple[str, ...]]]:
        """`tasks` by where their items are: the embedded pairs, and the official tasks there is data for."""
        official = tuple(task for task in tasks if task != "pairs")
        data = None if self.evaluation.data is None else Path(self.evaluation.data)
        places = ((self.prepared.pairs_file, ("pairs",) if "pairs" in tasks else ()), (data, official))
        made = (self.prepared.tokenizer_file, self.evaluation.rules, self.backend, full)
        return [(Source(place, *made), some) for place, some in places if place is not None and some]


def dev_row(loss: float, words: int, backend: str) -> dict[str, Any]:
    """The row of `dev_loss` in the table of scores, over `words` words; a broken network's loss is missing, not a number."""
    broken = not math.isfinite(loss)
    row = {
        "task": "dev_loss",
        "uid": "dev",
        "n": words,
        "score": None if broken else loss,
        "unit": "nats",
        "stderr": None,
        "ties": 0,
        "nans": int(broken),
    }
    return {**row, "rules": "honest", "backend": backend, "set": None, "items_per_uid": None}


def score_texts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows of the table of scores by task, each with its standard error and unit: `blimp 60.12 ± 0.41 %`, `dev_loss 4.812 nats`."""
    names = [field.name for field in dataclasses.fields(ScoreRow)]
    told = []
    table = summary([ScoreRow(**{name: row[name] for name in names}) for row in rows if row["stderr"] is not None])
    for task, line in table.items():
        digits, unit = (2, "%") if line["unit"] == "percent" else (3, line["unit"])
        told.append(f"{task} {line['score']:.{digits}f} ± {line['stderr']:.{digits}f} {unit}")
    return told + [f"{row['task']} {row['score']:.3f} {row['unit']}" for row in rows if row["stderr"] is None and row["score"] is not None]


def _scores(scored: Sequence[tuple[Part, Sequence[ScoreRow]]]) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Scores by task; rows, with the set that their items are of and how many of every UID where that is a sample."""
    tasks = {part.items.task: task_score(rows) for part, rows in scored}
    return tasks, [dataclasses.asdict(row) | dataclasses.asdict(part.subset) for part, rows in scored for row in rows]


def _same(plan: Plan) -> Plan:
    return plan


@lru_cache(maxsize=64)
def _size(source: Source, tasks: tuple[str, ...], items_per_uid: int | None) -> tuple[int, int]:
    """Tokens of a plan, and the most items of a UID, of tasks that are sampled."""
    parts = [source.part(task, items_per_uid) for task in tasks]
    sampled = (part.items for part in parts if TASKS[part.items.task].aggregate != "reading")
    counts = Counter((items.task, item.uid) for items in sampled for item in items.items)
    return source.plan(parts).n_tokens, max(counts.values(), default=0)
