"""The model that a run starts from, and its tokenizer."""

from collections.abc import Sequence
from dataclasses import replace

from core.config import ModelConfig
from core.nn.lora import apply_lora
from core.nn.networks import LanguageNetwork, build_network, set_dropout
from core.nn.transformer import Transformer
from core.text.characters import CharTokenizer
from core.text.huggingface import HFTokenizer
from rl.preferences.config import ExamplesConfig, WriterConfig


def starting_point(
    config: ExamplesConfig, texts: Sequence[str], stored: HFTokenizer | None = None
) -> tuple[LanguageNetwork, HFTokenizer]:
    """The model of a config, with adapters where it asks for them, and the tokenizer.

    Args:
        config: the run.
        texts: of the examples; a fresh model reads their characters.
        stored: tokenizer of a run that goes on.

    Raises:
        ValueError: the source cannot be used, or has no tokenizer or end-of-sequence token.
    """
    if config.init_from is None:
        tokenizer = stored or CharTokenizer.train(texts)
        network = config.network if isinstance(config, WriterConfig) else "transformer"
        return build_network(network, _shape(config.model, tokenizer, config.max_length)), tokenizer
    from core.pretrained.interchange import load_model

    model, found = load_model(config.init_from)
    if found is None:
        raise ValueError(f"{config.init_from} has no tokenizer.json: save its tokenizer there too")
    set_dropout(model, config.model.dropout)
    if config.lora_rank:
        apply_lora(model, rank=config.lora_rank)
    return model, found


def most_tokens(config: ExamplesConfig, model: LanguageNetwork) -> int:
    """Most tokens of a prompt with its completion.

    Raises:
        ValueError: the config wants more than a pretrained model reads.
    """
    reads = model.config.max_length if isinstance(model, Transformer) else config.max_length or config.model.max_length
    if config.max_length is not None and config.max_length > reads:
        raise ValueError(f"max_length is {config.max_length}, and {config.init_from} reads at most {reads} tokens")
    return config.max_length or reads


def _shape(sizes: ModelConfig, tokenizer: HFTokenizer, max_length: int | None) -> ModelConfig:
    return replace(sizes, vocab_size=tokenizer.vocab_size, max_length=max(sizes.max_length, max_length or 0))
