"""`python -m sleep_tune.evaluation.comparison A B`: which items a model gained and lost against another, or against its own checkpoint.

Two models answered the same items, so they are compared pair by pair. An item is gained where B is credited more than A, lost where
less. Two exact tests a task and UID: of the scores, and of margins that rose against margins that fell (a sign test, which also sees
what changes no decision). The scores' test is McNemar's, of gained against lost; of F1 (mrpc, qqp), a randomisation test. UIDs of a task
are many: their p values are Holm's. `--curves` shows instead how scores grow over a trial's milestones or a model's checkpoints.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from sleep_tune.errors import OneLineParser, UserError, run_main
from sleep_tune.evaluation.item_curves import curve_files, learning_curves
from sleep_tune.evaluation.item_pairs import answers, one_seed, pair_items, row_of, scored_by_f1, whole
from sleep_tune.evaluation.item_texts import Texts, texts_of
from sleep_tune.evaluation.margins import ORIGIN, Items, by_uid, final_items, find_items, read_items
from sleep_tune.evaluation.paired_tests import f1_test, holm, sign_test
from sleep_tune.evaluation.plan import Array
from sleep_tune.evaluation.result_files import write_table
from sleep_tune.files import writable_directory

ALL = ""  # the UID of a task as a whole


@dataclass(frozen=True)
class Change:
    """From A to B on the items of a UID, or of a task (uid ""). Scores and `difference` in points; p values are two-sided."""

    task: str
    uid: str
    measure: str  # what the scores are: accuracy | F1
    n: int
    a: float
    b: float
    difference: float
    gained: int
    lost: int
    p: float  # of the scores' test; NaN: none is made
    p_holm: float  # over the UIDs of the task; of a task as a whole, p itself
    margin: float  # median change, nats; NaN where no margin is a number
    rose: int
    fell: int
    p_margin: float


@dataclass(frozen=True)
class Comparison:
    """Rows by task, each followed by its UIDs; the items both answered, as (A, B) in one order; what the reader has to know."""

    changes: tuple[Change, ...]
    a: Items
    b: Items
    notes: tuple[str, ...]


def compare(a: Items, b: Items) -> Comparison:
    """Compare on the items that both have and that have right answers. Raises UserError where there is none, or rules differ."""
    pairs = pair_items(a, b)
    a, b = pairs.a, pairs.b
    if not len(a):
        raise UserError("A and B: no item in common that has a right answer" + "".join(f"; {note}" for note in pairs.notes))
    changes: list[Change] = []
    notes: list[str] = []
    groups = by_uid(a)
    for task in dict.fromkeys(task for task, _ in groups):
        of_task = {uid: at for (name, uid), at in groups.items() if name == task}
        parts = [_change(task, uid, a.where(at), b.where(at)) for uid, at in of_task.items()]
        everything = np.concatenate(list(of_task.values()))
        row = asdict(_change(task, ALL, a.where(everything), b.where(everything)))
        for side, items in (("a", a), ("b", b)):
            row[side], _ = whole([row_of(task, uid, items.where(at)) for uid, at in of_task.items()])
        changes.append(Change(**(row | {"difference": row["b"] - row["a"]})))
        known = iter(holm([part.p for part in parts if not math.isnan(part.p)]))
        changes += [Change(**(asdict(part) | {"p_holm": math.nan if math.isnan(part.p) else next(known)})) for part in parts]
        notes += _on_measure(task, a.where(everything), b.where(everything))
    return Comparison(tuple(changes), a, b, (*pairs.notes, *notes))


def _on_measure(task: str, a: Items, b: Items) -> list[str]:
    """What a task that is scored by F1 has to say of its numbers."""
    if not scored_by_f1(task):
        return []
    if answers(a) is None:
        return [f"{task}: its score is F1, but the items do not say their labels (scored by an earlier version): accuracy is shown"]
    if one_seed(a) and one_seed(b):
        return []
    return [f"{task}: F1 over the answers of all seeds together, not the mean of the seeds' F1; no test of it is made"]


def _change(task: str, uid: str, a: Items, b: Items) -> Change:
    rows = (row_of(task, uid, a), row_of(task, uid, b))
    gained, lost = int((b.credit > a.credit).sum()), int((b.credit < a.credit).sum())
    with np.errstate(invalid="ignore"):
        change_I = b.margin - a.margin
    known_I = change_I[~np.isnan(change_I)]
    rose, fell = int((known_I > 0).sum()), int((known_I < 0).sum())
    measure, p = "accuracy", sign_test(gained, lost)
    one, two = (answers(a), answers(b)) if scored_by_f1(task) else (None, None)
    if one is not None and two is not None:
        measure, p = "F1", f1_test(one, two) if one_seed(a) and one_seed(b) else math.nan
    scores = (rows[0].score, rows[1].score, rows[1].score - rows[0].score)
    median = float(np.median(known_I)) if len(known_I) else math.nan
    return Change(task, uid, measure, len(a), *scores, gained, lost, p, p, median, rose, fell, sign_test(rose, fell))


def write_comparison(out: Path, comparison: Comparison, texts: Texts) -> None:
    """Publish `comparison.parquet` (a row a task and UID) and `items.parquet` (a row an item, what changed and what did not; with the
    sentences where there are `texts`)."""
    write_table(out / "comparison.parquet", {f.name: [getattr(row, f.name) for row in comparison.changes] for f in fields(Change)})
    a, b = comparison.a, comparison.b
    columns: dict[str, Array] = {"task": a.task, "uid": a.uid, "item_a": a.item, "item_b": b.item}
    columns |= {"change": np.array(["lost", "same", "gained"], dtype=object)[np.sign(b.credit - a.credit).astype(int) + 1]}
    for name in ("credit", "margin", "chosen", "tie", "nan", *ORIGIN):
        columns |= {f"{name}_a": getattr(a, name), f"{name}_b": getattr(b, name)}
    sentences = [list(texts.get(key, ())) for key in zip(a.task, a.text.tolist(), strict=True)] if texts else None
    write_table(out / "items.parquet", columns | ({"sentences": sentences} if sentences else {}))


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare, or follow a series; print what changed, and write it."""
    options = _parse(arguments)
    if options.curves:
        return _curves(options)
    if len(options.places) != 2:
        raise UserError(f"{len(options.places)} given: must be two, A and B (a series is shown by --curves)")
    a, b = (read_items(find_items(place, name)) for place, name in zip(options.places, "AB", strict=True))
    comparison = compare(a, b)
    texts = texts_of(comparison.a, Path(options.evaluation_data)) if options.evaluation_data else {}
    write_comparison(writable_directory(options.out, "--out"), comparison, texts)
    _show(options, comparison, texts)
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = OneLineParser(prog="python -m sleep_tune.evaluation.comparison", description=__doc__)
    place = "an evaluation's --out, OUT@REVISION for one of its checkpoints, a trial's directory, TRIAL@WORDS for one of its milestones, "
    parser.add_argument("places", nargs="+", metavar="A B", help=f"what is compared, B with A: {place}or a parquet file of items")
    series = "of one trial or one evaluation, or of places named by words seen (chck_10M) in any order"
    parser.add_argument("--curves", action="store_true", help=f"learning curves instead: {series}")
    parser.add_argument("--evaluation-data", help="adds the items' sentences: evaluation_data, its zip, or one task's directory or file")
    parser.add_argument("--out", default="comparison", help="where the tables go (default: comparison)")
    return parser.parse_args(arguments)


def _curves(options: argparse.Namespace) -> int:
    import pyarrow as pa

    from sleep_tune.evaluation.comparison_tables import show_curves

    points = {words: read_items(path) for words, path in curve_files(options.places).items()}
    end = final_items(Path(options.places[0])) if len(options.places) == 1 else None
    curves = learning_curves(points, (end[0], read_items(end[1])) if end else None)
    moves = {name: pa.array(curves.columns[name], pa.int64()) for name in ("gained", "lost")}  # where all are None, too
    write_table(writable_directory(options.out, "--out") / "curves.parquet", curves.columns | moves)
    show_curves(" ".join(options.places), curves, f"{options.out}/curves.parquet")
    return 0


def _show(options: argparse.Namespace, comparison: Comparison, texts: Texts) -> None:
    from sleep_tune.evaluation.comparison_tables import show_comparison

    show_comparison(tuple(options.places), comparison, texts, f"{options.out}/comparison.parquet, items.parquet")


if __name__ == "__main__":
    run_main(main)
