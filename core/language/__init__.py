"""Language modelling on plain text: the core model by itself."""
