"""The command of a training run of seconds, as a user types it."""

import sys
from pathlib import Path

MICRO = {
    "data.source": "{embedded: {words: 3000, seed: 1}}",
    "tokenizer.vocab_size": "400",
    "model.width": "16",
    "model.heads": "2",
    "model.ffn": "32",
    "evaluation.milestones.dev_words": "200",
    "evaluation.final.items_per_uid": "2",
}


def train_command(out: Path | str, budget: int, *more: str, schedule: str = "default") -> list[str]:
    """`python -m sleep_tune.train` of a model of 16 dimensions on 3,000 words."""
    presets = ["--preset", "tiny", "--preset", schedule]
    sets = [word for field, value in MICRO.items() for word in ("--set", f"{field}={value}")]
    return [sys.executable, "-m", "sleep_tune.train", *presets, "--budget", str(budget), "--out", str(out), *sets, *more]
