"""Scores of a trial's live model: which tasks, on which items, at which milestones, by the same code that scores any model."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from sleep_tune.config import Config
from sleep_tune.data.token_store import Prepared
from sleep_tune.evaluation.evaluate import Result, plan_items, score_plan
from sleep_tune.evaluation.margins import ITEMS, write_items
from sleep_tune.evaluation.official_data import available_tasks, load_items
from sleep_tune.evaluation.official_layout import write_results
from sleep_tune.evaluation.plan import Plan
from sleep_tune.evaluation.scores import ScoreRow, task_score

BACKWARD_COST = 3  # a training token costs about three forward ones
BACKENDS = {"mlm": "mlm", "clm": "causal"}  # objective -> how a model that it trained is scored


def scored_milestones(milestones: Sequence[int], tokens_per_word: float, plan_tokens: int, share: float | None) -> set[int]:
    """The milestones at which scoring `plan_tokens` once more keeps the cost of all scoring within `share` of the training before.

    A function of sizes, not of clocks: a resumed trial scores where the undisturbed one did.
    """
    if share is None:
        return set(milestones)
    chosen: set[int] = set()
    for milestone in sorted(milestones):
        if (len(chosen) + 1) * plan_tokens <= share * BACKWARD_COST * milestone * tokens_per_word:
            chosen.add(milestone)
    return chosen


class Scorer:
    """The tasks of a config, with their items read and tokenised once per process."""

    def __init__(self, config: Config, prepared: Prepared):
        self.evaluation, self.prepared, self.backend = config.evaluation, prepared, BACKENDS[config.objective]

    def plans(self, tasks: tuple[str, ...], items_per_uid: int | None) -> list[Plan]:
        """What scoring `tasks` takes, made once per process: the embedded pairs, and the official tasks there is data for."""
        tokenizer, data = self.prepared.tokenizer_file, self.evaluation.data
        asked = (items_per_uid, self.evaluation.rules, self.backend)
        plans = []
        if "pairs" in tasks and self.prepared.pairs_file is not None:
            plans.append(_plan(tokenizer, self.prepared.pairs_file, ("pairs",), *asked))
        official = tuple(task for task in tasks if task != "pairs")
        if official and data is not None:
            plans.append(_plan(tokenizer, Path(data), official, *asked))
        return plans

    def on_the_way(
        self, model: Any, milestone: int, milestones: Sequence[int], tokens_per_word: float, items: Path | None = None
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Scores by task and rows of the table of scores at `milestone`, and the file `items`; none where the time share is used up."""
        way = self.evaluation.milestones
        plans = self.plans(way.tasks, way.items_per_uid) if way.tasks else []
        cost = sum(len(bucket.row_sequence_R) * bucket.length for plan in plans for bucket in plan.buckets)
        if not plans or milestone not in scored_milestones(milestones, tokens_per_word, cost, self.evaluation.share):
            return {}, []
        results = [result for plan in plans for result in score_plan(model, plan)]
        if items is not None:
            write_items(items, results)
        return _scores([row for result in results for row in result.rows])

    def at_the_end(
        self, model: Any, directory: Path, on_progress: Callable[[int, int], None] | None = None
    ) -> tuple[dict[str, float], list[dict[str, Any]]]:
        """Final scores by task and rows; predictions and reports in the official layout, and the items, under `directory`."""
        results: list[Result] = []
        for plan in self.plans(self.evaluation.final.tasks, self.evaluation.final.items_per_uid):
            for result in score_plan(model, plan, on_progress):
                write_results(result, directory, "model")
                results.append(result)
        write_items(directory / ITEMS, results)
        return _scores([row for result in results for row in result.rows])


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
    return {**row, "rules": "honest", "backend": backend}


def _scores(rows: list[ScoreRow]) -> tuple[dict[str, float], list[dict[str, Any]]]:
    tasks = dict.fromkeys(row.task for row in rows)
    return {task: task_score(row for row in rows if row.task == task) for task in tasks}, [dataclasses.asdict(row) for row in rows]


@lru_cache(maxsize=8)
def _plan(tokenizer_file: Path, data: Path, tasks: tuple[str, ...], items_per_uid: int | None, rules: str, backend: str) -> Plan:
    """Items of the fast set where a task has one there, of the full set otherwise."""
    from transformers import PreTrainedTokenizerFast

    from sleep_tune.data.collate import SPECIAL_TOKENS

    bos, pad, eos, unk, mask = SPECIAL_TOKENS
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(tokenizer_file), bos_token=bos, pad_token=pad, eos_token=eos, unk_token=unk, mask_token=mask
    )
    fast = available_tasks(data, fast=True) if tasks != ("pairs",) else {"pairs": ""}
    items = [item for task in tasks for item in load_items(data, [task], task in fast, items_per_uid, 0, rules)]
    return plan_items(tokenizer, items, backend)
