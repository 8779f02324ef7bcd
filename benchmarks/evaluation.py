"""BLiMP scoring against a straightforward implementation, on real pairs: same model, machine and process; medians, one thread.

Straightforward: one padded row for every scored position, the whole LM head, batches of 64 rows. Then what a user waits for: BLiMP fast
on two cores, commands from start to end, a series of checkpoints in one of them; and the memory that an item of 3,000 tokens takes.
Needs the official data and BabyLM text (argument, else SLEEP_TUNE_DATA, else ../shared/data).
"""

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sleep_tune.evaluation.evaluate import score_plan
from sleep_tune.evaluation.likelihood import BUDGET_BYTES
from sleep_tune.evaluation.official_data import load_items
from sleep_tune.evaluation.plan import make_plan
from sleep_tune.evaluation.tasks import Item, TaskItems
from sleep_tune.training.meters import peak_bytes

MODELS = {"small": (8192, (8, 8, 256, 2048)), "tiny": (4096, (2, 4, 64, 256))}  # vocabulary; layers, heads, width, ffn
CHECKPOINTS = (*range(1, 11), *range(20, 101, 10))  # millions of words: 19 of a strict-small submission
CORES = 2
BEGIN = """
import os, sys
from pathlib import Path
from sleep_tune.evaluation.model_source import ModelSource, uncollected
from sleep_tune.evaluation.official_data import load_items
items = load_items(Path(sys.argv[2]), ["blimp"], fast=True, items_per_uid=20)
with uncollected():
    from sleep_tune.evaluation.evaluate import plan_items
model, tokenizer = ModelSource(sys.argv[1]).load("mlm")
plan_items(tokenizer, items)
os._exit(0)
"""
LOAD = """
import os, sys
from transformers import AutoModelForMaskedLM, AutoTokenizer
AutoTokenizer.from_pretrained(sys.argv[1]), AutoModelForMaskedLM.from_pretrained(sys.argv[1])
os._exit(0)
"""
LONG_TOKENS, LONG_SCORED = 3000, 4


def main() -> None:
    """Measure, print a table, end with the line of JSON."""
    torch.set_num_threads(1)
    data = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("SLEEP_TUNE_DATA", "../shared/data"))
    evaluation = data / "evaluation_data"
    claims: dict[str, float] = {"decisions_changed": 0}
    print(f"{'model':12}{'pairs':>7}{'plain s':>9}{'ours s':>8}{'ratio':>7}{'max diff':>10}{'changed':>9}")
    for name, per_uid in (("small", 1), ("tiny", 5)):
        vocab, sizes = MODELS[name]
        tokenizer, model = real_tokenizer(data, vocab), random_model(vocab, *sizes)
        compare(name, model, tokenizer, load_items(evaluation, ["blimp"], fast=True, items_per_uid=per_uid), claims)
        if name == "small":
            more = load_items(evaluation, ["blimp"], fast=True, items_per_uid=4)
            claims["bf16_decisions_changed"] = approximate_decisions(model, tokenizer, more)
    torch.set_num_threads(CORES)
    seconds, _ = timed(lambda: score_plan(model, make_plan(tokenizer, load_items(evaluation, ["blimp"], fast=True))))
    claims["tiny_blimp_fast_seconds"] = seconds
    print(f"BLiMP fast, 13,400 pairs, tiny, read, planned and scored: {seconds:.1f} s on {CORES} threads")
    claims |= commands(model, tokenizer, evaluation)
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # a process whose peak is this item's
        claims["long_item_peak_mib"] = peak = pool.apply(long_item_peak)
    print(f"two rows of {LONG_TOKENS:,} tokens, small, {LONG_SCORED} scored in each: peak {peak:.0f} MiB over the idle process")
    print(f"(batches that run at a time are held to {BUDGET_BYTES >> 20} MiB by estimate)")
    print(json.dumps({"claims": [{"claim": claim, "measured": round(value, 3)} for claim, value in claims.items()]}))


def compare(name: str, model: Any, tokenizer: Any, items: list[TaskItems], claims: dict[str, float]) -> None:
    """Ratios of times, alternating, and the number of decisions that differ; of the small model in bfloat16 too, which is approximate."""
    kinds: dict[str, Callable[[], Any]] = {
        "plain": lambda: straightforward(model, tokenizer, items),
        "ours": lambda: score_plan(model, make_plan(tokenizer, items))[0].scores_IC,
    }
    if name == "small":
        kinds["bf16"] = lambda: score_plan(model, make_plan(tokenizer, items), bf16=True)[0].scores_IC
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    scores: dict[str, Any] = {}
    for _ in range(3):
        for kind, work in kinds.items():
            seconds, scores[kind] = cpu_timed(work)
            times[kind].append(seconds)
    plain = statistics.median(times["plain"])
    for kind, label in (("ours", name), ("bf16", f"{name}, bf16*")):
        if kind not in kinds:
            continue
        ours, changed = statistics.median(times[kind]), decisions_changed(scores[kind], scores["plain"])
        difference = float(np.abs(scores[kind] - scores["plain"]).max())
        print(f"{label:12}{len(scores[kind]):7}{plain:9.2f}{ours:8.2f}{plain / ours:7.2f}{difference:10.1e}{changed:9}", flush=True)
        claims[f"{name}_over_plain" if kind == "ours" else f"{name}_bf16_over_plain"] = plain / ours
        claims["decisions_changed"] += changed if kind == "ours" else 0


def decisions_changed(one_IC: Any, two_IC: Any) -> int:
    """Pairs of which the two scorings prefer different sentences, or only one of them any."""
    return int((np.sign(one_IC[:, 0] - one_IC[:, 1]) != np.sign(two_IC[:, 0] - two_IC[:, 1])).sum())


def approximate_decisions(model: Any, tokenizer: Any, items: list[TaskItems]) -> int:
    """How many decisions bfloat16 changes, of more pairs than are timed."""
    plan = make_plan(tokenizer, items)
    [exact], [rough] = score_plan(model, plan), score_plan(model, plan, bf16=True)
    changed = decisions_changed(exact.scores_IC, rough.scores_IC)
    print(
        f"* approximate, and its results say so ({rough.backend}): {changed} of {len(exact.scores_IC)} decisions differ from the exact ones"
    )
    return changed


@torch.no_grad()
def straightforward(model: Any, tokenizer: Any, items: list[TaskItems]) -> np.ndarray[Any, Any]:
    """Scores (I, 2) the plain way: the masked rows of 64 items padded to one length, in batches of 64, logits everywhere."""
    scores, all_items = [], items[0].items
    for start in range(0, len(all_items), 64):
        for c in (0, 1):
            rows: list[list[int]] = []
            sites: list[tuple[int, int, int]] = []
            for i, item in enumerate(all_items[start : start + 64]):
                encoded = tokenizer(item.sentences[c], return_offsets_mapping=True)
                for at, (_, end) in enumerate(encoded["offset_mapping"]):
                    if end > 0:
                        ids = encoded["input_ids"]
                        rows.append([*ids[:at], tokenizer.mask_token_id, *ids[at + 1 :]])
                        sites.append((i, at, ids[at]))
            sums = np.zeros(len(all_items[start : start + 64]), np.float32)
            longest = max(map(len, rows))
            ids_RL = torch.tensor([row + [tokenizer.pad_token_id] * (longest - len(row)) for row in rows])
            for first in range(0, len(rows), 64):
                batch, chunk = ids_RL[first : first + 64], sites[first : first + 64]
                logits = model(input_ids=batch, attention_mask=(batch != tokenizer.pad_token_id).long()).logits
                position, target = torch.tensor([site[1] for site in chunk]), torch.tensor([site[2] for site in chunk])
                log_probability = torch.log_softmax(logits[torch.arange(len(chunk)), position], -1)[torch.arange(len(chunk)), target]
                np.add.at(sums, [site[0] for site in chunk], log_probability.numpy())
            scores.append((c, sums))
    return np.stack([np.concatenate([sums for which, sums in scores if which == c]) for c in (0, 1)], axis=1)


def commands(model: Any, tokenizer: Any, evaluation: Path) -> dict[str, float]:
    """Of a sample of BLiMP fast: seconds before the first row is scored, also over those of transformers loading the model alone; and
    scoring 19 checkpoints by 19 commands over one command that scores them all with one plan."""
    with tempfile.TemporaryDirectory() as folder:
        series = [save(model, tokenizer, Path(folder) / "series" / f"chck_{millions}M") for millions in CHECKPOINTS]
        blimp = ["--tasks", "blimp", "--fast", "--items-per-uid", "20"]
        begins = [[process(code, series[-1], evaluation) for code in (BEGIN, LOAD)] for _ in range(5)]
        start, load = (statistics.median(each) for each in zip(*begins, strict=True))
        each = statistics.median(command(series[n], evaluation, f"{folder}/one{n}", *blimp) for n in range(3))
        one = command(series[-1], evaluation, f"{folder}/all", *blimp, "--checkpoints", f"{folder}/series")
    many = len(series) * each
    print(f"a process that has its model, items and plan, ready for the first row: {start:.1f} s after its start")
    print(f"(one that loads the model by transformers and does nothing else: {load:.1f} s)")
    print(f"{len(series)} checkpoints, 20 pairs a UID: {many:.0f} s in as many processes, {one:.0f} s in one")
    return {"startup_seconds": start, "startup_over_loading_alone": start / load, "one_process_over_many": many / one}


def save(model: Any, tokenizer: Any, directory: Path) -> Path:
    """A checkpoint of the series: the model, a little changed."""
    with torch.no_grad():
        model.lm_head.bias += 0.01
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def process(code: str, *words: Path) -> float:
    """Wall seconds of a Python process."""
    return timed(lambda: subprocess.run([sys.executable, "-c", code, *map(str, words)], check=True, capture_output=True))[0]


def command(model: Path, evaluation: Path, out: str, *options: str) -> float:
    """Wall seconds of the evaluation command."""
    words = [sys.executable, "-m", "sleep_tune.evaluation", str(model), "--data", str(evaluation), "--out", out, *options]
    return timed(lambda: subprocess.run(words, check=True, capture_output=True))[0]


def long_item_peak() -> float:
    """MiB by which the process' peak grows when it scores a pair of 3,000 tokens each."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    torch.set_num_threads(CORES)
    vocab, sizes = MODELS["small"]
    words = ["<pad>", "<s>", "<unk>", "<mask>", *(f"w{i}" for i in range(vocab - 4))]
    plain = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", unk_token="<unk>", mask_token="<mask>")
    sentences = tuple(" ".join(f"w{(i * step) % (vocab - 4)}" for i in range(LONG_TOKENS)) for step in (7, 11))
    ends = tuple(" ".join(sentence.split()[-LONG_SCORED:]) for sentence in sentences)
    items = TaskItems("pairs", "pairs", "honest", 0, (Item("long", 0, sentences, ends, {"UID": "long"}),))
    model = random_model(vocab, *sizes, positions=LONG_TOKENS)
    score_plan(model, make_plan(tokenizer, [short_items()]))  # sets libraries up
    before = peak_bytes()
    score_plan(model, make_plan(tokenizer, [items]))
    return (peak_bytes() - before) / (1 << 20)


def short_items() -> TaskItems:
    """One pair of a few words."""
    pair = ("w1 w2 w3 w4", "w1 w2 w3 w5")
    return TaskItems("pairs", "pairs", "honest", 0, (Item("short", 0, pair, pair, {"UID": "short"}),))


def cpu_timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of `work` (one thread: what it would take undisturbed), and what it returned."""
    start = time.process_time()
    value = work()
    return time.process_time() - start, value


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Wall seconds of `work`, and what it returned."""
    start = time.perf_counter()
    value = work()
    return time.perf_counter() - start, value


def real_tokenizer(data: Path, vocab_size: int) -> Any:
    """Byte-level BPE trained on BabyLM's development text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train([str(file) for file in sorted((data / "babylm" / "dev").iterdir())], trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def random_model(vocab_size: int, layers: int, heads: int, width: int, ffn: int, positions: int = 128) -> Any:
    """RoBERTa with LayerNorm before, in evaluation mode."""
    from transformers import RobertaPreLayerNormConfig, RobertaPreLayerNormForMaskedLM

    torch.manual_seed(0)  # the weights of a throw-away model
    sizes: dict[str, Any] = {"num_hidden_layers": layers, "num_attention_heads": heads, "hidden_size": width, "intermediate_size": ffn}
    places = positions + 2  # two of RoBERTa's are reserved
    config = RobertaPreLayerNormConfig(
        vocab_size=vocab_size, max_position_embeddings=places, initializer_range=0.1, pad_token_id=1, **sizes
    )
    return RobertaPreLayerNormForMaskedLM(config).eval()


if __name__ == "__main__":
    main()
