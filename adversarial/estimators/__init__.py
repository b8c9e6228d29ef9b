"""How the discriminator's verdict reaches the generator through tokens that were drawn: one module per way."""
