"""The HTTP API of OpenAI for completions and chat, on the model of a run."""
