"""Video files: which there are, what is in them, and their frames by number."""
