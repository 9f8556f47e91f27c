"""Score checkpoints on benchmarks."""
