"""The command `trillium search`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from core.commands.options import Parser, positive
from core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from multimodal.retrieval.retriever import Retriever


def search(arguments: list[str]) -> int:
    """Find files by a text, or by a file that they should resemble: one line each, the best first."""
    parser = Parser("search", "The files of folders that fit a text best, one line each: cosine, tab, file.")
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="run directory of a retrieval run, or what it was saved to"
    )
    parser.add_argument("query", nargs="?", metavar="QUERY", help="what to look for, in words")
    parser.add_argument(
        "--in", dest="folders", type=Path, nargs="+", required=True, metavar="FOLDER",
        help="folders, with all their subfolders; each file is encoded once and kept in an index",
    )  # fmt: skip
    parser.add_argument(
        "--like", type=Path, metavar="FILE", help="instead of QUERY: more like this picture, sound or clip"
    )
    parser.add_argument("--top", type=positive, default=10, help="how many files to print (default 10)")
    parser.add_argument("--index", type=Path, metavar="FILE", help="the index; by default one in Trillium's cache")
    parser.add_argument("--device", default="auto", help="`auto` or a torch device such as cpu or cuda:1")
    options = parser.parse_args(arguments)
    if (options.query is None) == (options.like is None):
        parser.error("give either a QUERY or --like FILE")
    from multimodal.retrieval.index import Index, IndexFault, best, files_of
    from multimodal.retrieval.retriever import Retriever

    retriever = Retriever.load(options.run, device=options.device)
    # Before the folders are read, which can take long.
    query_V = _words(retriever, options.query) if options.like is None else _likeness(retriever, options.like)
    files, others = files_of(options.folders, retriever.kinds)
    if others:
        _note(f"left out {others:,} files that are none of {', '.join(retriever.kinds)} by their endings")
    found = Index(retriever, options.index, tell=_note).look_up(files)
    for error in found.bad:
        _note(f"skipped {error}")
    if found.bad:
        _note(f"{len(found.bad):,} of {len(files):,} could not be used")
    if not found.files:
        raise IndexFault(f"none of the {len(files):,} files in {', '.join(map(str, options.folders))} can be used")
    extra = 0 if options.like is None else 1
    ranked = best(found, query_V, options.top + extra)
    if options.like is not None:
        ranked = [(cosine, file) for cosine, file in ranked if not _same(file, options.like)][: options.top]
    for cosine, file in ranked:
        print(f"{cosine:.4f}\t{file}")
    return 0


def _words(retriever: "Retriever", query: str) -> "Tensor":
    if not retriever.reader.known(query):
        raise UserError(
            f"no word of {query!r} is in the vocabulary of this run: use words of the texts it was trained on"
        )
    unknown = retriever.reader.unknown_words(query)
    if unknown:
        _note(f"not in the vocabulary of this run: {', '.join(unknown)}")
    return retriever.texts([query])[0]


def _likeness(retriever: "Retriever", file: Path) -> "Tensor":
    from multimodal.examples import Medium
    from multimodal.media.kinds import kind_of

    vectors_NV, _, bad = retriever.media([Medium(kind_of(file, retriever.kinds), file)])
    if bad:
        raise bad[0]
    return vectors_NV[0]


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


def _note(text: str) -> None:
    print(f"trillium search: {text}", file=sys.stderr)
