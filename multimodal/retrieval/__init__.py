"""Retrieval: pictures, sounds and clips found by a text, and texts found by a medium, in one space of vectors."""
