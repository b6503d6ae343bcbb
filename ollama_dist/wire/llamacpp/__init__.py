"""What the embedded engine reads and writes: GGUF metadata, Ollama's requests as llama-server takes them, its
streams as Ollama's, OpenAI's and Anthropic's answers.

Sources: llama.cpp's ``tools/server`` and, for what an Ollama makes of it, the ``llm/llama_server.go`` of
Ollama 0.33.
"""
