"""`trillium export` and `trillium import`: between runs and Hugging Face folders."""

from pathlib import Path

from core.commands.options import Parser
from core.commands.training import load_run


def export(arguments: list[str]) -> int:
    """Write the language model of a run as a Hugging Face folder."""
    parser = Parser("export", "Write a run's language model and tokenizer as a Hugging Face folder.")
    parser.add_argument("run", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("folder", type=Path, metavar="DIR", help="where to; must not exist, or be empty")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    options = parser.parse_args(arguments)
    trainer = load_run(options.run, "cpu")
    from core.pretrained.huggingface import save_hf

    model, tokenizer = trainer.export_parts()
    done = save_hf(model, options.folder, tokenizer, overwrite=options.overwrite)
    print(f"{done.folder} ({done.family}; logits equal to {done.max_difference:.1g}, checked by {done.checked_by})")
    return 0


def import_folder(arguments: list[str]) -> int:
    """Read a Hugging Face folder and write it as one that our recipes start from."""
    parser = Parser(
        "import",
        "Read the Llama, Qwen or GPT-2 model of a Hugging Face folder or a .gguf file, check that ours computes the "
        "same, and write it as one float32 safetensors file with its tokenizer: to sample, or to train from.",
    )
    parser.add_argument("source", type=Path, metavar="DIR", help="a folder that save_pretrained wrote, or a .gguf file")
    parser.add_argument("folder", type=Path, metavar="OUT", help="where to; must not exist, or be empty")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    options = parser.parse_args(arguments)
    from core.pretrained.interchange import import_folder as convert

    done = convert(options.source, options.folder, overwrite=options.overwrite)
    print(f"{done.folder} ({done.family}; sample it, or train from it with --init-from)")
    return 0
