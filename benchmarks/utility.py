"""What it costs to know every row's gain (squared norm of its gradient) while a batch trains, and how exact the gain is.

Time: forward and backward of the same batch, plain and recorded in turn, in one process on one thread; medians of CPU seconds, which other
work on the machine touches least. Memory: the largest resident size during one step, less that before it (weights, gradients and
libraries), plain and recorded in a fresh process each. Exactness: in fp32 against `torch.func.vmap(grad)` of the transformers model, which
holds every row's gradient of every weight; all claims are the worst case. Random tokens with Zipf's frequencies: no data is needed.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from sleep_tune.config import Masking, Model, Training
from sleep_tune.data.collate import PAD
from sleep_tune.sleep.context import Rows
from sleep_tune.streams import stream
from sleep_tune.training.dropout import Dropout
from sleep_tune.training.models import Network, new_network
from sleep_tune.training.objectives import LabelledRows, mask_rows, next_tokens
from sleep_tune.training.row_gradients import RowGradients

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Size:
    layers: int
    heads: int
    width: int
    ffn: int
    vocab: int
    length: int
    rows: int
    dropout: float
    rate: float
    repeats: int


SIZES = {  # those of the profiles; a claim is the worst of the first two: a step of tiny is call overhead
    "small": Size(8, 8, 256, 2048, 8192, 128, 32, 0.1, 0.15, 5),
    "pilot": Size(4, 6, 192, 768, 4096, 64, 32, 0.1, 0.15, 15),
    "tiny": Size(2, 4, 64, 256, 512, 16, 16, 0.0, 0.3, 300),
}
CLAIMED = ("small", "pilot")


def main() -> None:
    """Measure, print a table, end with the claims as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=2, help="a size, and plain or gain: print what one step takes up in MB")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.child:
        print(step_mb(SIZES[arguments.child[0]], STEPS[arguments.child[1]]))
        return
    time_ratio, memory_ratio = {}, {}
    print(f"{'model':8}{'plain ms':>10}{'with gain':>11}{'ratio':>7}{'with squares':>14}{'plain MB':>10}{'with gain':>11}{'ratio':>7}")
    for name, size in SIZES.items():
        plain_s, gain_s, squares_s = step_seconds(size)
        plain_mb, gain_mb = (child_mb(name, what) for what in ("plain", "gain"))
        time_ratio[name], memory_ratio[name] = gain_s / plain_s, gain_mb / plain_mb
        times = f"{1000 * plain_s:10.1f}{1000 * gain_s:11.1f}{time_ratio[name]:7.2f}{squares_s / plain_s:13.2f}x"
        print(f"{name:8}{times}{plain_mb:10.1f}{gain_mb:11.1f}{memory_ratio[name]:7.2f}", flush=True)
    error = max(relative_error(*case) for case in CASES)
    claims = {
        "gain_over_step": round(max(time_ratio[name] for name in CLAIMED), 3),
        "gain_relative_error": float(f"{error:.2g}"),
        "gain_memory_over_step": round(max(memory_ratio[name] for name in CLAIMED), 3),
    }
    print(json.dumps({"claims": [{"claim": claim, "measured": value} for claim, value in claims.items()]}))


def network_of(size: Size, model: str = "roberta_pln", tied: bool = False, dropout: float | None = None) -> Network:
    sizes = {"layers": size.layers, "heads": size.heads, "width": size.width, "ffn": size.ffn, "positions": 512}
    others = {"dropout": size.dropout if dropout is None else dropout, "init_std": 0.02, "tied": tied}
    config = Model.model_validate({"name": model, **sizes, **others})
    return new_network(config, size.vocab, 1, Training(batch_rows=size.rows, precision="fp32"), CPU)


def batch_of(size: Size, rows: int, objective: str = "mlm", padded: bool = False) -> LabelledRows:
    """Tokens with frequencies that fall as 1 / rank, rows of one length or of all lengths."""
    generator = np.random.default_rng(0)
    rank_BL = np.exp(generator.random((rows, size.length)) * np.log(size.vocab - 5)).astype(int)
    length_B = generator.integers(3, size.length + 1, rows) if padded else np.full(rows, size.length)
    tokens_BL = np.where(np.arange(size.length) < length_B[:, None], 4 + rank_BL, PAD)
    tokens_BL[:, 0] = 0
    plain = Rows(tokens_BL, length_B, length_B, np.arange(rows))
    return next_tokens(plain, CPU) if objective == "clm" else mask_rows(plain, Masking(rate=size.rate), size.vocab, stream(0, "mask"), CPU)


def plain(network: Network, batch: LabelledRows) -> None:
    """An ordinary forward and backward pass."""
    network.flat.grad.zero_()  # type: ignore[union-attr]
    network.descend(batch, Dropout(network.dropout, CPU, 0) if network.dropout else None)


def gain(network: Network, batch: LabelledRows) -> Tensor:
    """The same, and the gain of every row."""
    with RowGradients(network, batch, gain=True) as gradients:
        plain(network, batch)
    return gradients.gain_B()


def squares(network: Network, batch: LabelledRows, squares_P: Tensor) -> None:
    """The same, and the sum over rows of the squared gradients: what Fisher information takes."""
    with RowGradients(network, batch, squares_P=squares_P):
        plain(network, batch)


STEPS: dict[str, Callable[[Network, LabelledRows], Any]] = {"plain": plain, "gain": gain}


def step_seconds(size: Size) -> tuple[float, float, float]:
    """Median CPU seconds of a step: plain, with gain, with squares."""
    network, batch = network_of(size), batch_of(size, size.rows)
    squares_P = torch.zeros_like(network.flat.data)
    steps = [lambda: plain(network, batch), lambda: gain(network, batch), lambda: squares(network, batch, squares_P)]
    seconds: list[list[float]] = [[], [], []]
    for repeat in range(-1, size.repeats):  # the first is not counted
        for which, step in enumerate(steps[: 3 if repeat < 2 else 2]):  # squares, which are rarely wanted, twice
            start = time.process_time()
            step()
            seconds[which] += [time.process_time() - start] if repeat >= 0 else []
    return median(seconds[0]), median(seconds[1]), median(seconds[2])


def child_mb(name: str, what: str) -> float:
    """`step_mb` in a process of its own."""
    command = [sys.executable, __file__, "--child", name, what]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def step_mb(size: Size, step: Callable[[Network, LabelledRows], Any]) -> float:
    """MB that a step takes up at its peak, beyond what is there before it: libraries are loaded by a step on two rows."""
    network, batch = network_of(size), batch_of(size, size.rows)
    gain(network, batch_of(size, 2))
    before = status_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    step(network, batch)
    return status_mb("VmHWM") - before


def status_mb(field: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


def relative_error(name: str, model: str, tied: bool, padded: bool) -> float:
    """Largest relative difference of a row's gain from that of `vmap(grad)`, four rows at once."""
    size, objective = SIZES[name], "clm" if model == "gpt2" else "mlm"
    network, batch = network_of(size, model, tied, dropout=0.0), batch_of(size, size.rows, objective, padded)
    ours_B = gain(network, batch)
    theirs_B = torch.cat([gains_by_vmap(network, batch, slice(first, first + 4)) for first in range(0, size.rows, 4)])
    error = float((ours_B / theirs_B - 1).abs().max())
    print(f"{name:8}{model:12}{'tied' if tied else 'untied':8}{'padded' if padded else 'full rows':11}differs by {error:.1e}", flush=True)
    return error


CASES = [
    ("small", "roberta_pln", False, False),
    *((name, model, tied, True) for name in ("pilot", "tiny") for model in ("roberta_pln", "gpt2") for tied in (False, True)),
]


def gains_by_vmap(network: Network, batch: LabelledRows, rows: slice) -> Tensor:
    """(R,) squared norms of all the gradients of some rows' mean losses."""
    model, (count, length) = network.model, batch.tokens_BL.shape
    model.set_attn_implementation("eager")  # vmap cannot batch the others
    label_BL = torch.full((count, length), -1)
    label_BL.view(-1)[batch.at_M] = batch.target_M
    seen_BLL = torch.ones(count, length, length, dtype=torch.bool) if batch.bias_B11L is None else (batch.bias_B11L[:, 0] == 0)
    if model.config.model_type == "gpt2":
        seen_BLL = seen_BLL.expand(count, length, length).tril()
    mask_BLL = torch.where(seen_BLL.expand(count, length, length), 0.0, torch.finfo(torch.float32).min)

    def loss(weights: dict[str, Tensor], tokens_L: Tensor, label_L: Tensor, mask_LL: Tensor) -> Tensor:
        inputs = {"input_ids": tokens_L[None], "attention_mask": mask_LL[None, None]}
        loss_L = -functional_call(model, weights, (), inputs).logits[0].log_softmax(1).gather(1, label_L.clamp(min=0)[:, None])[:, 0]
        return (loss_L * (label_L >= 0)).sum() / (label_L >= 0).sum()

    weights = {key: weight.detach() for key, weight in model.named_parameters()}
    gradients = vmap(grad(loss), (None, 0, 0, 0))(weights, batch.tokens_BL[rows], label_BL[rows], mask_BLL[rows])
    return torch.stack([each.flatten(1).square().sum(1) for each in gradients.values()]).sum(0)


if __name__ == "__main__":
    main()
