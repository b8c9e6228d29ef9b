"""Policy optimisation of the core language model in Gymnasium text environments."""
