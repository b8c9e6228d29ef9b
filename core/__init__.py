"""The shared Transformer language model and the machinery that trains it."""
