"""Gymnasium text environments, registered under trillium/."""
