"""Run folders, as they are seen from outside: checkpoints, state, and who is at work in them."""
