"""Text from language models: providers, prompts, the journal of answers, and the bill."""
