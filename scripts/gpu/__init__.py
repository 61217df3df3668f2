"""Evidence on a GPU, section by section; `scripts/gpu_evidence.sh` runs it."""
