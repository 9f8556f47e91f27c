"""Conversations and fine-tuning."""
