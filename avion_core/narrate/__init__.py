"""Text from language models: providers, prompts, the journal of what was answered, and the bill."""
