"""Ways out to other programs, and back: Hugging Face folders and GGUF files."""
