"""GGUF files that a stranger may have made, read with bounds."""
