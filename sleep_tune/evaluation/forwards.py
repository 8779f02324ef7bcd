"""How to get a model's logits at chosen positions without computing them everywhere, by model class.

Every way gives the logits that the model's own forward would give there, up to rounding; `exact_way` checks that on a few rows
before a way is used, and otherwise takes the next slower one. Rows have one length: nothing is padded.
"""

import copy
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sleep_tune.errors import UserError

# (model, ids_BL, row_S, position_S) -> logits_SV
LogitsAt = Callable[[Any, Tensor, Tensor, Tensor], Tensor]


def whole_forward(model: Any, ids_BL: Tensor, row_S: Tensor, position_S: Tensor) -> Tensor:
    """The model's own logits, computed at every position: the yardstick, and the last resort."""
    output = model(input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL))
    logits_BLV = output[0] if isinstance(output, tuple) else output["logits"]
    return logits_BLV[row_S, position_S]


def head_at_positions(model: Any, ids_BL: Tensor, row_S: Tensor, position_S: Tensor) -> Tensor:
    """The model's own forward, in which a hook hands the head only the hidden states at the sites.

    Works wherever logits are a position-wise function of the base model's last hidden state.
    """

    def select(module: nn.Module, arguments: Any, output: Any) -> Any:
        hidden_BLD = output[0]
        chosen = hidden_BLD[row_S, position_S][None]
        if isinstance(output, tuple):
            return (chosen, *output[1:])
        output[next(iter(output.keys()))] = chosen
        return output

    with _ONE_AT_A_TIME:
        handle = model.base_model.register_forward_hook(select)
        try:
            output = model(input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL))
        finally:
            handle.remove()
    return (output[0] if isinstance(output, tuple) else output["logits"])[0]


def roberta_last_layer_at_positions(model: Any, ids_BL: Tensor, row_S: Tensor, position_S: Tensor) -> Tensor:
    """RoBERTa, LayerNorm before or after: keys and values of the last layer for all positions, everything else of it at one site a row.

    Needs one site in every row, in order (what masked rows have); else `head_at_positions` does it.
    """
    if len(row_S) != len(ids_BL) or model.config.is_decoder or getattr(model.config, "position_embedding_type", "absolute") != "absolute":
        return head_at_positions(model, ids_BL, row_S, position_S)
    base = model.base_model
    hidden_BLD = base.embeddings(ids_BL)
    *layers, last = base.encoder.layer
    for layer in layers:
        output = layer(hidden_BLD)
        hidden_BLD = output[0] if isinstance(output, tuple) else output
    at_B = torch.arange(len(ids_BL), device=ids_BL.device)
    site_BD = hidden_BLD[at_B, position_S]
    attended_BD = _attend(last.attention, hidden_BLD, position_S)
    attended_BD = last.attention.output(attended_BD, site_BD)
    site_BD = last.output(last.intermediate(attended_BD), attended_BD)
    if hasattr(base, "LayerNorm"):  # pre-LN models normalise once more behind the last layer
        site_BD = base.LayerNorm(site_BD)
    return model.lm_head(site_BD)


def _attend(attention: Any, hidden_BLD: Tensor, position_B: Tensor) -> Tensor:
    """Self-attention of one query a row, before its output projection (B, D)."""
    states_BLD = attention.LayerNorm(hidden_BLD) if hasattr(attention, "LayerNorm") else hidden_BLD
    heads = attention.self.num_attention_heads
    batch = len(states_BLD)
    query_BD = attention.self.query(states_BLD[torch.arange(batch, device=states_BLD.device), position_B])

    def split(states: Tensor) -> Tensor:
        return states.view(batch, -1, heads, query_BD.shape[-1] // heads).transpose(1, 2)

    attended = nn.functional.scaled_dot_product_attention(
        split(query_BD), split(attention.self.key(states_BLD)), split(attention.self.value(states_BLD))
    )
    return attended.reshape(batch, -1)


def exact_way(model: Any, ids_BL: Tensor, row_S: Tensor, position_S: Tensor, preferred: LogitsAt | None = None) -> LogitsAt:
    """The fastest way that agrees with the model's own forward on these rows (1e-4 absolute and relative, NaN equal to NaN)."""
    own_SV = whole_forward(model, ids_BL, row_S, position_S).float()
    for way in (preferred, LOGITS_AT.get(type(model).__name__), head_at_positions):
        if way is None:
            continue
        try:
            logits_SV = way(model, ids_BL, row_S, position_S).float()
        except (AttributeError, KeyError, TypeError, IndexError, RuntimeError, ValueError):
            continue  # another architecture than the way expects: a slower one is always there
        if logits_SV.shape == own_SV.shape and torch.allclose(logits_SV, own_SV, rtol=1e-4, atol=1e-4, equal_nan=True):
            return way
    return whole_forward


def sees_ahead(model: Any, ids_BL: Tensor) -> bool:
    """Whether logits at the first position depend on the last token: then the model does not read from left to right."""
    first = torch.zeros(1, dtype=torch.long, device=ids_BL.device)
    changed = ids_BL[:1].clone()
    changed[0, -1] += 1 if changed[0, -1] == 0 else -1
    one, two = (whole_forward(model, ids, first, first) for ids in (ids_BL[:1], changed))
    return ids_BL.shape[1] > 1 and not torch.allclose(one, two, rtol=1e-4, atol=1e-4, equal_nan=True)


def row_limit(model: Any, longest: int) -> int | None:
    """Tokens a row may have; None: as many as one likes, at least up to `longest`.

    The size of the model's table of positions, where it has one that is known. Others keep their positions in all sorts of ways: where
    `longest` comes near what such a model was made for, it is tried whether that goes through, and what does.
    """
    limit, declared = most_positions(model), declared_positions(model)
    tried = longest if limit is None else min(longest, limit)
    if limit is not None and next(model.parameters()).device.type != "cpu":
        return limit  # not worth a copy of the model, time and again
    if tried < 1 or (declared is not None and tried < declared - _RESERVED) or takes_row(model, tried):
        return limit
    fits, fails = 0, tried
    while fails - fits > 1:
        middle = (fits + fails) // 2
        fits, fails = (middle, fails) if takes_row(model, middle) else (fits, middle)
    return fits or limit  # nothing fits: this is no way to ask it


@torch.no_grad()
def takes_row(model: Any, tokens: int) -> bool:
    """Whether a row of so many tokens goes through the base model. Asked of a copy on the CPU: a GPU does not survive a wrong index."""
    base = model.base_model
    if next(base.parameters()).device.type != "cpu":
        base = copy.deepcopy(base).cpu()
    token = 1 if getattr(model.config, "pad_token_id", None) == 0 else 0
    try:
        base(input_ids=torch.full((1, tokens), token))
    except (IndexError, RuntimeError, ValueError):
        return False
    return True


def declared_positions(model: Any) -> int | None:
    """Tokens of a row that the model's configuration says it was made for; None where it says nothing."""
    config = text_config(model)
    sizes = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"))
    return next((size for size in sizes if isinstance(size, int) and size > 0), None)


def text_config(model: Any) -> Any:
    """The configuration of the part that reads text."""
    return model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config


def check_vocabulary(model: Any, highest_id: int) -> None:
    """Raises UserError where the tokenizer gives ids that the model has no embedding for."""
    try:
        rows = getattr(model.get_input_embeddings(), "num_embeddings", None)
    except NotImplementedError:  # a model of somebody's own, which does not say
        return
    if rows is not None and highest_id >= rows:
        raise UserError(f"tokenizer: gives token {highest_id}, and the model knows {rows} (0 to {rows - 1}): not this model's tokenizer")


def most_positions(model: nn.Module) -> int | None:
    """The size of a learned table of positions less the rows it reserves; None without such a table."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and name.rsplit(".", 1)[-1] in _POSITION_TABLES:
            reserved = getattr(module, "offset", None)
            if reserved is None:
                reserved = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - int(reserved)
    return None


_ONE_AT_A_TIME = threading.Lock()  # a hook is the model's, whichever thread runs it
_POSITION_TABLES = {"position_embeddings", "wpe", "embed_positions", "positions_embed"}
_RESERVED = 4  # positions of a table that are no token's, at most
LOGITS_AT: dict[str, LogitsAt] = {
    "RobertaForMaskedLM": roberta_last_layer_at_positions,
    "RobertaPreLayerNormForMaskedLM": roberta_last_layer_at_positions,
}
SIDE_BY_SIDE = {roberta_last_layer_at_positions}  # keeps nothing in the model while it runs: threads can share it
