"""What only a GPU can show: correctness, training, memory and speed, each step in its own process."""
