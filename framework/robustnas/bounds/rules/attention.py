"""Attention: products of queries and keys, their softmax, and the mean of the values with these weights.

Weights sum to 1, so constants can be taken out of what they are multiplied with: lines are drawn around the values less
their mean over the keys.  A mean lies between the least and the largest entry, which cuts the interval.
Decomposition and planes: Shi et al. 2020, arXiv:2002.06622.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from robustnas.bounds.registration import rule
from robustnas.bounds.rules.turned import HANDLED, Turned, images_first
from robustnas.bounds.value import WHY_NOT, Function, Value, midpoint, refuse, values_in


@rule(F.scaled_dot_product_attention)
def attention(
    function: Function,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Attend, with queries (N, ..., T, E), keys (N, ..., S, E) and values (N, ..., S, V)."""
    first = next(values_in((query, key, value)))
    if dropout_p > 0:
        refuse(function, first, "dropout is on", "call network.eval() first, and pass dropout_p=0")
    if enable_gqa:
        refuse(function, first, "heads that share keys", "repeat the keys and values")
    return mixed(weights(query, key, attn_mask, is_causal=is_causal, scale=scale), value)


def weights(query: Any, key: Any, mask: Any, *, is_causal: bool, scale: float | None = None) -> Any:
    """The softmax (N, ..., T, S) of scaled products; a mask is added, or says which keys are seen."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores: Any = (query * scale) @ key.mT
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~seen, -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


def mixed(shares: Any, value: Any) -> Any:
    """The mean of (N, ..., S, V) with weights (N, ..., T, S)."""
    if not isinstance(value, Value):
        return shares @ value
    with value.propagation.intervals():
        middle = value.centre.mean(-2, keepdim=True)
    mean = shares @ (value - middle) + middle
    with value.propagation.intervals():
        lower = value.lower.amin(-2, keepdim=True).maximum(mean.lower)
        upper = value.upper.amax(-2, keepdim=True).minimum(mean.upper)
        # where both intervals are a point, rounding may let the ends cross
        mean.centre, mean.radius = midpoint(torch.minimum(lower, upper), torch.maximum(lower, upper))
    return mean


def heads_forward(
    first: Turned,
    function: Function,
    query: Any,
    key: Any,
    value: Any,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> Any:
    """Attend as `nn.MultiheadAttention` does, of sequences (T, N, E)."""
    if training and dropout_p > 0:
        refuse(function, first.held, "dropout is on", "call network.eval() first")
    if bias_k is not None or add_zero_attn or static_k is not None or static_v is not None or first.at != 1:
        refuse(function, first.held, "keys or values beside those of the sequence", "leave out bias_k, add_zero_attn")
    count = first.held.centre.shape[0]
    layers: Any = (q_proj_weight, k_proj_weight, v_proj_weight)
    if not use_separate_proj_weight:
        assert in_proj_weight is not None
        layers = in_proj_weight.chunk(3)
    biases = (None, None, None) if in_proj_bias is None else in_proj_bias.chunk(3)

    def heads(tensor: Any, layer: Tensor, bias: Tensor | None) -> Any:
        projected = F.linear(images_first(tensor, 1), layer, bias)
        return projected.unflatten(2, (num_heads, -1)).transpose(1, 2)

    q, k, v = map(heads, (query, key, value), layers, biases)

    def added(mask: Tensor) -> Tensor:
        """Turn a mask of booleans into what is added to the scores: 0 or -inf."""
        if mask.dtype != torch.bool:
            return mask
        return torch.zeros_like(mask, dtype=first.dtype).masked_fill(mask, -torch.inf)

    mask = attn_mask
    if mask is not None:
        mask = added(mask.view(count, num_heads, *mask.shape[1:]) if mask.dim() == 3 else mask)
    if key_padding_mask is not None:
        unseen = added(key_padding_mask.view(count, 1, 1, -1))
        mask = unseen if mask is None else mask + unseen
    shares = weights(q, k, mask, is_causal=is_causal and mask is None)
    answer = F.linear(mixed(shares, v).transpose(1, 2).flatten(2), out_proj_weight, out_proj_bias)
    if not need_weights:
        return Turned(answer, 1), None
    return Turned(answer, 1), shares.mean(1) if average_attn_weights else shares


HANDLED[F.multi_head_attention_forward] = heads_forward
WHY_NOT[F.multi_head_attention_forward] = (
    "the images are the sequence here, or there is none: attention mixes them",
    "nn.MultiheadAttention(..., batch_first=True) takes the images first",
)
