"""Environments of other projects as text. Importing this package registers them with Gymnasium.

Any Gymnasium environment goes through `rl.adapters.adapter.TextAdapter`, which `rl.environments.make_environment` puts
on by itself. The others are made by id, and need the extra `games`:

- `trillium/ReasoningGym-v0`: a puzzle of reasoning-gym and its score;
- `trillium/TextArena-v0`: a game of TextArena, alone or against a random opponent;
- `trillium/TextWorld-v0`: a text adventure, generated or from a file;
- `trillium/BabyAI-v0`: a grid world of BabyAI, described in words.

They keep the contract of `rl.envs`, and where nothing is known about a game's returns they declare none.
"""

import gymnasium

# Registering on import is Gymnasium's own convention for packages of environments; it has no other hook.
gymnasium.register(id="trillium/ReasoningGym-v0", entry_point="rl.adapters.reasoning:ReasoningGymEnv")
gymnasium.register(id="trillium/TextArena-v0", entry_point="rl.adapters.arena:TextArenaEnv")
gymnasium.register(id="trillium/TextWorld-v0", entry_point="rl.adapters.adventure:TextWorldEnv")
gymnasium.register(id="trillium/BabyAI-v0", entry_point="rl.adapters.gridworld:BabyAIEnv")
