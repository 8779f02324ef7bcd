"""The fine-tuned tasks of BabyLM, (Super)GLUE: how the official pipeline of 2025 fine-tunes each, with the source of every value.

One row of `GLUE` a task; `settings_table` lists task by task what is set, to what, and where that was read. Metrics are here too,
as the settings name them. Legend: I rows, C labels.
"""

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from string import Formatter
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from sleep_tune.evaluation.scores import accuracy_stderr
from sleep_tune.evaluation.tasks import BadItem, Edition, Item, Raw, Task

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]
Pooling = Literal["first", "last"]

GROUP = "glue"  # all of them
DIRECTORY = "glue_filtered"
OFFICIAL_SEED = 42


@dataclass(frozen=True)
class Settings:
    """One task's fine-tuning. Where a field's value comes from is in `SOURCES`."""

    task: str
    first: str  # the row's first text: a template over its fields
    second: str
    train_rows: int | None  # of the official files; None: not seen
    valid_rows: int
    labels: int = 2
    batch_rows: int = 32
    epochs: int = 10
    selection: str = "accuracy"  # the metric by which the epoch is chosen, the earliest of the best
    score: str = "accuracy"  # the metric that enters averages
    metrics: tuple[str, ...] = ("accuracy", "f1", "mcc")  # of results.txt
    learning_rate: float = 3e-5  # at its highest
    warmup: float = 0.06  # share of the steps, from 0 on a line; then a cosine
    final_rate: float = 0.1  # of the learning rate, at the end of the cosine
    max_length: int = 512  # tokens of both texts, special ones included; the longer text is cut first
    pooling: Pooling = "first"  # the token whose last hidden state the head reads
    head: str = "norm, linear, GELU, norm, dropout, linear"  # norms without weights, the first linear map as wide as the model
    head_dropout: float = 0.1
    head_norm_eps: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01  # AdamW, of every weight, norms and biases too
    clip: float | None = None
    drop_last: bool = True  # what does not fill a batch at an epoch's end is not trained on
    seed: int = OFFICIAL_SEED


_SCRIPT = "babylm/evaluation-pipeline-2025 eval_finetuning.sh@bf55c11"
# The official repository's own copies of these files could not be read; these are its forks, which agree with one another and with
# the list of flags in the pipeline's finetune/README.md (read in luciendgolden/evaluation-pipeline-2025@5e3bbb0).
_RUN = "finetune/run.py, default (fork ecekt/evaluation-pipeline-2025@1ee78b3)"
_TRAINER = "finetune/trainer.py (forks ecekt@1ee78b3, SiyuanSong2004@d790866)"
_MODEL = "finetune/classifier_model.py (fork ecekt@1ee78b3)"
_TEXTS = "finetune/dataset.py (fork SiyuanSong2004@41d5e41)"
SOURCES: Mapping[str, str] = {
    "first": _TEXTS,
    "second": _TEXTS,
    "train_rows": "counted in the official glue_filtered/<task>.train.jsonl",
    "valid_rows": "babylm/evaluation-pipeline-2025 evaluation_pipeline/collate_preds.py@2065867",
    "labels": f"{_SCRIPT}, --num_labels",
    "batch_rows": f"{_SCRIPT}, BSZ, BIG_BSZ",
    "epochs": f"{_SCRIPT}, MAX_EPOCHS, WSC_EPOCHS",
    "selection": f"{_SCRIPT}, --metric_for_valid; {_TRAINER}: the best epoch on the valid split, a later one only if better",
    "score": "babylm/evaluation-pipeline-2025 README.md@02cb80e: accuracies, F1 for QQP and MRPC "
    "(its calculate_results_from_pred.py@288a497 takes accuracy for all)",
    "metrics": f"{_SCRIPT}, --metrics",
    "learning_rate": f"{_SCRIPT}, LR",
    "warmup": f"{_RUN}; its shape: finetune/utils.py (fork biancaganescu@a330d55)",
    "final_rate": f"{_TRAINER}: 0.1 whatever --min_factor says",
    "max_length": f"{_SCRIPT}, --sequence_length",
    "pooling": f"{_RUN}, no --take_final; {_MODEL}. Of a causal model that is a token that has seen nothing (issue 38 there)",
    "head": _MODEL,
    "head_dropout": f"{_RUN}, --classifier_dropout",
    "head_norm_eps": f"{_RUN}, --classifier_layer_norm_eps",
    "betas": f"{_RUN}, --beta1, --beta2",
    "eps": f"{_RUN}, --optimizer_eps",
    "weight_decay": f"{_RUN}; on all parameters: {_TRAINER}",
    "clip": f"{_TRAINER}: none",
    "drop_last": _TRAINER,
    "seed": f"{_SCRIPT}, SEED (its draws are torch's, ours are keyed: one seed is not the other's)",
}
GLUE: dict[str, Settings] = {
    settings.task: settings
    for settings in (
        Settings("boolq", "{question}", "{passage}", None, 1635, batch_rows=16),
        Settings("mnli", "{premise}", "{hypothesis}", 10_000, 4908, labels=3, metrics=("accuracy",)),
        Settings("mrpc", "{sentence1}", "{sentence2}", 3668, 204, selection="f1", score="f1"),
        Settings("multirc", "Question: {question} Answer: {answer}", "{paragraph}", None, 2424, batch_rows=16),
        Settings("qqp", "{question1}", "{question2}", 10_000, 20_215, selection="f1", score="f1"),
        Settings("rte", "{sentence1}", "{sentence2}", 2490, 139),
        Settings("wsc", 'Does "{span2_text}" refer to "{span1_text}" in this passage?', "{text}", 554, 52, epochs=30),
    )
}


def settings_table() -> list[tuple[str, str, Any, str]]:
    """(task, what is set, value, source), task by task."""
    names = [field.name for field in fields(Settings) if field.name != "task"]
    return [(task, name, getattr(settings, name), SOURCES[name]) for task, settings in GLUE.items() for name in names]


def reader(settings: Settings) -> Task:
    """The task as `official_data` reads it: items of two texts and a label."""

    def read(raw: Raw, stem: str, edition: Edition) -> Item:
        texts = tuple(template.format_map(_strings(raw, template)) for template in (settings.first, settings.second))
        label = raw.get("label")
        if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < settings.labels:
            raise BadItem(f"field label = {reprlib.repr(label)}: must be a whole number from 0 to {settings.labels - 1}")
        return Item(settings.task, 0, texts, (), {"UID": settings.task}, numbers={"label": float(label)})

    return Task(settings.task, "", read, DIRECTORY, None)


def _strings(raw: Raw, template: str) -> dict[str, str]:
    values = {name: raw.get(name) for _, name, _, _ in Formatter().parse(template) if name}
    for name, value in values.items():
        if not isinstance(value, str):
            raise BadItem(f"field {name} " + (f"= {reprlib.repr(value)}: must be a text" if name in raw else "missing"))
    return {name: str(value) for name, value in values.items()}


def learning_rate(settings: Settings, step: int, steps: int) -> float:
    """Of step `step` (from 0, where it is 0) of `steps`."""
    rise = int(settings.warmup * steps)
    if step < rise:
        return settings.learning_rate * step / rise
    done = (step - rise) / max(1, steps - rise)
    return settings.learning_rate * (settings.final_rate + (1 - settings.final_rate) * 0.5 * (1 + float(np.cos(np.pi * done))))


def chosen_labels(logits_IC: Floats, rules: str) -> Ints:
    """The label of each row: the first of the highest logits. A row with a NaN is label -1, wrong whatever is right; the pipelines
    (rules 2025, 2026) take a NaN for the highest."""
    chosen_I = logits_IC.argmax(1)
    return np.where(np.isnan(logits_IC).any(1), -1, chosen_I) if rules == "honest" else chosen_I


def accuracy(label_I: Ints, chosen_I: Ints) -> float:
    """Share of right labels."""
    return float((label_I == chosen_I).mean())


def f1(label_I: Ints, chosen_I: Ints) -> float:
    """F1 of label 1; 0 where it is neither there nor chosen."""
    hits, named = int(((label_I == 1) & (chosen_I == 1)).sum()), int((label_I == 1).sum() + (chosen_I == 1).sum())
    return 2 * hits / named if named else 0.0


def mcc(label_I: Ints, chosen_I: Ints) -> float:
    """Matthews' correlation of two labels; 0 where one side is constant."""
    one, other = (label_I == 1).astype(float), (chosen_I == 1).astype(float)
    spread = one.std() * other.std()
    return float(((one - one.mean()) * (other - other.mean())).mean() / spread) if spread else 0.0


METRICS: Mapping[str, Callable[[Ints, Ints], float]] = {"accuracy": accuracy, "f1": f1, "mcc": mcc}


def metric_stderr(metric: str, label_I: Ints, chosen_I: Ints) -> float:
    """Standard error over rows of accuracy or F1, the latter to first order (a ratio of two means); 0.5 for a single row. Of F1 where it is
    0 or 1, as if it were the accuracy of the rows that it counts."""
    count = len(label_I)
    if metric == "accuracy" or count < 2:
        return accuracy_stderr((label_I == chosen_I).astype(float))
    hit_I, named_I = ((label_I == 1) & (chosen_I == 1)).astype(float), (label_I == 1).astype(float) + (chosen_I == 1)
    if f1(label_I, chosen_I) in (0, 1):
        return accuracy_stderr(hit_I[named_I > 0])
    return float((2 * hit_I - f1(label_I, chosen_I) * named_I).std(ddof=1)) / float(named_I.mean()) / count**0.5
