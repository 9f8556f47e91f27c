"""Instruction tuning: conversations prepared, and what fine-tuning has that pretraining has not."""
