"""One trial on disk: opened or resumed, trained from milestone to milestone, scored, and its model written.

A trial's directory is locked by whoever trains in it. Records and scores are appended and flushed before the checkpoint that covers them;
what lies beyond the newest checkpoint is cut off when a trial is opened again, so that nothing is doubled.
"""

import dataclasses
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sleep_tune.config import Config, trial_id
from sleep_tune.data.token_store import Prepared, open_store
from sleep_tune.disk import full_line, is_full
from sleep_tune.errors import RunError
from sleep_tune.evaluation.margins import milestone_file
from sleep_tune.files import locked, write_atomic, write_text
from sleep_tune.matching import read_match
from sleep_tune.presets import write_yaml
from sleep_tune.scoring import Scorer
from sleep_tune.sleep.instruments import Cycle, cycle_row
from sleep_tune.sleep.matched import MatchedPlan
from sleep_tune.training import checkpoint
from sleep_tune.training.loop import Run, State, StepRecord, advance
from sleep_tune.training.model_directory import save_model
from sleep_tune.training.probe import DevProbe
from sleep_tune.training.retention import Retention

WORST_LOSS = 1e4  # nats: what a diverged trial reports, finite so that every scheduler can rank it
OnStep = Callable[[StepRecord], bool | None]
RECORDS = ("steps.jsonl", "cycles.jsonl", "scores.jsonl")


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
    ):
        self.config, self.prepared, self.directory, self.attempt, self.say = config, prepared, directory, attempt, say
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
        config, self.device = self.config, torch.device("cuda" if self.config.resources.gpus and torch.cuda.is_available() else "cpu")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic, read at its first call
        torch.use_deterministic_algorithms(config.training.determinism == "strict")
        store = open_store(self.prepared.directory)
        self.domains = store.domains
        self.tokens_per_word = len(store.tokens) / max(1, store.words)
        self.matched = self._matched(store.samples)
        self.run = Run(config, store, self.device, self.matched)
        self.state = self.run.new_state()
        if config.sleep is not None:
            self.run.on_cycle = self._note_cycle
            self.retention = Retention(config, store, self.run.folds, self.device)
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
            if loaded.extra["matched"] != self._matched_digest():
                raise RunError(f"{self.directory}: the trial that this is the control of was run anew: remove this one to begin again")
        self._steps, self._cycles, self._scores = (Appended(self.directory / name, sizes[name]) for name in RECORDS)
        if (final := self._final()) is not None:
            self._scores.add_all(final["rows"])
            self._scores.flush()

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

    def advance(self, on_step: OnStep | None = None) -> Report | None:
        """Train to the next milestone, evaluate, checkpoint, and report; None where `on_step` asked to stop, the state saved right there.

        Raises RunError where training is over already, or the disk is full.
        """
        milestone = self.next_milestone()
        if milestone is None:
            raise RunError(f"{self.directory}: training is over")
        started = time.perf_counter()
        for record in advance(self.run, self.state, min(milestone, self.config.budget_words)):
            self._steps.add(dataclasses.asdict(record))
            self.loss = record.loss
            if on_step is not None and on_step(record):
                self.wall_s += time.perf_counter() - started
                self.save()
                return None
        if milestone == self.milestones[-1] and (self.state.row or self.state.phase == "sleep"):
            self._note_cycle(self.state)  # the last one, which the budget cut
        report = self._report(milestone)
        self.reports.append(report)
        if self.config.checkpoint.milestone_models:
            self._save_model(self.directory / "milestones" / f"words_{milestone}", report.metrics)
        self.wall_s += time.perf_counter() - started
        self.save()
        return report

    def _note_cycle(self, state: State) -> None:
        """The record of the cycle that ends here, once its sleep is over."""
        run, asleep = self.run, state.phase == "sleep"
        if run.config.sleep is None or state.diverged:
            return
        wake_rows, sleep_rows = (run.wake_ids(state.cycle).size, state.row) if asleep else (state.row, 0)
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
            self.retention.losses(run.network, state.cycle, wake_rows + sleep_rows),
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

    def save(self) -> None:
        """Checkpoint at this step: records first, then the state that covers them."""
        self._refuse_older_attempts()
        sizes = dict(zip(RECORDS, (records.flush() for records in (self._steps, self._cycles, self._scores)), strict=True))
        reports = [dataclasses.asdict(report) for report in self.reports]
        extra = {"reports": reports, "wall_s": self.wall_s, "loss": self.loss, "sizes": sizes, "matched": self._matched_digest()}
        checkpoint.save(self.directory, self.run, self.state, extra, self.identity, self.attempt, self.config.checkpoint.keep)

    def finish(self, on_progress: Callable[[int, int], None] | None = None) -> dict[str, float]:
        """Final scores by task, the model directory and the exposure counts; what is there from before is taken as it is."""
        if (final := self._final()) is not None:
            return dict(final["tasks"])
        write_atomic(self.directory / "exposures.npy", lambda file: np.save(file, self.state.exposures_N))
        last = dict(self.reports[-1].metrics) if self.reports else {}
        self._save_model(self.directory / "model", last)
        tasks, rows = self.scorer.at_the_end(self.run.network.model, self.directory / "evaluation", on_progress)
        dev_loss = self.probe.loss(self.run.network)
        tasks["dev_loss"] = dev_loss if math.isfinite(dev_loss) else WORST_LOSS
        rows = [dev_row(dev_loss, self.probe.words, self.scorer.backend), *rows]
        table = [{"words_seen": self.state.words_seen, "final": True, **row} for row in rows]
        self._scores.add_all(table)
        self._scores.flush()
        final = {"words_seen": self.state.words_seen, "evaluation": self.config.evaluation.model_dump(mode="json")}
        diverged = bool(self.reports) and self.reports[-1].diverged
        final |= {"wall_s": self.wall_s, "short_buffers": self.state.short_buffers, "diverged": diverged, "tasks": tasks, "rows": table}
        write_text(self.directory / "final.json", json.dumps(final, indent=1) + "\n")
        return tasks

    def close(self) -> None:
        """Let go of files and lock; unsaved steps are lost."""
        self.run.on_cycle = None  # it led back here: weights and moments would stay until the collector finds the ring
        with self._held:
            for records in (self._steps, self._cycles, self._scores):
                records.close()


def remove_leftovers(directory: Path) -> None:
    """Temporary files of a writer that was killed; only whoever holds the directory's lock may do this."""
    for path in directory.glob(".*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


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


class Appended:
    """A file of JSON lines that is appended to and made durable at checkpoints; what lies beyond the last is cut off at opening."""

    def __init__(self, path: Path, size: int):
        self._path, self._file = path, path.open("ab", buffering=0)  # nothing is left to fail when it is closed
        self._file.truncate(size)
        self._flushed, self._lines = size, []  # type: ignore[var-annotated]

    def add(self, row: dict[str, Any]) -> None:
        self._lines.append(json.dumps(row))

    def add_all(self, rows: Any) -> None:
        for row in rows:
            self.add(row)

    def flush(self) -> int:
        """Write and fsync what was added; the file's size."""
        if self._lines:
            data = ("\n".join(self._lines) + "\n").encode()
            try:
                written = 0
                while written < len(data):
                    written += self._file.write(data[written:])
                os.fsync(self._file.fileno())
            except OSError as error:
                if not is_full(error, self._path):
                    raise
                raise RunError(full_line(self._path, len(data))) from error
            self._flushed += len(data)
            self._lines = []
        return self._flushed

    def close(self) -> None:
        self._file.close()
