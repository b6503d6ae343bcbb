"""What must hold: `unit` mirrors the source, `contract` is Ollama's, `cluster` runs real processes."""
