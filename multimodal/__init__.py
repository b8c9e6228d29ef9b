"""Pictures, sound and video as input to the core language model."""
