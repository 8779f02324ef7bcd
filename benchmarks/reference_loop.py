"""A plain training loop, frozen: what one writes with transformers' own modules, the whole head, fp32, fused AdamW.

Others are timed against it. It is given the batches, masked, so that what is compared is the step. Do not make it faster.
"""

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from sleep_tune.training.objectives import LabelledRows


class ReferenceLoop:
    """A model and its optimizer; `step` trains on one batch."""

    def __init__(self, model: PreTrainedModel, learning_rate: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999)):
        self.model = model.train()
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=betas, weight_decay=0.0, fused=True)

    def step(self, rows: LabelledRows) -> float:
        """One optimizer step; the loss."""
        length = rows.tokens_BL.shape[1]
        label_T = torch.full((rows.tokens_BL.numel(),), -100)
        label_T[rows.at_M] = rows.target_M
        mask_BL = torch.ones_like(rows.tokens_BL) if rows.bias_B11L is None else (rows.bias_B11L.view(-1, length) == 0).long()
        logits = self.model(input_ids=rows.tokens_BL, attention_mask=mask_BL).logits
        loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), label_T)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()
