"""The one way to score a model: a plan of items, made once per tokenizer, and a model, live or from disk."""

from collections.abc import Sequence
from typing import Any

from sleep_tune.evaluation.forwards import LogitsAt
from sleep_tune.evaluation.likelihood import BUDGET_BYTES, Progress, score_candidates
from sleep_tune.evaluation.plan import Plan, make_plan
from sleep_tune.evaluation.scores import ScoreRow, TaskResult, result_of
from sleep_tune.evaluation.tasks import TaskItems


def score_plan(
    model: Any, plan: Plan, progress: Progress | None = None, budget_bytes: int = BUDGET_BYTES, way: LogitsAt | None = None
) -> list[TaskResult]:
    """Score `model` on every task of `plan`; item by item."""
    scored = score_candidates(model, plan, progress, budget_bytes, way)
    return [result_of(items, plan.backend, scored, candidate_IC) for items, candidate_IC in zip(plan.items, plan.candidate_IC, strict=True)]


def evaluate(model: Any, tokenizer: Any, items: Sequence[TaskItems] | Plan, backend: str = "mlm") -> list[ScoreRow]:
    """The rows of the table of scores, one a UID. With a `Plan`, made once for many models, `tokenizer` and `backend` are its own."""
    plan = items if isinstance(items, Plan) else make_plan(tokenizer, items, backend)
    return [row for result in score_plan(model, plan) for row in result.rows]
