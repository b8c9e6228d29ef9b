"""The commands that belong to no petal. Each takes its arguments and returns an exit code."""
