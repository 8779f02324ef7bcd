"""Training against what one would use instead: transformers' Trainer with its defaults, and a plain loop; what sleep costs beside epochs;
checkpoints against torch.save; time per word as corpora grow.

Everything is compared in one run, taking turns, on the same model, data, batch and threads; ratios are of medians. Data are random tokens
(speed does not read them) but for the tiny profile, which has its embedded corpus.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reference_loop import ReferenceLoop

from sleep_tune.config import Config, load_config
from sleep_tune.data.collate import BOS, N_SPECIAL
from sleep_tune.presets import combine, set_field
from sleep_tune.streams import stream
from sleep_tune.training import checkpoint
from sleep_tune.training.checkpoint_writer import Writer
from sleep_tune.training.loop import Run, State, advance, next_rows
from sleep_tune.training.meters import measure_ceiling
from sleep_tune.training.models import new_model
from sleep_tune.training.objectives import label_rows
from sleep_tune.training.sizes import flops_a_token

CPU = torch.device("cpu")
ROUNDS = 5
TOKENS_A_WORD = 4 / 3


@dataclass(frozen=True)
class Synthetic:
    """A token store of random tokens in memory: `sleep_tune.sleep.context.Corpus`."""

    samples: int
    row_length: int
    vocab_size: int
    tokens: np.ndarray
    offsets: np.ndarray
    words_N: np.ndarray
    domain_N: np.ndarray
    word_initial_V: np.ndarray


def synthetic(words: int, row_length: int, vocab_size: int) -> Synthetic:
    """Packed rows that hold about `words` words; three tokens in four begin one."""
    samples = max(1, int(words * TOKENS_A_WORD) // row_length)
    tokens = stream(0, "grammar", words).integers(N_SPECIAL, vocab_size, samples * row_length).astype(np.uint16)
    tokens[::row_length] = BOS
    word_initial_V = np.arange(vocab_size) % 4 > 0
    words_N = word_initial_V[tokens].reshape(samples, row_length).sum(1).astype(np.uint32)
    offsets = np.arange(samples + 1, dtype=np.int64) * row_length
    return Synthetic(samples, row_length, vocab_size, tokens, offsets, words_N, np.zeros(samples, np.uint8), word_initial_V)


def config_of(profile: str, schedule: str, **fields: Any) -> Config:
    raw = combine([profile, schedule])
    for field, value in {"budget_words": 10**9, **{name.replace("__", "."): value for name, value in fields.items()}}.items():
        raw = set_field(raw, field, value)
    return load_config(raw)


class Ours:
    """A run that goes on by a number of steps at a time."""

    def __init__(self, config: Config, store: Any):
        self.run = Run(config, store, CPU)
        self.state = self.run.new_state()
        self.steps = advance(self.run, self.state, config.budget_words)

    def tokens(self, count: int) -> int:
        """Train `count` steps; the tokens they held."""
        return sum(next(self.steps).tokens for _ in range(count))


def per_second(work: Callable[[], int]) -> float:
    began = time.perf_counter()
    done = work()
    return done / (time.perf_counter() - began)


def in_turn(works: dict[str, Callable[[], int]], rounds: int = ROUNDS) -> dict[str, float]:
    """Median units a second of each, taking turns; each runs once before."""
    speeds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            speed = per_second(work)
            if turn:
                speeds[name].append(speed)
    return {name: statistics.median(values) for name, values in speeds.items()}


def vocabulary(size: int) -> Any:
    """A tokenizer with our special tokens, for the collator of transformers to mask with."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.set_verbosity_error()
    names = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *(f"t{i}" for i in range(N_SPECIAL, size))]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


def trainer(config: Config, store: Synthetic, steps: int) -> Callable[[], int]:
    """transformers.Trainer with its defaults on the same rows; the tokens of `steps` steps, their set-up apart."""
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainerCallback, TrainingArguments

    tokenizer = vocabulary(store.vocab_size)
    rows = store.tokens.reshape(store.samples, store.row_length).astype(np.int64)
    data = [{"input_ids": row} for row in rows]
    model = new_model(config.model, store.vocab_size, 0)
    batch = config.training.batch_rows

    class Clock(TrainerCallback):
        """Stops the time from the end of the first step to the end of the last."""

        first = last = 0.0

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.last = time.perf_counter()
            self.first = self.first or self.last

    def work() -> tuple[int, float]:
        clock = Clock()
        with tempfile.TemporaryDirectory() as directory:
            asked = TrainingArguments(
                directory, per_device_train_batch_size=batch, max_steps=steps + 1, report_to="none", save_strategy="no",
                logging_strategy="no", disable_tqdm=True, use_cpu=True,
            )  # fmt: skip
            collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=config.masking.rate)
            with redirect_stdout(StringIO()):  # a line of totals
                Trainer(model, asked, train_dataset=data, data_collator=collator, callbacks=[clock]).train()
        return steps * batch * store.row_length, clock.last - clock.first

    def tokens() -> int:
        done, seconds = work()
        tokens.seconds = seconds  # type: ignore[attr-defined]
        return done

    return tokens


def against_trainer(profile: str, threads: int, steps: int, precisions: tuple[str, ...]) -> dict[str, float]:
    """precision -> our tokens a second over Trainer's."""
    torch.set_num_threads(threads)
    fields = {name: config_of(profile, "epochs", training__precision=name) for name in precisions}
    first = fields[precisions[0]]
    store = synthetic(200_000, first.data.row_length, first.tokenizer.vocab_size)
    theirs, ours = trainer(first, store, steps), {name: Ours(config, store) for name, config in fields.items()}
    speeds: dict[str, list[float]] = {name: [] for name in ("Trainer", *precisions)}
    for turn in range(ROUNDS):
        done = theirs()
        seconds = {"Trainer": theirs.seconds}  # type: ignore[attr-defined]
        for name, each in ours.items():
            if not turn:
                each.tokens(1)
            began = time.perf_counter()
            assert each.tokens(steps) == done
            seconds[name] = time.perf_counter() - began
        for name, value in seconds.items():
            speeds[name].append(done / value)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    print(f"{profile}, {threads} threads, tokens/s: " + ", ".join(f"{name} {value:,.0f}" for name, value in medians.items()))
    return {name: medians[name] / medians["Trainer"] for name in precisions}


def tiny_against_the_plain_loop() -> float:
    """Words a second of the tiny profile over those of the frozen loop, on the same batches."""
    from sleep_tune.data.token_store import open_store, prepare
    from sleep_tune.study.material import recipe

    torch.set_num_threads(1)
    config = config_of("tiny", "epochs", training__precision="fp32")
    store = open_store(prepare(**recipe(config)).directory)
    ours = Ours(config, store)
    run = Run(config, store, CPU)
    state = run.new_state()
    plain = ReferenceLoop(new_model(config.model, store.vocab_size, 0), config.optimizer.learning_rate, config.optimizer.betas)

    def reference() -> int:
        before = state.words_seen
        for _ in range(200):
            step_of_reference(run, state, plain)
        return state.words_seen - before

    def own() -> int:
        before = ours.state.words_seen
        ours.tokens(200)
        return ours.state.words_seen - before

    speeds = in_turn({"plain loop": reference, "ours": own}, 2 * ROUNDS)
    print("tiny, 1 thread, words/s: " + ", ".join(f"{name} {value:,.0f}" for name, value in speeds.items()))
    return speeds["ours"] / speeds["plain loop"]


def step_of_reference(run: Run, state: State, plain: ReferenceLoop) -> None:
    """The next batch of `run`, trained on by the plain loop."""
    rows = next_rows(run, state)
    assert rows is not None
    batch = label_rows(rows, run.config, 0.0, run.store.vocab_size, stream(0, "mask", state.step), CPU)
    plain.step(batch)
    state.step, state.row, state.words_seen = state.step + 1, state.row + len(rows.words_B), state.words_seen + int(rows.words_B.sum())


def sleep_overhead() -> float:
    """Percent of time per token that wake, selection, recording and sleep add to plain epochs; the worse of small and pilot."""
    torch.set_num_threads(1)
    worst = -100.0
    for profile, steps in (("pilot", 24), ("small", 6)):
        name = "strict-small" if profile == "small" else profile
        epochs = config_of(name, "epochs", training__precision="bf16")
        asleep = config_of(name, "default", training__precision="bf16", sleep__folds=100, sleep__length={"ratio": 2})
        store = synthetic(100_000, epochs.data.row_length, epochs.tokenizer.vocab_size)
        works = {"epochs": Ours(epochs, store), "sleep": Ours(asleep, store)}
        speeds = in_turn({key: partial(each.tokens, steps) for key, each in works.items()}, 3 * ROUNDS)
        cost = 100 * (speeds["epochs"] / speeds["sleep"] - 1)
        print(f"{profile}: sleep {cost:+.1f} % of time a token ({works['sleep'].state.cycle} cycles)")
        worst = max(worst, cost)
    return worst


def checkpoints() -> tuple[float, float]:
    """(seconds of a checkpoint over torch.save of the same bytes, milliseconds that training stands still) for the small model."""
    config = config_of("strict-small", "epochs", training__precision="fp32")
    ours = Ours(config, synthetic(20_000, 128, 8192))
    ours.tokens(1)
    payload = checkpoint.snapshot(ours.run, ours.state, {})
    saves, plain, pauses = [], [], []
    with tempfile.TemporaryDirectory() as name:
        writer = Writer(Path(name), "benchmark", 0, 1)
        writer.reserve(ours.run, ours.state)
        for _ in range(2 * ROUNDS):
            began = time.perf_counter()
            torch.save(payload, Path(name) / "plain")
            plain.append(time.perf_counter() - began)
            began = time.perf_counter()
            writer.save(ours.run, ours.state, {})
            pauses.append(time.perf_counter() - began)
            writer.settle()
            saves.append(time.perf_counter() - began)
    print(f"checkpoint {statistics.median(saves):.3f} s, torch.save {statistics.median(plain):.3f} s")
    return statistics.median(saves) / statistics.median(plain), 1000 * statistics.median(pauses)


def growth() -> float:
    """Percent by which a word's time differs most between three corpora, 1M, 4M and 16M words, read in folds of 8,000 by a sleeping run."""
    torch.set_num_threads(1)
    works = {}
    for words in (1_000_000, 4_000_000, 16_000_000):
        config = config_of(
            "tiny", "weighted_replay", data__rows="packed", data__row_length=64, training__precision="fp32", sleep__folds=words // 8000
        )
        works[f"{words:,}"] = Ours(config, synthetic(words, 64, 512))
    speeds = in_turn({key: partial(each.tokens, 150) for key, each in works.items()}, 2 * ROUNDS)
    print("tokens/s by words of the corpus: " + ", ".join(f"{key}: {value:,.0f}" for key, value in speeds.items()))
    return 100 * (max(speeds.values()) / min(speeds.values()) - 1)


def shares_of_ceiling() -> dict[str, float]:
    """Floating-point operations a second that the model needs, in bf16 on one thread, over those of a large matrix product."""
    torch.set_num_threads(1)
    shares = {}
    for name, profile, steps in (("small", "strict-small", 3), ("pilot", "pilot", 8)):
        config = config_of(profile, "epochs", training__precision="bf16")
        length, vocab_size = config.data.row_length, config.tokenizer.vocab_size
        ours = Ours(config, synthetic(100_000, length, vocab_size))
        ours.tokens(2)
        paces, ceilings = [], []
        for _ in range(ROUNDS):
            ceilings.append(measure_ceiling(CPU, "bf16"))
            paces.append(per_second(partial(ours.tokens, steps)))
        shares[name] = statistics.median(paces) * flops_a_token(config, vocab_size, length) / statistics.median(ceilings)
        print(f"{name}, 1 thread: {statistics.median(paces):,.0f} tokens/s, {shares[name]:.0%} of {max(ceilings) / 1e9:,.0f} GFLOP/s")
    return shares


def main() -> None:
    """Print the comparisons and, last, the claims."""
    shares = shares_of_ceiling()
    small = against_trainer("strict-small", 2, 3, ("fp32", "bf16"))
    pilot = against_trainer("pilot", 1, 8, ("bf16",))
    ratio, pause = checkpoints()
    claims = {
        "small_bf16_over_trainer": small["bf16"],
        "small_fp32_over_trainer": small["fp32"],
        "pilot_over_trainer": pilot["bf16"],
        "tiny_over_reference_loop": tiny_against_the_plain_loop(),
        "sleep_overhead_percent": sleep_overhead(),
        "checkpoint_over_torch_save": ratio,
        "checkpoint_pause_ms": pause,
        "words_time_growth_percent": growth(),
        "small_share_of_ceiling": shares["small"],
        "pilot_share_of_ceiling": shares["pilot"],
    }
    print(json.dumps({"claims": [{"claim": name, "measured": round(value, 3)} for name, value in claims.items()]}))


if __name__ == "__main__":
    main()
