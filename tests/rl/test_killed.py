"""A run that is killed between two updates of one step ends with the bits of a run that was not."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

PROGRAM = """
import os, signal, sys
from pathlib import Path
from core.config import ModelConfig, OptimConfig
from rl.config import PolicyConfig
from rl.learner import Learner
from rl.trainers import PolicyTrainer

out, algorithm, fatal = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
update, count = Learner._update, 0

def counted(self, *arguments, **options):
    global count
    count += 1
    if count == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
    return update(self, *arguments, **options)

Learner._update = counted
config = PolicyConfig(
    out=out, env="trillium/FrozenLake-v0", env_kwargs={"horizon": 6}, algorithm=algorithm, steps=4, batch_size=16,
    epochs=2, minibatches=2, target_kl=0.0, kl_coef=0.1, kl_target=0.5, eval_episodes=8, checkpoint_every=1, threads=1,
    model=ModelConfig(width=16, num_layers=1, num_heads=1, max_length=64), optim=OptimConfig(lr=1e-2), device="cpu",
)
trainer = PolicyTrainer(config, quiet=True, report=False)
trainer.train()
trainer.save(out / "saved")
"""


def run(out: Path, algorithm: str, fatal: int) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(out), algorithm, str(fatal)], check=False, timeout=120)
    return done.returncode


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_a_run_that_is_killed_within_an_epoch_ends_with_the_same_bits(tmp_path, algorithm):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert run(straight, algorithm, 0) == 0
    # Four updates a step: the eleventh is the third of step 2, in its second epoch.
    assert run(killed, algorithm, 11) == -signal.SIGKILL
    assert not (killed / "saved").exists()
    assert run(killed, algorithm, 0) == 0
    for name in ("model", "critic") if algorithm == "ppo" else ("model",):
        ours, theirs = (load_file(folder / "saved" / f"{name}.safetensors") for folder in (straight, killed))
        assert ours.keys() == theirs.keys()
        assert all(ours[key].equal(theirs[key]) for key in ours)
    scores = [json.loads((folder / "eval.json").read_text())["metrics"] for folder in (straight, killed)]
    assert scores[0] == scores[1]
