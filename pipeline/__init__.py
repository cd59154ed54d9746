"""From audio and transcripts to alignments, hybrid and end-to-end speech recognition, over one graph core."""

__version__ = "0.1.0"
