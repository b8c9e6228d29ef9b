"""The one training loop and what it needs: updates, schedules, checkpoints, logs."""
