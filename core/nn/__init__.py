"""Layers and models: attention, Transformer, LSTM, key-value cache, LoRA."""
