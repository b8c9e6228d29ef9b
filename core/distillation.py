"""The divergence between the next-token distributions of two language models, without holding their logits.

Shape suffixes: N = positions, D = model width, C = width of the other model, V = vocabulary, R = positions taken at a
time.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from core.losses import CACHED, MAX_LOGITS
from core.nn.attention import compute_dtype


def linear_kl(
    hidden_ND: Tensor,
    head: nn.Linear,
    other_NC: Tensor,
    other_head: nn.Linear,
    weights_N: Tensor | None = None,
    *,
    reverse: bool = False,
) -> Tensor:
    """Weighted sum of the divergences between a model and another one that it learns from.

    KL(other || model) = sum_v o_v (log o_v - log m_v), whose gradient to the model's logits is m - o; or with `reverse`
    KL(model || other) = sum_v m_v (log m_v - log o_v), whose gradient is m_v (log m_v - log o_v - KL).

    Args:
        hidden_ND: hidden states of the model that learns.
        head: its output projection.
        other_NC: hidden states of the other model; it gets no gradient.
        other_head: the other's output projection.
        weights_N: float factors of the positions, a mask for example; None counts every one once.
        reverse: see above.

    Returns:
        Scalar in nats, with gradient to `hidden_ND` and `head`; it cannot be differentiated twice.

    References:
        Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531; Gu et al. 2024, "MiniLLM",
        arXiv:2306.08543 (the reverse direction).
    """
    if weights_N is None:
        weights_N = torch.ones(len(hidden_ND), device=hidden_ND.device)
    return _LinearKL.apply(
        hidden_ND, head.weight, head.bias, other_NC.detach(), other_head.weight.detach(),
        None if other_head.bias is None else other_head.bias.detach(), weights_N, reverse,
    )  # fmt: skip


def _log_softmax(hidden_RD: Tensor, table_VD: Tensor, bias_V: Tensor | None) -> Tensor:
    logits_RV = (hidden_RD @ table_VD.t()).float()
    if bias_V is not None:
        logits_RV += bias_V
    return torch.log_softmax(logits_RV, -1)


class _LinearKL(torch.autograd.Function):
    """See `linear_kl`; the gradient is formed on the way forward."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, other_NC: Tensor, other_VC: Tensor,
        other_bias_V: Tensor | None, weights_N: Tensor, reverse: bool,
    ) -> Tensor:  # fmt: skip
        wanted = any(ctx.needs_input_grad)
        dtype = compute_dtype(hidden_ND)
        inputs_ND, table_VD, others_NC, others_VC = (x.to(dtype) for x in (hidden_ND, weight_VD, other_NC, other_VC))
        total = torch.zeros((), device=hidden_ND.device)
        to_hidden_ND = torch.empty_like(hidden_ND) if wanted else None
        to_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32)
        to_bias_V = None if bias_V is None else torch.zeros_like(bias_V, dtype=torch.float32)
        rows = max(64, (MAX_LOGITS if hidden_ND.device.type != "cpu" else CACHED) // (2 * len(weight_VD)))
        for start in range(0, len(hidden_ND), rows):
            part = slice(start, start + rows)
            own_RV = _log_softmax(inputs_ND[part], table_VD, bias_V)
            goal_RV = _log_softmax(others_NC[part], others_VC, other_bias_V)
            first_RV, second_RV = (own_RV, goal_RV) if reverse else (goal_RV, own_RV)
            chance_RV = first_RV.exp()
            terms_RV = chance_RV * first_RV.sub_(second_RV)
            divergence_R1 = terms_RV.sum(1, keepdim=True)
            weights_R1 = weights_N[part, None].float()
            total += (divergence_R1 * weights_R1).sum()
            if to_hidden_ND is None:
                continue
            slope_RV = terms_RV.sub_(chance_RV * divergence_R1) if reverse else own_RV.exp_().sub_(chance_RV)
            slope_RV = slope_RV.mul_(weights_R1)
            gradient_RV = slope_RV.to(dtype)
            to_hidden_ND[part] = gradient_RV @ table_VD
            to_weight_VD += gradient_RV.t() @ inputs_ND[part]
            if to_bias_V is not None:
                to_bias_V += slope_RV.sum(0)
        ctx.save_for_backward(to_hidden_ND, to_weight_VD, to_bias_V)
        ctx.dtypes = weight_VD.dtype, None if bias_V is None else bias_V.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        to_hidden_ND, to_weight_VD, to_bias_V = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        to_bias_V = None if to_bias_V is None else (to_bias_V * factor).to(bias_dtype)
        return to_hidden_ND * factor, (to_weight_VD * factor).to(weight_dtype), to_bias_V, None, None, None, None, None
