#!/usr/bin/env bash
# babel_tagalog: telephone conversations in Tagalog, full language pack (80 h of training). For holders of the corpus.
#
# Usage: ./run.sh [--stage N] [--stop-stage N] [--list] [--corpus-root DIR] [--ali gmm|nhmm|both|none]
#                 [--e2e LIST] [--models LIST] [--overwrite]
#                 [--jobs N] [--backend B]
#   --corpus-root DIR     folder with conversational/, or the one above (LDC2016S13, IARPA_BABEL_BP_106); else
#                         ../shared/corpora/babel_tagalog beside the checkout
#   --ali gmm|nhmm|both   alignments that the networks of stages 6 and 7 are trained on, and by which the end-to-end models of
#                         stage 8 are supervised; none: no such networks, and end-to-end models without supervision
#   --e2e LIST            end-to-end models of stage 8 among "ctc attention transducer", or none; by default attention
#   --models LIST         GMMs that are decoded, by default "tri1 tri3"
#   --overwrite           remake outputs whose options or inputs have changed
#   --jobs N              parts into which features, alignments and decodings are divided; the results are the same
#   --backend B           what runs the parts: local, slurm or dask; conf/cluster.yaml describes the cluster
#
# The attention model supervised by an alignment is that of Jiang et al. 2023, whose comparisons are conf/tables. The official dev part
# is the test, scored by the rules of NIST's sclite; dev is conversations of the training part.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
corpus_root=
ali=both
e2e=attention
models="tri1 tri3"
overwrite=false
jobs=1
backend=local
. ../../utils/stage.sh
. ../../utils/parse_options.sh
. ../../utils/recipe.sh
lang=data/lang
lm=data/lm_3gram
feats=fbank
aux_layers=3
parts="train dev test"
. ../../utils/asr.sh

if stage 0 "data: conversations cut into utterances, references of the test, dictionary"; then
  python local/prepare_babel.py data/local ${corpus_root:+--corpus-root "$corpus_root"} --config conf/data.yaml "${force[@]}"
  for part in $parts; do python "$utils/validate_data.py" data/local/$part; done
fi

if stage 1 "lang: the language pack's lexicon; 3-gram for decoding, unigram for sequence training; subword tokens"; then
  language data/local/lexicon.txt data/local/lm_text.txt
fi

if stage 2 "features: MFCC for the GMM, log-mel for the networks"; then features; fi

if stage 3 "GMM: monophones, triphones, LDA and MLLT, speaker-adaptive training, alignments"; then gmm_chain; fi

if stage 5 "neural HMM: full-sum training with learned transitions, alignment, tied states"; then neural_hmm; fi

if stage 6 "Viterbi training of a network on each alignment ($sources)"; then hybrids; fi

if stage 7 "sequence training of these networks: MMI against a unigram"; then sequence_training; fi

if stage 8 "end to end ($e2e) over subword tokens, supervised by alignments (${sources:-none})"; then end_to_end; fi

if stage 9 "decoding: weights tuned on dev, test scored by sclite's rules"; then decoding; fi

if stage 10 "report: RESULTS.md, results.json and the pages of exp/report"; then
  python "$utils/results.py" .
  report
fi
