"""Where the time goes: every part of a run timed alone, then together, and what bounds it."""
