"""Corpora of media with text."""
