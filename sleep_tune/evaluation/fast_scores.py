"""Scores of a checkpoint's fast predictions, computed as the official collation does, from the file alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from sleep_tune.evaluation.challenge import File
from sleep_tune.evaluation.official_layout import prediction_text
from sleep_tune.evaluation.reading import ReadingResult
from sleep_tune.evaluation.tasks import TaskItems


def fast_score(file: File, content: Mapping[str, Any], items: TaskItems) -> dict[str, float]:
    """By UID: the share of predictions that name the right candidate; of WUG, rho with people; of reading, `spr` and `rt`."""
    predictions = {uid: part["predictions"] for uid, part in content.items()}
    if file.pred == "surprisal":
        return _reading(predictions["reading"], items)
    asked: dict[str, list[Any]] = {}
    for item in items.items:
        asked.setdefault(item.uid.lower(), []).append(item)
    scores = {}
    for uid, entries in predictions.items():
        pairs = list(zip(entries, asked.get(uid.lower(), []), strict=False))
        if file.has_probability:
            scores[uid] = float(spearmanr([entry["prob"] for entry, _ in pairs], [item.ratio for _, item in pairs])[0])
        else:
            right = [entry["pred"].strip() == prediction_text(items, item, 0).strip() for entry, item in pairs]
            scores[uid] = sum(right) / max(1, len(right))
    return scores


def _reading(entries: list[dict[str, float]], items: TaskItems) -> dict[str, float]:
    pred_N, previous_N = (np.array([entry[name] for entry in entries], dtype=float) for name in ("pred", "prev_pred"))
    no_N = np.zeros(len(entries), bool)
    eye, self_paced = ReadingResult(items, "", pred_N, previous_N, no_N, no_N, None, False).rows
    return {"spr": self_paced.score / 100, "rt": eye.score / 100}
