"""Weights and data from packages, folders and the Hugging Face format."""
