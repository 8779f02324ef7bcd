"""What training on a token costs in scored tokens: `scoring.TRAINING_COST`, by which scores at milestones are held to their share.

Steps of a profile and BLiMP sentences scored by the very model (exact, in fp32), taking turns on one thread.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from evaluation import real_tokenizer
from training import Ours, config_of, in_turn, synthetic

from sleep_tune.evaluation.evaluate import plan_items, score_plan
from sleep_tune.evaluation.official_data import load_items
from sleep_tune.evaluation.plan import Plan
from sleep_tune.scoring import TRAINING_COST

WORDS = 300_000
VOCABULARY = 8000  # of the sentences' tokenizer, which is trained on little text
CASES = (("tiny", "fp32", 40, 5), ("pilot", "fp32", 4, 1), ("pilot", "bf16", 6, 1), ("strict-small", "bf16", 2, 1))


def main() -> None:
    """Print tokens a second of both, and last the claims."""
    torch.set_num_threads(1)
    data = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("SLEEP_TUNE_DATA", "../shared/data"))
    claims = {}
    print(f"{'profile':14}{'precision':>10}{'trained/s':>11}{'scored/s':>10}{'cost':>7}{'taken as':>10}")
    for profile, precision, steps, per_uid in CASES:
        config = config_of(profile, "epochs", training__precision=precision)
        size = config.tokenizer.vocab_size
        tokenizer = real_tokenizer(data, min(size, VOCABULARY))
        items = load_items(data / "evaluation_data", ["blimp"], fast=True, items_per_uid=per_uid)
        speed = in_turn(works(Ours(config, synthetic(WORDS, config.data.row_length, size)), steps, plan_items(tokenizer, items)), 3)
        cost = claims[f"training_cost_{profile}_{precision}"] = speed["score"] / speed["train"]
        taken = TRAINING_COST[precision]
        print(f"{profile:14}{precision:>10}{speed['train']:11,.0f}{speed['score']:10,.0f}{cost:7.2f}{taken:10.1f}", flush=True)
    print(json.dumps({"claims": [{"claim": name, "measured": round(value, 3)} for name, value in claims.items()]}))


def works(ours: Ours, steps: int, plan: Plan) -> dict[str, Any]:
    """Both kinds of work, each telling its tokens."""

    def score() -> int:
        score_plan(ours.run.network.model, plan)
        return plan.n_tokens

    return {"train": lambda: ours.tokens(steps), "score": score}


if __name__ == "__main__":
    main()
