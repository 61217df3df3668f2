"""Clips: which video at which step, which of its frames, and the batch that comes of it."""
