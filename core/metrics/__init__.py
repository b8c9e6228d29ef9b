"""Text metrics that several packages use: n-gram counts, BLEU, bootstrap intervals."""
