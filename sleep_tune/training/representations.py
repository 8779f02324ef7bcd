"""Where samples lie in the network's space: one vector each, for need to compare. Distances are `sleep.neighbours`'s.

Legend: N samples of the corpus, n of them asked for, B rows of a batch, L positions, D width.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from sleep_tune.sleep.context import Corpus, sample_rows
from sleep_tune.training.models import Network


def representations(network: Network, corpus: Corpus, ids_n: NDArray[np.integer], layers: int, batch_rows: int) -> NDArray[np.float32]:
    """(n, D) of length 1: the last `layers` residual streams, averaged over layers and over non-pad positions, nothing masked.

    In the order of `ids_n`; computed by rows of like lengths together. Evaluation mode, no gradient; draws nothing.
    Raises ValueError for `layers` outside 1..the network's.
    """
    if not 1 <= layers <= network.layers:
        raise ValueError(f"layers = {layers}: must be from 1 to the model's {network.layers}")
    z_nD = np.empty((ids_n.size, network.width), np.float32)
    order_n = np.lexsort((ids_n, np.diff(corpus.offsets)[ids_n]))  # ids too: a sample's batch mates depend on the set alone
    for first in range(0, ids_n.size, batch_rows):
        at_B = order_n[first : first + batch_rows]
        rows = sample_rows(corpus, ids_n[at_B])
        tokens_BL, length_B = (torch.from_numpy(each).to(network.device) for each in (rows.tokens_BL, rows.length_B))
        z_nD[at_B] = torch.nn.functional.normalize(network.states(tokens_BL, length_B, layers), dim=1).cpu().numpy()
    return z_nD
