"""How large a model is and what training it costs, from its sizes alone: no torch, so that a plan can say it at once.

Legend: D width, F width of the feed-forward block, V vocabulary, L tokens of a row, P parameters.
"""

from dataclasses import dataclass

from sleep_tune.config import Config, LinearRate, Model

FORWARDS = 3  # a step's products over its forward's: backward makes two of each
RAY_BYTES = 55 << 20  # of a worker, over a process without Ray
BASE_BYTES = (415 << 20) + RAY_BYTES  # a worker that has opened a trial, its weights apart: torch, transformers, Ray
FIRST_STEP_BYTES = 70 << 20  # what the libraries keep of their own from the first step on
_BF16_CODE_BYTES = 215 << 20  # oneDNN's, of the last 64 products, in training and in scoring
_SCATTERED = 1.25  # memory that activations take over their size: every batch has another number of labels, and holes stay between them
_GATHERED = 1.1  # the same of probes, whose batches are few
OPEN_WEIGHT_BYTES = 8 + 12  # of a trial before its first step: weight, gradient, and the room of a checkpoint's copy
_CUDA_HOST_BYTES, _CUDA_BYTES = 2 << 30, 600 << 20  # a process with torch's CUDA libraries loaded; a context
_WEIGHT_BYTES = 16 + 12  # weight, gradient, two moments; and the copy of all but the gradient that a checkpoint is written from
_BF16_WEIGHT_BYTES = 4  # the weights in bf16, and their gradient
_BF16_ACTIVATIONS = 0.7  # of fp32's: outputs of products are half as large, what is normalised and added is not
_PROBE_ROWS = 128  # of a forward on held-out text
_SAMPLE_BYTES = 2 * (14 + 4 + 12) + 13  # candidate arrays, exposures, a cycle's measurements and buffer, and their copy; the store's
_TASK_BYTES = {"pairs": 10 << 20, "blimp": 45 << 20, "supplement": 45 << 20}  # items as rows to score
_OTHER_TASK_BYTES = 100 << 20


def parameters(model: Model, vocab_size: int) -> int:
    """Trainable weights P; a tied head counts once."""
    width, ffn = model.width, model.ffn
    layer = 4 * (width + 1) * width + (width + 1) * ffn + (ffn + 1) * width + 4 * width
    outside = (vocab_size + model.positions) * width + 2 * width + (0 if model.tied else vocab_size * width)
    if model.name.startswith("roberta"):  # a type embedding, a norm of the embeddings, a head of two layers and a bias
        outside += width + 2 * width + (width + 1) * width + 2 * width + vocab_size
    return model.layers * layer + outside


def labels_a_token(config: Config, length: float) -> float:
    """Share of a row's tokens that are predicted, on average over the run; the first of a row never is."""
    inner = max(0.0, 1 - 1 / length)
    if config.objective == "clm":
        return inner
    rate = config.masking.rate
    return inner * (sum(rate.linear) / 2 if isinstance(rate, LinearRate) else rate)


def flops_a_token(config: Config, vocab_size: int, length: float) -> float:
    """Floating-point operations of the matrix products that training on a token needs, in rows of `length` tokens.

    Needed is: the last layer and the head where a label is; of attention from left to right the half that is seen. Norms, softmax and
    dropout do not count.
    """
    width, ffn, labels = config.model.width, config.model.ffn, labels_a_token(config, length)
    seen = length / 2 if config.objective == "clm" else length
    attention = 2 * seen * width
    after = width * width + 2 * width * ffn  # projection and feed-forward block
    layer = 3 * width * width + attention + after
    last = 2 * width * width + labels * (width * width + attention + after)
    head = labels * (width * vocab_size + (width * width if config.objective == "mlm" else 0))
    return 2 * FORWARDS * ((config.model.layers - 1) * layer + last + head)


@dataclass(frozen=True)
class Memory:
    """Bytes of a worker process at its peak, on the host and on its GPU (0: none)."""

    host: int
    gpu: int


def process_memory(config: Config, vocab_size: int, samples: int, tokens: int, base_bytes: int = BASE_BYTES) -> Memory:
    """What one process of a trial of `config` takes on a corpus of `samples` and `tokens`; measured on CPUs to within a sixth."""
    count = parameters(config.model, vocab_size)
    weights = count * (_WEIGHT_BYTES + (4 if config.sleep is not None and config.sleep.homeostasis is not None else 0))
    computed = activation_bytes(config, vocab_size) + (_bf16_bytes(count) if config.training.precision == "bf16" else 0)
    tasks = {*config.evaluation.milestones.tasks, *config.evaluation.final.tasks}
    read = samples * _SAMPLE_BYTES + 2 * tokens + sum(_TASK_BYTES.get(task, _OTHER_TASK_BYTES) for task in tasks)
    if config.sleep is not None and config.sleep.criterion.name in ("need", "utility"):
        read += 8 * samples * config.model.width  # what lies near what: a vector of every sample seen, and its unit vector
    if not config.resources.gpus:
        return Memory(base_bytes + FIRST_STEP_BYTES + weights + computed + read, 0)
    return Memory(_CUDA_HOST_BYTES + 12 * count + read, _CUDA_BYTES + 16 * count + computed)


def _bf16_bytes(count: int) -> int:
    return count * _BF16_WEIGHT_BYTES + _BF16_CODE_BYTES


def activation_bytes(config: Config, vocab_size: int) -> int:
    """What the larger takes of a step, which keeps for its backward, and a forward on held-out rows."""
    model, length = config.model, config.data.row_length
    width, ffn, labels = model.width, model.ffn, labels_a_token(config, length)
    rows = -(-config.training.batch_rows // (config.resources.workers * config.training.accumulation))
    weights = 0 if config.resources.gpus else (3 if model.dropout else 2) * model.heads * length  # of attention, where they are kept
    layer = 12 * width + 2 * ffn + weights
    step = rows * length * ((model.layers - 1 + labels) * layer + 5 * width + 3 * labels * vocab_size)
    if config.sleep is not None and config.sleep.criterion.name in ("gain", "utility"):
        step *= 1.3  # inputs and gradients of every product, kept for each row's own
    if config.training.precision == "bf16":
        step *= _BF16_ACTIVATIONS
    probe_labels = 1.0 if config.objective == "clm" else 0.15
    probe = _PROBE_ROWS * length * max(6 * width + 2 * ffn, 2 * probe_labels * vocab_size)
    return round(4 * max(_SCATTERED * step, _GATHERED * probe))
