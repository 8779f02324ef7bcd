"""Does the fast step learn what the plain one does? Loss curves of our loop and of transformers' Trainer over the same 300 steps.

The pilot model on the embedded corpus, ours in bf16 as it trains, Trainer in fp32; the same first weights, batch, optimizer and learning
rates, other batches and masks. Compared are means over the last 50 steps, against what seeds alone move.
"""

import json
import statistics
import tempfile
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import numpy as np
import torch
from training import CPU, Ours, config_of, vocabulary

from sleep_tune.config import Config
from sleep_tune.data.token_store import TokenStore, open_store, prepare
from sleep_tune.study.material import recipe
from sleep_tune.training.models import new_model

SEEDS, STEPS, LAST = (0, 1, 2), 300, 50


def main() -> None:
    """Print both curves and, last, the claims."""
    torch.set_num_threads(1)
    curves: dict[str, list[np.ndarray]] = {"ours": [], "Trainer": []}
    for seed in SEEDS:
        config = asked(seed)
        store = open_store(prepare(**recipe(config)).directory)
        curves["ours"].append(ours(config, store))
        curves["Trainer"].append(trainer(config, store))
        for name, each in curves.items():
            print(f"seed {seed}, {name:8}" + " ".join(f"{part.mean():.3f}" for part in np.split(each[-1], STEPS // LAST)), flush=True)
    ends = {name: [float(curve[-LAST:].mean()) for curve in each] for name, each in curves.items()}
    spread = statistics.mean(statistics.stdev(each) for each in ends.values())
    difference = statistics.mean(ends["ours"]) - statistics.mean(ends["Trainer"])
    claims = {"loss_difference_nats": round(difference, 4), "seeds_sd_nats": round(spread, 4)}
    claims["difference_over_its_standard_error"] = round(abs(difference) / (spread * (2 / len(SEEDS)) ** 0.5), 2)
    print(json.dumps({"claims": [{"claim": claim, "measured": value} for claim, value in claims.items()]}))


def asked(seed: int) -> Config:
    """The pilot model on packed rows of the embedded corpus, for as many words as the steps take."""
    data = {"source": {"embedded": {"words": 300_000, "seed": 0}}, "words": None, "rows": "packed", "row_length": 64}
    first = config_of("pilot", "epochs", data=data, seed=seed, training__precision="bf16")
    words = open_store(prepare(**recipe(first)).directory).words_N
    return first.model_copy(update={"budget_words": int(words.mean() * STEPS * first.training.batch_rows)})


def ours(config: Config, store: TokenStore) -> np.ndarray:
    """(STEPS,) losses in nats."""
    run = Ours(config, store)
    return np.array([next(run.steps).loss for _ in range(STEPS)])


def trainer(config: Config, store: TokenStore) -> np.ndarray:
    """(STEPS,) losses in nats."""
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

    losses: list[float] = []

    class Recorded(Trainer):
        def compute_loss(self, *arguments: Any, **named: Any) -> Any:
            loss = super().compute_loss(*arguments, **named)
            losses.append(float((loss[0] if isinstance(loss, tuple) else loss).detach()))
            return loss

    ends = store.offsets[1:]
    data = [{"input_ids": store.tokens[first:last].astype(np.int64)} for first, last in zip(store.offsets[:-1], ends, strict=True)]
    optimizer, tokenizer = config.optimizer, vocabulary(store.vocab_size)
    with tempfile.TemporaryDirectory() as directory, redirect_stdout(StringIO()):
        asked = TrainingArguments(
            directory, per_device_train_batch_size=config.training.batch_rows, max_steps=STEPS, seed=config.seed, report_to="none",
            save_strategy="no", logging_strategy="no", disable_tqdm=True, use_cpu=True, learning_rate=optimizer.learning_rate,
            lr_scheduler_type="linear", warmup_steps=round(optimizer.warmup * STEPS), adam_beta1=optimizer.betas[0],
            adam_beta2=optimizer.betas[1], adam_epsilon=optimizer.eps, weight_decay=optimizer.weight_decay,
            max_grad_norm=optimizer.clip or 0.0,
        )  # fmt: skip
        collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=config.masking.rate)
        model = new_model(config.model, store.vocab_size, config.seed).to(CPU)
        Recorded(model, asked, train_dataset=data, data_collator=collator).train()
    return np.array(losses)


if __name__ == "__main__":
    main()
