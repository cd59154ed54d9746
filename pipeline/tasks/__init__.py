"""What is done with models and data: alignment, decoding, scoring, export, import."""
