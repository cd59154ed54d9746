"""Searches of end-to-end models: attention, CTC and transducer, each alone or with language models."""
