"""Tokenizers, corpora and their cleaning."""
