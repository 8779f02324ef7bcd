"""What a worker says of its trial while it trains, about once a second; at the same moments it looks whether it should leave."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sleep_tune.trial import StepRecord

EVERY_S = 1.0
FILE = "progress.json"


class Progress:
    """Writes `progress.json` in a trial's directory and passes step records on in batches."""

    def __init__(self, directory: Path, log: Callable[[list[Any]], None], leave: Callable[[], bool]) -> None:
        self._path, self._log, self._leave = directory / FILE, log, leave
        self._records: list[StepRecord] = []
        self._written, self._words, self._cycle = time.monotonic(), -1, 0

    def on_step(self, record: StepRecord) -> bool:
        """Take in an optimizer step. True: checkpoint and leave."""
        self._records.append(record)
        self._cycle = record.cycle
        now = time.monotonic()
        if now - self._written < EVERY_S:
            return False
        speed = (record.words_seen - self._words) / (now - self._written) if self._words >= 0 else 0.0
        said = {"phase": record.phase, "cycle": record.cycle, "words_seen": record.words_seen, "loss": record.loss}
        self._say({**said, "words_per_s": speed})
        self._written, self._words = now, record.words_seen
        self.flush()
        return self._leave()

    def scoring(self, done: int, total: int, words_seen: int) -> bool:
        """Take in the state of the final scoring. True: leave."""
        now = time.monotonic()
        if now - self._written < EVERY_S:
            return False
        self._written = now
        said = {"phase": "scores", "cycle": self._cycle, "words_seen": words_seen, "loss": None, "words_per_s": 0.0}
        self._say({**said, "scored": done, "of": total})
        return self._leave()

    def flush(self) -> None:
        """Pass on the records that wait."""
        if self._records:
            self._log(self._records)
            self._records = []

    def _say(self, progress: dict[str, Any]) -> None:
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(progress))
        fresh.replace(self._path)
