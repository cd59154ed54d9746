"""Features: extraction through lhotse extractors, storage, normalisation, and loading as packed tensors."""
