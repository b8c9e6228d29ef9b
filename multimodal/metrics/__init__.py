"""Scores of captions, words, answers, retrieval and picture-text agreement, each with bootstrap intervals."""
