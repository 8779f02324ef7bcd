"""What came of fine-tuning: scores with standard errors, what their reader has to know, rows for comparing models, official files.

Legend: I rows, C labels.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sleep_tune.evaluation.finetune import Outcome
from sleep_tune.evaluation.finetune_data import Tuned
from sleep_tune.evaluation.finetune_settings import GROUP, METRICS, SOURCES, Floats, Ints, chosen_labels, metric_stderr
from sleep_tune.evaluation.result_records import Identity, Record, begin_results, claim
from sleep_tune.evaluation.rules import Decisions
from sleep_tune.evaluation.scores import ScoreRow, TaskResult
from sleep_tune.files import write_json, write_text

OPTIMISTIC = f"{GROUP}: the epoch is chosen on the very rows that are scored, as the official pipeline does: optimistic"


def _labels(tuned: Tuned) -> Ints:
    return np.array([int(item.numbers["label"]) for item in tuned.work.valid.items], dtype=np.int64)


def score_row(tuned: Tuned) -> ScoreRow:
    """Mean over seeds of the task's metric, in percent. Standard error over seeds; of a single seed over rows, which says nothing
    about other seeds. Ties and NaNs are summed over seeds."""
    items, settings = tuned.work.valid, tuned.work.settings
    values = [_best(tuned, i, settings.score) for i in range(len(tuned.outcomes))]
    if len(values) > 1:
        stderr = float(np.std(values, ddof=1)) / len(values) ** 0.5
    else:
        stderr = _stderr_over_rows(tuned)
    ties, nans = (sum(int(flag.sum()) for flag in flags) for flags in zip(*map(_ties_and_nans, tuned.outcomes), strict=True))
    score = 100 * sum(values) / len(values)
    return ScoreRow(
        settings.task, settings.task, len(items.items), score, "percent", 100 * stderr, ties, nans, items.rules, tuned.how.backend
    )


def _best(tuned: Tuned, i: int, metric: str) -> float:
    """A metric of the best epoch of the i-th seed, from its answers."""
    return METRICS[metric](_labels(tuned), chosen_labels(tuned.outcomes[i].logits_IC, tuned.work.valid.rules))


def _stderr_over_rows(tuned: Tuned) -> float:
    chosen_I = chosen_labels(tuned.outcomes[0].logits_IC, tuned.work.valid.rules)
    return metric_stderr(tuned.work.settings.score, _labels(tuned), chosen_I)


def _ties_and_nans(outcome: Outcome) -> tuple[np.ndarray, np.ndarray]:
    nan_I = np.asarray(np.isnan(outcome.logits_IC).any(1))
    with np.errstate(invalid="ignore"):
        tie_I = np.asarray((outcome.logits_IC == outcome.logits_IC.max(1, keepdims=True)).sum(1) > 1)
    return tie_I & ~nan_I, nan_I


def notes(results: Sequence[Tuned]) -> list[str]:
    """What the reader of the scores has to know, a line each."""
    lines = [OPTIMISTIC] if results else []
    if any(tuned.work.valid.rules == "2026" for tuned in results):
        lines.append(f"{GROUP}: fine-tuned by the 2025 pipeline's settings: those of 2026 are not known here")
    return lines + [line for tuned in results for line in _task_notes(tuned)]


def _task_notes(tuned: Tuned) -> list[str]:
    settings, work = tuned.work.settings, tuned.work
    label_I, metric = _labels(tuned), METRICS[settings.score]
    constant = max((metric(label_I, np.full_like(label_I, label)), -label) for label in range(settings.labels))
    seeds = "; ".join(_seed_line(tuned, i) for i in range(len(tuned.outcomes)))
    lines = [f"{seeds}; answering {-constant[1]} to all rows would score {100 * constant[0]:.2f}"]
    over_rows = 100 * _stderr_over_rows(tuned)
    many = f"± is over {len(tuned.outcomes)} seeds; of the first seed over rows {over_rows:.2f}"
    lines.append(many if len(tuned.outcomes) > 1 else "one seed: ± is over rows, not over seeds")
    if work.pilot:
        scored = f"{len(work.valid.items):,}{' sampled' if work.valid.sampled else ''} rows"
        lines.append(f"a pilot on {len(work.train):,} of {work.there:,} training rows, scored on {scored}: no official files")
    lines += _other_counts(tuned)
    if unofficial(tuned) and not work.pilot:
        lines.append(f"no official files: {'; '.join(unofficial(tuned))}")
    if tuned.train_cut or tuned.valid_cut_I.any():
        most = "" if tuned.longest == settings.max_length else f", the most the model takes (officially {settings.max_length})"
        lines.append(f"{tuned.train_cut:,} training and {tuned.valid_cut_I.sum():,} scored rows cut to {tuned.longest} tokens{most}")
    if tuned.how.backend == "causal":
        lines.append(_READS[settings.pooling])
    return [f"{settings.task}: {line}" for line in lines]


_READS = {
    "first": "the head reads the first token, which in a causal model has seen nothing of the row: officially so",
    "last": "the head reads the last token; officially it is the first, which in a causal model has seen nothing of the row",
}


def _other_counts(tuned: Tuned) -> list[str]:
    """A line on rows in the files, where these are not as many as officially; of scored rows only where none was left out."""
    settings, valid = tuned.work.settings, tuned.work.valid
    whole = [] if valid.sampled else [(len(valid.items), settings.valid_rows, "scored")]
    counts = [(tuned.work.there, settings.train_rows, "training"), *whole]
    return [f"{here:,} {what} rows, the official file has {official:,}" for here, official, what in counts if official and here != official]


def _seed_line(tuned: Tuned, i: int) -> str:
    """A seed's score, its epoch, what the last epoch had, and whether it answers the same to every row or came to nothing."""
    outcome, metric = tuned.outcomes[i], tuned.work.settings.score
    line = f"seed {tuned.how.seeds[i]} {metric} {100 * _best(tuned, i, metric):.2f} at epoch {outcome.best + 1} of {len(outcome.epochs)}"
    line += f" (last: {100 * outcome.epochs[-1].metrics[metric]:.2f})"
    if len(outcome.epochs) < tuned.work.settings.epochs:
        line += f", the loss was no number from epoch {len(outcome.epochs)} on"
    return line + (", one answer to all rows" if len(set(chosen_labels(outcome.logits_IC, tuned.work.valid.rules).tolist())) == 1 else "")


def items_of(tuned: Tuned) -> TaskResult:
    """Row by row, as the zero-shot tasks' items are kept: log-probabilities of the labels (the right one first) and credit, both means
    over seeds; `chosen_I` is the first seed's label (-1: NaN)."""
    label_I, rules = _labels(tuned), tuned.work.valid.rules
    with np.errstate(invalid="ignore"):
        log_IC = np.mean([_log_softmax(outcome.logits_IC) for outcome in tuned.outcomes], axis=0)
    at_I = np.arange(len(label_I))
    log_IC[at_I, label_I], log_IC[:, 0] = log_IC[:, 0].copy(), log_IC[at_I, label_I].copy()
    chosen = [chosen_labels(outcome.logits_IC, rules) for outcome in tuned.outcomes]
    flags = [_ties_and_nans(outcome) for outcome in tuned.outcomes]
    tie_I, nan_I = (np.any([pair[side] for pair in flags], axis=0) for side in (0, 1))
    decisions = Decisions(chosen[0], np.mean([one == label_I for one in chosen], axis=0), tie_I, nan_I)
    valid_IC = np.ones(log_IC.shape, dtype=bool)
    return TaskResult(
        tuned.work.valid, tuned.how.backend, log_IC.astype(np.float32), valid_IC, tuned.valid_cut_I, decisions, tuned.longest, False
    )


def _log_softmax(logits_IC: Floats) -> Floats:
    wide_IC = logits_IC.astype(np.float64)
    return wide_IC - wide_IC.max(1, keepdims=True) - np.log(np.exp(wide_IC - wide_IC.max(1, keepdims=True)).sum(1, keepdims=True))


def unofficial(tuned: Tuned) -> list[str]:
    """Why its answers are not what the official pipeline would have written; [] where they are."""
    reasons = _other_counts(tuned)
    if tuned.work.pilot:
        reasons.insert(0, "rows were left out")
    if tuned.how.seeds[0] != tuned.work.settings.seed:
        reasons.append(f"seed {tuned.how.seeds[0]} comes first, the official one is {tuned.work.settings.seed}")
    if np.isnan(tuned.outcomes[0].logits_IC).any():
        reasons.append("rows without an answer (NaN)")
    return reasons


def _record(tuned: Tuned, model: Identity | None) -> Record:
    ties, nans = (int(flag_I.sum()) for flag_I in _ties_and_nans(tuned.outcomes[0]))
    digest, place = (model.digest, model.place) if model is not None else (None, None)
    return Record(digest, place, tuned.work.valid.rules, "", len(tuned.work.valid.items), ties, nans)


def write_tuned(tuned: Tuned, model_name: str, revision: str = "main", model: Identity | None = None) -> Path | None:
    """Publish the settings; where all is official, also `results/<model>/<revision>/finetune/<task>/` as the official pipeline does,
    of the first seed: to choose the best one would be to choose on the scored rows once more. Returns that directory.

    Official files that were made before stay. Raises UserError where results of another `model` are in their place."""
    task = tuned.work.settings.task
    used = [(name, getattr(tuned.work.settings, name), source) for name, source in SOURCES.items()]
    write_json(tuned.how.out / GROUP / task / "settings.json", {name: {"value": value, "source": source} for name, value, source in used})
    place = tuned.how.out / "results" / model_name / revision / "finetune" / task
    if model is not None:
        claim(tuned.how.out, model_name, revision, model)
    if unofficial(tuned):
        return None
    begin_results(place, _record(tuned, model))
    metrics = {name: _best(tuned, 0, name) for name in tuned.work.settings.metrics}
    write_text(place / "results.txt", "\n".join(f"{name}: {value}" for name, value in metrics.items()))
    chosen_I = np.maximum(chosen_labels(tuned.outcomes[0].logits_IC, tuned.work.valid.rules), 0)
    answers = [{"id": f"{task}_{i}", "pred": int(label)} for i, label in enumerate(chosen_I)]
    write_text(place / "predictions.json", json.dumps({task: {"predictions": answers}}))
    return place
