"""What clients see: Ollama's surface, OpenAI's and Anthropic's, and what we add to it."""
