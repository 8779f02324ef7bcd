"""Every random draw of the program names its stream: (seed, purpose, counters) -> Generator.

Keyed streams need no state: a resumed run draws what the undisturbed one drew, and evaluating or logging moves nothing.
"""

import numpy as np
from numpy.random import SFC64, Generator, Philox, SeedSequence

# The id of a purpose is part of every published result: append, never renumber.
PURPOSES = {
    "folds": 0,
    "wake": 1,
    "buffer": 2,
    "pass": 3,
    "offset": 4,
    "mask": 5,
    "dropout": 6,
    "rescore": 7,
    "probe": 8,
    "freeze": 9,
    "homeostasis": 10,
    "weights": 11,
    "grammar": 12,
    "search": 13,
    "items": 14,
    "ties": 15,
    "bootstrap": 16,
    "finetune_rows": 17,
    "finetune_order": 18,
    "finetune_weights": 19,
    "finetune_dropout": 20,
}


def stream(seed: int, purpose: str, *counters: int) -> Generator:
    """The generator of `purpose` at `counters`, equal in any process. Raises KeyError for an unknown purpose."""
    return Generator(Philox(SeedSequence([seed, PURPOSES[purpose], *counters])))


def bulk_stream(seed: int, purpose: str, *counters: int) -> Generator:
    """The same for draws by the million: a generator twice as fast, with other numbers than `stream`'s."""
    return Generator(SFC64(SeedSequence([seed, PURPOSES[purpose], *counters])))


def torch_seed(seed: int, purpose: str, *counters: int) -> int:
    """A 63-bit seed for a torch generator, from the same stream."""
    return int(stream(seed, purpose, *counters).integers(np.iinfo(np.int64).max))
