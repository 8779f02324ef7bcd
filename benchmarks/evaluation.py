"""BLiMP scoring against a straightforward implementation, on real pairs: same model, machine and process; medians, one thread.

Straightforward: one padded row for every scored position, the whole LM head, batches of 64 rows. Needs the official data and
BabyLM text (argument, else SLEEP_TUNE_DATA, else ../shared/data).
"""

import json
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
from sleep_tune.evaluation.official_data import load_items
from sleep_tune.evaluation.plan import make_plan
from sleep_tune.evaluation.tasks import TaskItems

CHECKPOINTS = 19  # of a strict-small submission


def main() -> None:
    """Measure, print a table, end with the line of JSON."""
    torch.set_num_threads(1)
    data = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("SLEEP_TUNE_DATA", "../shared/data"))
    evaluation = data / "evaluation_data"
    claims: dict[str, float] = {"decisions_changed": 0}
    print(f"{'model':8}{'pairs':>7}{'plain s':>9}{'ours s':>8}{'ratio':>7}{'max diff':>10}{'changed':>9}")
    for name, per_uid, vocab, sizes in (("small", 1, 8192, (8, 8, 256, 2048)), ("tiny", 5, 4096, (2, 4, 64, 256))):
        tokenizer = real_tokenizer(data, vocab)
        model = random_model(vocab, *sizes)
        items = load_items(evaluation, ["blimp"], fast=True, items_per_uid=per_uid)
        ratio, changed = compare(name, model, tokenizer, items)
        claims[f"{name}_over_plain"] = ratio
        claims["decisions_changed"] += changed
    seconds, _ = timed(lambda: score_plan(model, make_plan(tokenizer, load_items(evaluation, ["blimp"], fast=True))))
    claims["tiny_blimp_fast_seconds"] = seconds
    print(f"BLiMP fast, 13,400 pairs, tiny, read, planned and scored: {seconds:.1f} s on {torch.get_num_threads()} threads")
    claims["one_process_over_many"] = one_process_over_many(model, tokenizer, evaluation)
    print(json.dumps({"claims": [{"claim": claim, "measured": round(value, 3)} for claim, value in claims.items()]}))


def compare(name: str, model: Any, tokenizer: Any, items: list[TaskItems]) -> tuple[float, int]:
    """Ratio of times, alternating, and the number of decisions that differ."""
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(3):
        seconds, theirs_IC = cpu_timed(lambda: straightforward(model, tokenizer, items))
        times["plain"].append(seconds)
        seconds, result = cpu_timed(lambda: score_plan(model, make_plan(tokenizer, items))[0])
        times["ours"].append(seconds)
    ours_IC = result.scores_IC
    changed = int(((ours_IC[:, 0] > ours_IC[:, 1]) != (theirs_IC[:, 0] > theirs_IC[:, 1])).sum())
    plain, ours = statistics.median(times["plain"]), statistics.median(times["ours"])
    difference = float(np.abs(ours_IC - theirs_IC).max())
    print(f"{name:8}{len(ours_IC):7}{plain:9.2f}{ours:8.2f}{plain / ours:7.2f}{difference:10.1e}{changed:9}", flush=True)
    return plain / ours, changed


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


def one_process_over_many(model: Any, tokenizer: Any, evaluation: Path) -> float:
    """Scoring 19 checkpoints by 19 commands, over scoring them in one process with one plan; a sample of BLiMP fast."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(f"{folder}/model")
        tokenizer.save_pretrained(f"{folder}/model")
        command = [
            sys.executable,
            "-m",
            "sleep_tune.evaluation",
            f"{folder}/model",
            "--data",
            str(evaluation),
            "--tasks",
            "blimp",
            "--fast",
        ]
        command += ["--items-per-uid", "20"]
        runs = [
            timed(lambda n=n: subprocess.run([*command, "--out", f"{folder}/{n}"], check=True, capture_output=True))[0] for n in range(3)
        ]
    many = CHECKPOINTS * statistics.median(runs)
    start = timed(
        lambda: subprocess.run([sys.executable, "-c", "import transformers, torch; transformers.AutoModelForMaskedLM"], check=True)
    )[0]
    plan_s, plan = timed(lambda: make_plan(tokenizer, load_items(evaluation, ["blimp"], fast=True, items_per_uid=20)))
    one = start + plan_s + CHECKPOINTS * statistics.median(timed(lambda: score_plan(model, plan))[0] for _ in range(3))
    print(
        f"{CHECKPOINTS} checkpoints, 20 pairs a UID: {many:.0f} s in {CHECKPOINTS} processes, {one:.0f} s in one (start-up {start:.1f} s)"
    )
    return many / one


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


def random_model(vocab_size: int, layers: int, heads: int, width: int, ffn: int) -> Any:
    """RoBERTa with LayerNorm before, in evaluation mode."""
    from transformers import RobertaPreLayerNormConfig, RobertaPreLayerNormForMaskedLM

    torch.manual_seed(0)  # the weights of a throw-away model
    sizes = {"num_hidden_layers": layers, "num_attention_heads": heads, "hidden_size": width, "intermediate_size": ffn}
    config = RobertaPreLayerNormConfig(vocab_size=vocab_size, max_position_embeddings=130, initializer_range=0.1, pad_token_id=1, **sizes)
    return RobertaPreLayerNormForMaskedLM(config).eval()


if __name__ == "__main__":
    main()
