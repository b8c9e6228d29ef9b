"""Generated games of TextWorld, compiled once and kept in the cache."""

import os
import shutil
import tempfile
from pathlib import Path

from core.pretrained.sources import cache_dir
from rl.adapters.packages import optional
from rl.adapters.randomness import PrivateRandomness


def compiled_game(*, rooms: int, objects: int, quest_length: int, seed: int) -> Path:
    """The file of a game, compiled if it is not in the cache yet.

    Args:
        rooms: of the world.
        objects: in it.
        quest_length: actions of the solution.
        seed: of all that is random about it.

    Returns:
        The `.z8` file; its `.json` lies beside it.

    Raises:
        MissingPackage: textworld is not installed.
        ValueError: there is no such game.
    """
    with optional("textworld"):
        import textworld
    name = f"{textworld.__version__}-r{rooms}-o{objects}-q{quest_length}-s{seed}"
    folder = cache_dir() / "textworld" / name
    game = folder / "game.z8"
    if game.is_file():
        return game
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Compiled aside and moved in one go: several processes may want the same game at once.
    part = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        options = textworld.GameOptions()
        options.nb_rooms, options.nb_objects, options.quest_length, options.seeds = rooms, objects, quest_length, seed
        options.path = str(part / game.name)
        with PrivateRandomness(seed):
            try:
                textworld.make(options)
            except Exception as error:
                raise ValueError(
                    f"TextWorld cannot make a game with rooms {rooms}, objects {objects}, quest_length {quest_length} "
                    f"and seed {seed} ({type(error).__name__}: {error}): try another seed or a shorter quest"
                ) from error
        try:
            os.replace(part, folder)
        except OSError:
            if not game.is_file():  # else another process was first, with the same game
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return game
