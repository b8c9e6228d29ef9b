"""A language model with a scalar head that says how good a completion is.

Shape suffixes: B = texts, T = tokens, D = model width.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.nn.transformer import Transformer
from core.policy import LanguageModelPolicy
from core.text.chat import without_special
from core.text.huggingface import HFTokenizer
from rl.preferences.encoding import Completion, Text, as_samples, encode_completion
from rl.preferences.scoring import AT_ONCE, frozen


class RewardModel(nn.Module):
    """The core Transformer with a linear head, without bias, on the hidden state of a text's last token.

    The head starts at 0: every reward is 0 then. `score` has the signature of a reward function.

    Args:
        language_model: reads the texts.
        tokenizer: of the language model.

    References:
        Ouyang et al. 2022, "Training language models to follow instructions with human feedback", arXiv:2203.02155.
    """

    def __init__(self, language_model: Transformer, tokenizer: HFTokenizer) -> None:
        super().__init__()
        self.language_model = language_model
        self.tokenizer = tokenizer
        self.head = nn.Linear(language_model.width, 1, bias=False)
        nn.init.zeros_(self.head.weight)

    def forward(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """reward_B in float32 of token ids of any lengths."""
        return self.rewards([Completion(list(row), [], []) for row in rows])

    def rewards(self, completions: Sequence[Completion]) -> Tensor:
        """reward_B of prompts with their completions, with gradient; a prompt is read once for all its completions."""
        # A policy predicts a token from all before it, so one more is predicted from the whole text.
        longer = [replace(one, tokens=[*one.tokens, 0], mask=[*one.mask, True]) for one in completions]
        samples, _ = as_samples(longer, self.head.weight.device)
        policy = LanguageModelPolicy(self.language_model, max_new_tokens=1)
        hidden_BTD = policy.hidden([one.prompt for one in completions], samples)
        last_B1D = (samples.mask_BT.sum(1) - 1)[:, None, None].expand(-1, 1, hidden_BTD.shape[2])
        return self.head(hidden_BTD.gather(1, last_B1D)).flatten().float()

    def frozen_rewards(self, completions: Sequence[Completion]) -> Tensor:
        """float32 reward_B of any number of completions on the CPU, in evaluation mode."""
        reward_B = torch.zeros(len(completions))
        order = sorted(range(len(completions)), key=lambda index: len(completions[index]))
        for start in range(0, len(order), AT_ONCE):
            part = order[start : start + AT_ONCE]
            with frozen(self):
                reward_B[part] = self.rewards([completions[index] for index in part]).cpu()
        return reward_B

    def score(self, prompts: Sequence[Text], completions: Sequence[Text], **columns: Any) -> list[float]:
        """A reward function: how good each completion of its prompt is.

        Args:
            prompts: plain texts, or chat messages.
            completions: as many; each is read up to its end, whether or not a length limit cut it. Special tokens that
                an answer to chat messages spells are left out.
            columns: what else a data set has; not looked at.

        Raises:
            ValueError: not as many completions as prompts, or a text that is longer than the model reads.
        """
        if len(prompts) != len(completions):
            raise ValueError(
                f"got {len(prompts)} prompts and {len(completions)} completions: repeat each prompt per one"
            )
        encoded = [
            encode_completion(self.tokenizer, prompt, said if isinstance(prompt, str) else self._plain(said))
            for prompt, said in zip(prompts, completions)
        ]
        return self.frozen_rewards(encoded).tolist()

    def _plain(self, said: Text) -> Text:
        """An answer, which a policy may have written, as text and nothing else."""
        if isinstance(said, str):
            return without_special(self.tokenizer, said)
        return [
            {**turn, "content": without_special(self.tokenizer, turn["content"])}
            if isinstance(turn.get("content"), str)
            else turn
            for turn in said
        ]

    @classmethod
    def load(cls, source: Path | str, *, device: str = "cpu") -> "RewardModel":
        """The reward model of a run, or of a Hugging Face folder with a sequence classifier of one label.

        Raises:
            ValueError: nothing of the kind there.
        """
        from core.pretrained.interchange import is_model_folder
        from core.training.trainer import Trainer
        from rl.preferences.classifier import load_classifier
        from rl.preferences.trainers import RewardModelTrainer

        if is_model_folder(Path(source)):
            return load_classifier(source).to(device)
        trainer = Trainer.load(source, device=device)
        if not isinstance(trainer, RewardModelTrainer):
            raise ValueError(f"{source} holds no reward model: it was trained by {type(trainer).__name__}")
        return trainer.reward_model
