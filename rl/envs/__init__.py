"""Text environments with a known optimum. Importing this package registers them with Gymnasium.

`gymnasium.make("rl.envs:trillium/Copy-v0")` imports and makes in one go. Their contract, on top of Gymnasium's:

- observations and actions are `Text` spaces with an explicit character set;
- `info` has `valid` (was the last action one), `legal_actions` (where they are few) and `state_key` (hashable);
- an invalid action changes nothing but the clock, costs a penalty, and after `max_invalid` of them truncates;
- `optimal_return` and `random_return` are exact: the best expected return, and that of uniformly random legal actions.
"""

import gymnasium

# Registering on import is Gymnasium's own convention for packages of environments; it has no other hook.
gymnasium.register(id="trillium/Copy-v0", entry_point="rl.envs.copying:CopyEnv")
gymnasium.register(id="trillium/FrozenLake-v0", entry_point="rl.envs.frozen_lake:FrozenLakeTextEnv")
