"""The languages of callers and engines, both ways: Ollama, OpenAI and Anthropic.

Pure: bytes and values in, bytes and values out. Nothing here opens a connection or waits.
"""
