"""End-to-end models: CTC, attention encoder-decoder and RNN transducer, with weak supervision by alignments."""
