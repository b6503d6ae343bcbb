"""Several machines, one Ollama."""

__version__ = "0.1.0"
