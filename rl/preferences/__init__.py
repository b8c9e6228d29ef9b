"""Learning from demonstrations and preferences: supervised fine-tuning, DPO and its kin, reward models."""
