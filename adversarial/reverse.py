"""The reverse language-model score: what a model learns about real text from generated text alone."""

from dataclasses import replace

import torch

from adversarial.generator import Sentences, weighted_nll
from core.config import ModelConfig
from core.nn.lstm import LSTM
from core.nn.networks import build_network

_BATCH = 64
_SHAPE = ModelConfig(width=64, num_layers=1, dropout=0.3)


def fitted_model(rows: list[list[int]], vocab_size: int, bos_id: int, steps: int, device: torch.device) -> LSTM:
    """An LSTM of 64 units that has seen `rows` alone, trained in float32 with the same random numbers every time.

    Args:
        rows: token ids of sentences.
        vocab_size: V.
        bos_id: token before the first one.
        steps: updates by 64 sentences each.
        device: where to train.

    References:
        Zhao et al. 2018, "Adversarially Regularized Autoencoders", arXiv:1706.04223 (reverse perplexity).
    """
    with torch.random.fork_rng(), torch.autocast(device.type, enabled=False):
        torch.manual_seed(0)
        model = build_network("lstm", replace(_SHAPE, vocab_size=vocab_size)).to(device)
        # No updater: it would average over the processes, and only one of them scores.
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, fused=device.type != "mps")
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for _ in range(steps):
            chosen = torch.randint(len(rows), (_BATCH,)).tolist()
            batch = Sentences.from_lists([rows[index] for index in chosen], device)
            total, _ = weighted_nll(model, batch, batch.mask_BT.float(), bos_id)
            optimizer.zero_grad()
            (total / batch.mask_BT.sum()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            decay.step()
    assert isinstance(model, LSTM)
    return model
