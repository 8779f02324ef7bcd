"""One trial on disk: opened or resumed, trained from milestone to milestone, scored, and its model written.

A trial's directory is locked by whoever trains in it. Records and scores are made durable before the checkpoint that covers them, and that
before anyone is told of its milestone; what lies beyond the newest checkpoint is cut off when a trial is opened again: nothing is doubled.
"""

import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sleep_tune.config import Config, trial_id
from sleep_tune.data.token_store import Prepared, open_store
from sleep_tune.errors import RunError
from sleep_tune.evaluation.likelihood import Show
from sleep_tune.evaluation.margins import milestone_file
from sleep_tune.files import locked, write_atomic, write_text
from sleep_tune.matching import read_match
from sleep_tune.presets import write_yaml
from sleep_tune.records import Appended
from sleep_tune.scoring import Scorer, dev_row
from sleep_tune.sleep.instruments import Cycle, cycle_row
from sleep_tune.sleep.matched import MatchedPlan
from sleep_tune.training import checkpoint
from sleep_tune.training.checkpoint_writer import Writer
from sleep_tune.training.loop import Run, State, StepRecord, advance
from sleep_tune.training.meters import Meters, matmul_ceiling
from sleep_tune.training.model_directory import save_model
from sleep_tune.training.parallel import Team
from sleep_tune.training.probe import DevProbe
from sleep_tune.training.retention import Retention
from sleep_tune.training.run import computing_device
from sleep_tune.words import checkpoint_name
from sleep_tune.workers import open_together

WORST_LOSS = 1e4  # nats: what a diverged trial reports, finite so that every scheduler can rank it
OnStep = Callable[[StepRecord], bool | None]
RECORDS = ("steps.jsonl", "cycles.jsonl", "scores.jsonl", "meters.jsonl")


@dataclass(frozen=True)
class Report:
    """What a trial says at a milestone: the nominal words, the words really seen, and numbers by name."""

    milestone: int
    words_seen: int
    metrics: dict[str, float]
    diverged: bool = False


class Trial:
    """A run with its directory. One process at a time: `__init__` waits for the lock."""

    def __init__(
        self,
        config: Config,
        prepared: Prepared,
        directory: Path,
        milestones: Sequence[int],
        attempt: int = 0,
        say: Callable[[str], None] = lambda line: None,
        team: Team | None = None,
    ):
        """`team`: the workers that train it together, this process the first of them; they wait for what is found here."""
        self.config, self.prepared, self.directory, self.attempt, self.say = config, prepared, directory, attempt, say
        self.team, self._workers = team, 1 if team is None else team.size
        self.milestones, self.wall_s, self.loss = sorted(milestones), 0.0, math.nan
        self.reports: list[Report] = []
        self.identity = trial_id(config, prepared.corpus_digest)
        self._held = ExitStack()
        self._held.enter_context(locked(directory / "lock"))
        try:
            self._open()
        except BaseException:
            self._held.close()
            raise

    def _open(self) -> None:
        config, self.device = self.config, computing_device(self.config)
        store = open_store(self.prepared.directory)
        self.domains = store.domains
        self.read = {"corpus_digest": self.prepared.corpus_digest, "store_digest": store.digest}
        self.tokens_per_word = len(store.tokens) / max(1, store.words)
        self.matched = self._matched(store.samples)
        self.run = Run(config, store, self.device, self.matched)
        self.state = self.run.new_state()
        if config.sleep is not None:
            self.run.on_cycle = self._note_cycle
            self.retention = Retention(config, store, self.run.folds, self.device)
        self.meters = Meters(config, store.vocab_size, matmul_ceiling(self.device, config.training.precision, self._workers))
        self.probe = DevProbe(config, open_store(self.prepared.dev_directory), self.device)
        self.scorer = Scorer(config, self.prepared)
        self._refuse_older_attempts()
        remove_leftovers(self.directory)
        loaded = checkpoint.load_newest(self.directory, self.run, self.identity, self.say)
        write_text(self.directory / "config.yaml", write_yaml(config.model_dump(mode="json")))
        sizes = dict.fromkeys(RECORDS, 0)
        if loaded is not None:
            self.state = loaded.state
            self.reports = [Report(**report) for report in loaded.extra["reports"]]
            self.wall_s, self.loss, sizes = (loaded.extra[name] for name in ("wall_s", "loss", "sizes"))
            self.meters.take_up(loaded.extra["meters"])
            if (before := loaded.extra.get("workers", 1)) != self._workers:
                self.say(f"{before} workers before, {self._workers} now: equal within floating-point noise, not to the bit")
            if loaded.extra["matched"] != self._matched_digest():
                raise RunError(f"{self.directory}: the trial that this is the control of was run anew: remove this one to begin again")
        self._records = [Appended(self.directory / name, sizes[name]) for name in RECORDS]
        self._steps, self._cycles, self._scores, self._meters = self._records
        self._writer = Writer(self.directory, self.identity, self.attempt, config.checkpoint.keep)
        self._writer.reserve(self.run, self.state)
        if (final := self._final()) is not None:
            self._scores.add_all(final["rows"])
            self._scores.flush()
        if self.team is not None:
            open_together(self.team, self.run, self.state, self.matched)

    def _matched(self, samples: int) -> MatchedPlan | None:
        """What the control of another trial repeats; that trial's directory is beside this one's."""
        if self.config.epochs is None or self.config.epochs.matched_to is None:
            return None
        return read_match(self.directory.parent / self.config.epochs.matched_to, self.config, samples)

    def _matched_digest(self) -> str | None:
        return None if self.matched is None else self.matched.digest

    def _final(self) -> dict[str, Any] | None:
        """What `finish` left behind for the state as it is and the scores that are asked for now."""
        done = self.directory / "final.json"
        final = json.loads(done.read_text()) if done.exists() else None
        asked = {"words_seen": self.state.words_seen, "evaluation": self.config.evaluation.model_dump(mode="json")}
        return final if final is not None and all(final.get(key) == value for key, value in asked.items()) else None

    def _refuse_older_attempts(self) -> None:
        """A worker that outlived a network cut may not write into a trial that its successor has taken over."""
        mark = self.directory / "attempt"
        newest = int(mark.read_text()) if mark.exists() else -1
        if self.attempt < newest:
            raise RunError(f"{self.directory}: attempt {newest} has taken this trial over from attempt {self.attempt}")
        if self.attempt > newest:
            write_text(mark, f"{self.attempt}\n")

    @property
    def words_seen(self) -> int:
        return self.state.words_seen

    def next_milestone(self) -> int | None:
        """Nominal words of the milestone that comes next; None: training is over."""
        if self.reports and (self.state.over or self.reports[-1].diverged):  # used up, ended early, or broken: nothing new to report
            return None
        last = self.reports[-1].milestone if self.reports else 0
        return next((milestone for milestone in self.milestones if milestone > last), None)

    def advance(self, on_step: OnStep | None = None, wait: bool = True) -> Report | None:
        """Train to the next milestone, evaluate, checkpoint, and report; None where `on_step` asked to stop, the state saved right there.

        The checkpoint is durable; without `wait` it may still be being written, and the report is to be kept to oneself until `settle`.
        Raises RunError where training is over already, or the disk is full.
        """
        milestone = self.next_milestone()
        if milestone is None:
            raise RunError(f"{self.directory}: training is over")
        started, every_s = time.perf_counter(), self.config.checkpoint.every_s
        self.meters.begin()
        for record in advance(self.run, self.state, min(milestone, self.config.budget_words)):
            self.meters.step(record)
            self._steps.add(dataclasses.asdict(record))
            self.loss = record.loss
            leaving = on_step is not None and on_step(record)
            if leaving or self._writer.due(every_s):
                self.wall_s += time.perf_counter() - started
                self.save(wait=bool(leaving))
                started = time.perf_counter()
            if leaving:
                return None
        if milestone == self.milestones[-1] and (self.state.row or self.state.phase == "sleep"):
            self._note_cycle(self.state)  # the last one, which the budget cut
        with self.meters.part("evaluation"):
            report = self._report(milestone)
        self.reports.append(report)
        if self.config.checkpoint.milestone_models:
            with self.meters.part("checkpoint"):
                self._save_model(self.directory / "milestones" / checkpoint_name(milestone), report.metrics)
        self.wall_s += time.perf_counter() - started
        self._meters.add(self.meters.row())
        self.save(wait)
        return report

    def _note_cycle(self, state: State) -> None:
        """The record of the cycle that ends here, once its sleep is over."""
        run, asleep = self.run, state.phase == "sleep"
        if run.config.sleep is None or state.diverged:
            return
        wake_rows, sleep_rows = (run.wake_ids(state.cycle).size, state.row) if asleep else (state.row, 0)
        with self.meters.part("evaluation"):
            kept = self.retention.losses(run.network, state.cycle, wake_rows + sleep_rows)
        cycle = Cycle(
            state.cycle,
            state.step,
            state.words_seen,
            wake_rows,
            sleep_rows,
            state.buffer_k,
            state.exposures_N[state.buffer_k] - state.exposed_k,
            state.carried,
            int(state.frozen_U.sum()),
            state.shrunk,
            kept,
        )
        self._cycles.add(cycle_row(state.candidates, cycle, run.store.domain_N, self.domains, run.sleep))

    def _save_model(self, directory: Path, metrics: dict[str, float]) -> None:
        save_model(self.run.network.model, self.prepared.tokenizer_file, directory, self.config, metrics)

    def _report(self, milestone: int) -> Report:
        dev_loss = math.nan if self.state.diverged else self.probe.loss(self.run.network)
        diverged = not math.isfinite(dev_loss)
        rows = [dev_row(dev_loss, self.probe.words, self.scorer.backend)]
        metrics = {
            "dev_loss": WORST_LOSS if diverged else dev_loss,
            "perplexity": math.exp(min(WORST_LOSS if diverged else dev_loss, 50.0)),
        }
        if math.isfinite(self.loss):
            metrics["train_loss"] = self.loss
        if not diverged:
            items = milestone_file(self.directory, milestone)
            scored, table = self.scorer.on_the_way(self.run.network.model, milestone, self.milestones, self.tokens_per_word, items)
            rows += table
            metrics |= scored
        self._scores.add_all({"words_seen": self.state.words_seen, "final": False, **row} for row in rows)
        return Report(milestone, self.state.words_seen, metrics, diverged)

    def save(self, wait: bool = True) -> None:
        """Checkpoint at this step: records first, then the state that covers them; without `wait` both are written while training goes on.

        Raises what kept the one before from being written: RunError where the disk is full.
        """
        with self.meters.part("checkpoint"):
            self._refuse_older_attempts()
            self.settle()
            taken = [records.take() for records in self._records]
            extra = {
                "reports": [dataclasses.asdict(report) for report in self.reports],
                "wall_s": self.wall_s,
                "loss": self.loss,
                "sizes": dict(zip(RECORDS, (size for _, size in taken), strict=True)),
                "matched": self._matched_digest(),
                "workers": self._workers,
                "meters": self.meters.row(),
            }

            def before() -> None:
                for records, (data, _) in zip(self._records, taken, strict=True):
                    records.append(data)

            self._writer.save(self.run, self.state, extra, before)
            if wait:
                self.settle()

    def settle(self) -> None:
        """Wait until what was saved is durable. Raises what kept it from being so."""
        self.meters.writing_s += self._writer.settle()

    def finish(self, show: Show | None = None) -> dict[str, float]:
        """Final scores by task, the model directory and the exposure counts; what is there from before is taken as it is. `show` is told of
        every task how far it is."""
        if (final := self._final()) is not None:
            return dict(final["tasks"])
        self.settle()
        write_atomic(self.directory / "exposures.npy", lambda file: np.save(file, self.state.exposures_N))
        last = dict(self.reports[-1].metrics) if self.reports else {}
        self._save_model(self.directory / "model", last)
        with self.meters.part("evaluation"):
            saved, scores = self.directory / "model", self.directory / "evaluation"
            tasks, rows = self.scorer.at_the_end(self.run.network.model, saved, scores, show)
            dev_loss = self.probe.loss(self.run.network)
        tasks["dev_loss"] = dev_loss if math.isfinite(dev_loss) else WORST_LOSS
        rows = [dev_row(dev_loss, self.probe.words, self.scorer.backend), *rows]
        table = [{"words_seen": self.state.words_seen, "final": True, **row} for row in rows]
        self._scores.add_all(table)
        self._scores.flush()
        final = {"words_seen": self.state.words_seen, "evaluation": self.config.evaluation.model_dump(mode="json")}
        diverged = bool(self.reports) and self.reports[-1].diverged
        final |= {"wall_s": self.wall_s, "short_buffers": self.state.short_buffers, "diverged": diverged, "tasks": tasks, "rows": table}
        final |= {"meters": self.meters.row(), **self.read}
        write_text(self.directory / "final.json", json.dumps(final, indent=1) + "\n")
        return tasks

    def close(self) -> None:
        """Let go of files and lock; what was saved is durable, unsaved steps are lost. Raises what kept the last checkpoint from it."""
        self.run.on_cycle = None  # it led back here: weights and moments would stay until the collector finds the ring
        with self._held:
            try:
                self.settle()
            finally:
                for records in self._records:
                    records.close()


def remove_leftovers(directory: Path) -> None:
    """Temporary files of a writer that was killed; only whoever holds the directory's lock may do this."""
    for path in directory.glob(".*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
