"""One contract for every server that claims to be an Ollama: the recorded requests, played in order."""
