"""The embedded engine: GGUF files from a folder, served as an Ollama would serve them.

A runner process per loaded model (`runner`), kept by a supervisor, behind a service on loopback that speaks
Ollama's routes. Nothing here imports ``xllamacpp`` but the runner process itself.
"""
