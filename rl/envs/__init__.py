"""Text environments with a known optimum. Importing this package registers them with Gymnasium.

`gymnasium.make("rl.envs:trillium/Copy-v0")` imports and makes in one go. Their contract, on top of Gymnasium's:

- observations and actions are `Text` spaces with an explicit character set;
- `info` has `valid` (was the last action one), `legal_actions` (where they are few) and `state_key` (hashable);
- an invalid action changes nothing but the clock, costs a penalty, and after `max_invalid` of them truncates;
- `optimal_return` and `random_return` are exact: the best expected return, and that of uniformly random legal actions;
- `optimal_action()` is what the policy behind `optimal_return` does now;
- those that can be enumerated have `table()`, from which `rl.envs.tabular` computes the exact return of any policy.
"""

import gymnasium

_ENTRY_POINTS = {
    # one question, one answer
    "Copy": "copying:CopyEnv",
    "Reverse": "copying:ReverseEnv",
    "Sort": "copying:SortEnv",
    "Add": "arithmetic:AddEnv",
    "Parity": "arithmetic:ParityEnv",
    "CountChar": "counting:CountCharEnv",
    "Lexicon": "lexicon:LexiconEnv",
    # walks
    "RandomWalk": "random_walk:RandomWalkEnv",
    "FrozenLake": "frozen_lake:FrozenLakeTextEnv",
    "CliffWalking": "cliff_walking:CliffWalkingTextEnv",
    "Taxi": "taxi:TaxiTextEnv",
    # games
    "Blackjack": "blackjack:BlackjackTextEnv",
    "TicTacToe": "tic_tac_toe:TicTacToeEnv",
    "Nim": "nim:NimEnv",
    # what was said before matters
    "Bandit": "bandit:BanditEnv",
    "GuessNumber": "guess_number:GuessNumberEnv",
    "MiniWordle": "mini_wordle:MiniWordleEnv",
    # any reward
    "TextGeneration": "text_generation:TextGenerationEnv",
}

# Registering on import is Gymnasium's own convention for packages of environments; it has no other hook.
for _name, _entry_point in _ENTRY_POINTS.items():
    gymnasium.register(id=f"trillium/{_name}-v0", entry_point=f"rl.envs.{_entry_point}")
