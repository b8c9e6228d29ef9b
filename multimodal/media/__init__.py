"""Pictures, sounds and clips from files that may be damaged or hostile."""
