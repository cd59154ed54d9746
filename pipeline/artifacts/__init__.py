"""What is kept on disk: one class and one format per module, with load, save and checks; no torch, no lhotse."""
