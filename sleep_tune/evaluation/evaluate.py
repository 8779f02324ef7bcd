"""The one way to score a model: a plan of items, made once per tokenizer, and a model, live or from disk."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sleep_tune.evaluation.age_of_acquisition import AgeResult, age_result
from sleep_tune.evaluation.forwards import LogitsAt
from sleep_tune.evaluation.likelihood import BUDGET_BYTES, Progress, score_candidates
from sleep_tune.evaluation.plan import Plan, labelled, make_plan
from sleep_tune.evaluation.reading import ReadingResult, reading_plan, reading_result
from sleep_tune.evaluation.scores import ScoreRow, TaskResult, result_of
from sleep_tune.evaluation.tasks import TASKS, TaskItems

Result = TaskResult | ReadingResult | AgeResult


def plan_items(tokenizer: Any, items: Sequence[TaskItems], backend: str = "mlm") -> Plan:
    """The rows of all tasks: candidates with their own tokens masked, contexts of reading with what comes next masked.

    Raises UserError for a tokenizer without offsets or mask.
    """
    read = [task for task in items if TASKS[task.task].aggregate == "reading"]
    if not read:
        return make_plan(tokenizer, items, backend)
    compared = [task for task in items if TASKS[task.task].aggregate != "reading"]
    parts = [make_plan(tokenizer, compared, backend)] if compared else []
    return _joined([*parts, *(reading_plan(tokenizer, task, backend) for task in read)], items)


def _joined(plans: Sequence[Plan], items: Sequence[TaskItems]) -> Plan:
    """One plan of several, its tasks in the order of `items`; slots and candidates are numbered through."""
    buckets, candidate_IC, owners, slots, candidates = [], {}, [], 0, 0
    for plan in plans:
        buckets += [replace(bucket, slot_T=bucket.slot_T + slots) for bucket in plan.buckets]
        for task, chosen_IC in zip(plan.items, plan.candidate_IC, strict=True):
            candidate_IC[id(task)] = np.where(chosen_IC >= 0, chosen_IC + candidates, -1)
        owners.append(plan.slot_candidate + np.int32(candidates))
        slots, candidates = slots + len(plan.slot_candidate), candidates + plan.n_candidates
    return Plan(
        plans[0].backend,
        tuple(items),
        tuple(sorted(buckets, key=lambda bucket: bucket.length)),
        np.concatenate(owners),
        candidates,
        tuple(candidate_IC[id(task)] for task in items),
        plans[0].mask_id,
        np.concatenate([plan.candidate_tokens for plan in plans]),
        np.concatenate([plan.unknown for plan in plans]),
    )


def score_plan(
    model: Any,
    plan: Plan,
    progress: Progress | None = None,
    budget_bytes: int = BUDGET_BYTES,
    way: LogitsAt | None = None,
    bf16: bool = False,
) -> list[Result]:
    """Score `model` on every task of `plan`; item by item. `bf16` is approximate, and every result's backend says so."""
    scored, name = score_candidates(model, plan, progress, budget_bytes, way, bf16), labelled(plan.backend, bf16)
    return [
        _RESULTS.get(TASKS[items.task].aggregate, result_of)(items, name, scored, candidate_IC)
        for items, candidate_IC in zip(plan.items, plan.candidate_IC, strict=True)
    ]


def evaluate(model: Any, tokenizer: Any, items: Sequence[TaskItems] | Plan, backend: str = "mlm") -> list[ScoreRow]:
    """The rows of the table of scores, one a UID. With a `Plan`, made once for many models, `tokenizer` and `backend` are its own."""
    plan = items if isinstance(items, Plan) else plan_items(tokenizer, items, backend)
    return [row for result in score_plan(model, plan) for row in result.rows]


_RESULTS: dict[str, Callable[..., Result]] = {"reading": reading_result, "ages": age_result}
