"""Networks that turn media into feature sequences."""
