"""Text GANs: the core language model trained against a discriminator."""
