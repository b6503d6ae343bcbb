"""The Ollama of this machine: finding it, starting it where nobody has, and what only its processes tell."""
