"""`trillium chat`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from core.commands.options import Parser, positive
from core.errors import RunError, UserError

if TYPE_CHECKING:
    import torch

    from core.nn.transformer import Transformer
    from core.sampling import Sampling
    from core.text.huggingface import HFTokenizer


def chat(arguments: list[str]) -> int:
    """Talk to a run's language model."""
    parser = Parser(
        "chat",
        "Talk to the language model of a run or of a folder from `trillium import`, by its chat template. "
        "One line is one turn; an empty line or Ctrl-D ends.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory or imported folder")
    parser.add_argument("--system", metavar="TEXT", help="what the model is told before the conversation")
    parser.add_argument("--temperature", type=float, default=0.7, help="0 takes the most likely token (default 0.7)")
    parser.add_argument(
        "--top-p", type=float, default=0.95, help="draw from the most likely tokens only (default 0.95)"
    )
    parser.add_argument("--max-new-tokens", type=positive, default=300, help="longest answer (default 300)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling (default 0)")
    parser.add_argument("--device", default="auto", help="`auto` or a torch device such as cpu or cuda:1")
    options = parser.parse_args(arguments)
    from core.commands.training import load_run
    from core.sampling import Sampling

    try:
        sampling = Sampling(temperature=options.temperature, top_p=options.top_p)
    except ValueError as error:
        parser.error(str(error))
    trainer = load_run(options.run, options.device)
    model, tokenizer = trainer.export_parts()
    if tokenizer is None or tokenizer.chat_template is None:
        raise RunError(
            f"{options.run} has no chat template, so it was not made for conversations: "
            f"use `trillium sample {options.run} --prompt TEXT`"
        )
    if options.max_new_tokens >= model.config.max_length:
        parser.error(f"--max-new-tokens must be below the {model.config.max_length} tokens that the model reads")
    import torch

    generator = torch.Generator(trainer.runtime.device).manual_seed(options.seed)
    messages = [{"role": "system", "content": options.system}] if options.system else []
    asks = sys.stdin.isatty()
    while line := _read("you: " if asks else ""):
        messages.append({"role": "user", "content": line})
        try:
            with trainer.runtime.autocast():
                said = answer(model, tokenizer, messages, options.max_new_tokens, sampling, generator)
        except UserError as error:
            messages.pop()
            print(f"trillium chat: {error}", file=sys.stderr)
            continue
        messages.append({"role": "assistant", "content": said})
    return 0


def _read(prompt: str) -> str:
    try:
        return input(prompt).strip()
    except EOFError:
        return ""


def answer(
    model: "Transformer",
    tokenizer: "HFTokenizer",
    messages: list[dict[str, str]],
    max_new_tokens: int,
    sampling: "Sampling",
    generator: "torch.Generator",
) -> str:
    """Print the assistant's next turn as it comes, and return it.

    Where the conversation is too long for the model, its oldest turns leave `messages`; a system message stays.
    """
    from core.generate import generate
    from core.text.chat import encode_prompt, turn_ends

    room = model.config.max_length - max_new_tokens
    kept = list(messages)
    first = 1 if messages[0]["role"] == "system" else 0
    while len(ids := encode_prompt(tokenizer, kept)) > room:
        if len(kept) <= first + 2:
            raise UserError(f"{len(ids)} tokens do not fit: the model reads {room} before an answer; write less")
        del kept[first : first + 2]
    if len(kept) < len(messages):
        messages[:] = kept
        print("(the oldest turns no longer fit and are left out)", file=sys.stderr)
    tokens: list[int] = []
    printed = 0

    def show(_: list[int], new: list[int]) -> None:
        nonlocal printed
        tokens.extend(new)
        text = tokenizer.decode(tokens)
        if not text.endswith("\ufffd"):  # else the last character is not whole yet
            print(text[printed:], end="", flush=True)
            printed = len(text)

    generate(
        model, [ids], max_new_tokens=max_new_tokens, sampling=sampling, eos_id=sorted(turn_ends(tokenizer)),
        generator=generator, on_token=show,
    )  # fmt: skip
    said = tokenizer.decode(tokens)
    print(said[printed:])
    return said.strip()
