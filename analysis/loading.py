"""A finished, running or killed study as data frames, for notebooks and plots."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from sleep_tune.errors import UserError
from sleep_tune.study.ledger import BESIDE, read_ledger
from sleep_tune.study.outcome import LOSS_TASK, StudyOutcome, read_outcome
from sleep_tune.study.spec import Study, load_spec
from sleep_tune.study.tables import write_tables

MOST_VALUES = 8  # of a field that are compared one by one
REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class StudyTables:
    """A study as its readers see it."""

    directory: Path
    trials: pd.DataFrame
    scores: pd.DataFrame
    steps: pd.DataFrame
    cycles: pd.DataFrame
    outcome: StudyOutcome
    planned: int  # trials

    @property
    def searched(self) -> pd.DataFrame:
        """The trials of the search, without those that ran beside it."""
        return self.trials[~self.trials.origin.isin(BESIDE)]

    @property
    def standing(self) -> str:
        """How much of the study there is to see: `12 of 15 trials; 3 configurations not ranked yet`."""
        ended, unranked = int((self.trials.state != "running").sum()), len(self.outcome.ranking.stopped)
        unfinished = ended < max(self.planned, len(self.trials))
        trials = f"{ended} of {max(self.planned, len(self.trials))} trials" if unfinished else f"{ended} trials"
        if not unranked:
            return trials
        only_stopped = set(self.outcome.states) <= {"complete", "stopped"}
        why = "not ranked yet" if unfinished else "stopped, not ranked" if only_stopped else "not ranked"
        return f"{trials}; {unranked} configuration{'s' * (unranked > 1)} {why}"

    @property
    def name(self) -> str:
        return self.directory.name

    @property
    def varied(self) -> list[str]:
        """The varied fields: columns with a dotted name."""
        return [name for name in self.trials if "." in name]

    @property
    def unit(self) -> str:
        """Of the objective, with the space before it."""
        return " (nats)" if self.outcome.metric == LOSS_TASK else ""

    @property
    def dev_loss(self) -> pd.DataFrame:
        """trial, words_seen, score (nats): the loss on the dev text at every milestone."""
        return self.scores[(self.scores.task == LOSS_TASK) & ~self.scores.final.astype(bool)].sort_values("words_seen")


def find_study() -> Path:
    """$SLEEP_TUNE_STUDY, else the study under `runs/` whose ledger changed last. Raises UserError where there is none."""
    if named := os.environ.get("SLEEP_TUNE_STUDY"):
        return Path(named).resolve()
    found = [path for root in dict.fromkeys((Path.cwd() / "runs", REPOSITORY / "runs")) for path in root.glob("*/ledger.jsonl")]
    if not found:
        raise UserError("SLEEP_TUNE_STUDY = : must name a study's directory (there is none under runs/)")
    return max(found, key=lambda path: path.stat().st_mtime).parent


def load_study(directory: Path) -> StudyTables:
    """Derive a study's tables anew and read them. Raises UserError where there is no study."""
    frames = {name: pd.read_parquet(path) for name, path in write_tables(directory).items()}
    outcome, planned = read_outcome(directory), _planned(directory)
    return StudyTables(directory, frames["trials"], frames["scores"], frames["steps"], frames["cycles"], outcome, planned)


def _planned(directory: Path) -> int:
    """Trials of the study's plan; 0 where another version wrote a plan that this one does not know."""
    try:
        return Study(directory.name, "", load_spec(read_ledger(directory).spec)).trials_planned
    except UserError:
        return 0


def ranking_frame(study: StudyTables) -> pd.DataFrame:
    """The ranking as a table: objective mean and SD over seeds, difference to the baseline with its 95 % interval, final scores."""
    outcome, rows = study.outcome, []
    for row in outcome.ranking.ranked:
        entry, difference = outcome.entries[row.configuration], row.difference
        cells = {"schedule": entry.schedule, "baseline": outcome.is_baseline(row.configuration), "seeds": row.objective.n}
        cells |= {outcome.metric: row.objective.mean, "SD": row.objective.sd}
        cells |= {"against baseline": difference.mean if difference else np.nan}
        cells |= {"95 % low": difference.low if difference else np.nan, "95 % high": difference.high if difference else np.nan}
        rows.append(cells | {task: entry.scores[task].mean for task in outcome.tasks if task in entry.scores})
    return pd.DataFrame(rows, index=pd.RangeIndex(1, len(rows) + 1, name="rank"))


def dev_losses(study: StudyTables, configuration: str) -> pd.DataFrame:
    """Dev loss of a configuration: a row a milestone that all its trials reached (index: mean words seen), a column a seed."""
    trials = study.trials[study.trials.configuration == configuration]
    curves = {row.seed: study.dev_loss[study.dev_loss.trial == row.trial] for row in trials.itertuples()}
    length = min((len(curve) for curve in curves.values()), default=0)
    words = [np.mean([curve.words_seen.iloc[place] for curve in curves.values()]) for place in range(length)]
    return pd.DataFrame({seed: curve.score.to_numpy()[:length] for seed, curve in curves.items()}, index=pd.Index(words, dtype=float))


def retention(study: StudyTables, configuration: str) -> pd.DataFrame:
    """What a configuration kept of its folds: cycle, fold, age (cycles since it was read), words_seen, loss (nats), means over seeds.

    A row a probe of a fold at the end of a cycle. The folds of two seeds hold different samples.
    """
    trials = study.trials[study.trials.configuration == configuration].trial
    columns = ["retention_fold", "retention_loss"]
    probes = study.cycles[study.cycles.trial.isin(trials)].explode(columns).dropna(subset=columns)
    probes = probes.assign(age=(probes.fold - probes.retention_fold) % probes.folds, fold=probes.retention_fold, loss=probes.retention_loss)
    types = {"fold": int, "age": int, "loss": float}
    return probes.astype(types).groupby(["cycle", "fold", "age"], as_index=False)[["words_seen", "loss"]].mean()


def replays_by_age(study: StudyTables, configuration: str) -> pd.Series:
    """age in cycles since it was read -> replays of candidates of that age, over those by random choice in the same sleeps.

    Over all cycles and seeds; 1 is no preference.
    """
    trials = study.trials[study.trials.configuration == configuration].trial
    cycles = study.cycles[study.cycles.trial.isin(trials) & (study.cycles.replays > 0)]
    ages = int(cycles.candidates_by_age.map(len).max()) if len(cycles) else 0
    replays_A, expected_A = np.zeros(ages), np.zeros(ages)
    for row in cycles.itertuples():
        replays_A[: len(row.replays_by_age)] += row.replays_by_age
        expected_A[: len(row.candidates_by_age)] += np.multiply(row.candidates_by_age, row.replays / row.candidates)
    return pd.Series(replays_A / expected_A, index=pd.RangeIndex(ages, name="age"))


def common_words(study: StudyTables) -> int:
    """The words seen that every trial that ended well has reached at a milestone."""
    ended = study.trials.trial[study.trials.state.isin(["complete", "stopped"])]
    reached = study.dev_loss[study.dev_loss.trial.isin(ended)].groupby("trial").words_seen.max()
    return int(reached.min()) if len(reached) else 0


def comparable(trials: pd.DataFrame, field: str, others: Sequence[str]) -> pd.Series:
    """Which trials compare the values of `field` fairly: those whose other fields and seed occur at each of the compared values.

    Compared are as many values as have such trials in common (of equally many, those with most). trials: a row a trial. All False
    where no two values have any. Where a scheduler stopped the worst, the mean over all that is left would compare unlike trials.
    """
    key = trials[[*others, "seed"]].astype(str).agg("|".join, axis=1) if len(trials) else pd.Series(dtype=str)
    keys = {value: set(key[trials[field] == value]) for value in trials[field].dropna().unique()}
    for size in range(len(keys), 1, -1) if len(keys) <= MOST_VALUES else ():
        common = {values: set.intersection(*(keys[value] for value in values)) for values in combinations(keys, size)}
        values = max(common, key=lambda chosen: len(common[chosen]))
        if common[values]:
            return trials[field].isin(values) & key.isin(common[values])
    return pd.Series(data=False, index=trials.index)


def final_scores(study: StudyTables, task: str) -> pd.Series:
    """trial -> mean over the task's UIDs of the final scores."""
    rows = study.scores[(study.scores.task == task) & study.scores.final.astype(bool)]
    return rows.groupby("trial").score.mean()
