#!/usr/bin/env bash
# swbd: Switchboard-1, telephone conversations, 300 h of 2,438 conversations; tests Hub5'00 and Hub5'01. For holders of the corpora.
#
# Usage: ./run.sh [--stage N] [--stop-stage N] [--list] [--corpus-root DIR] [--ali gmm|nhmm|both|none]
#                 [--e2e LIST] [--models LIST] [--tests LIST] [--overwrite]
#                 [--jobs N] [--backend B]
#   --corpus-root DIR     folder with LDC97S62, swb_ms98_transcriptions, LDC2002S09, LDC2002T43 and, if it is to be tested,
#                         LDC2002S13 at any depth; else ../shared/corpora/swbd beside the checkout
#   --ali gmm|nhmm|both   alignments that the networks of stages 6 and 7 are trained on, and by which the end-to-end models of
#                         stage 8 are supervised; none: no such networks, and end-to-end models without supervision
#   --e2e LIST            end-to-end models of stage 8 among "ctc attention transducer", or none; by default ctc
#   --models LIST         GMMs that are decoded, by default "tri1 tri3"
#   --tests LIST          evaluations, by default "hub5_00 hub5_01"
#   --overwrite           remake outputs whose options or inputs have changed
#   --jobs N              parts into which features, alignments and decodings are divided; the results are the same
#   --backend B           what runs the parts: local, slurm or dask; conf/cluster.yaml describes the cluster
#
# The neural HMM is that of Mann et al. 2023, whose tables are conf/tables. Errors of the tests are counted as by NIST's sclite.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
corpus_root=
ali=both
e2e=ctc
models="tri1 tri3"
tests="hub5_00 hub5_01"
overwrite=false
jobs=1
backend=local
. ../../utils/stage.sh
. ../../utils/parse_options.sh
. ../../utils/recipe.sh
lang=data/lang
lm=data/lm_4gram
feats=gammatone
aux_layers=3
subsets=swbd=sw_,callhome=en_ # the halves of Hub5'00
among "--tests is" "$tests" hub5_00 hub5_01
parts="train dev $tests"
. ../../utils/asr.sh

if stage 0 "data: conversations cut into utterances, references of the tests, dictionary"; then
  python local/prepare_swbd.py data/local ${corpus_root:+--corpus-root "$corpus_root"} --config conf/data.yaml "${force[@]}"
  for part in $parts; do python "$utils/validate_data.py" data/local/$part; done
fi

if stage 1 "lang: Mississippi State's dictionary; 4-gram for decoding, unigram for sequence training; subword tokens"; then
  language data/local/lexicon.txt data/local/lm_text.txt
fi

if stage 2 "features: MFCC for the GMM, Gammatone for the networks"; then features; fi

if stage 3 "GMM: monophones, triphones, LDA and MLLT, speaker-adaptive training, alignments"; then gmm_chain; fi

if stage 5 "neural HMM: full-sum training with learned transitions, alignment, tied states"; then neural_hmm; fi

if stage 6 "Viterbi training of a network on each alignment ($sources)"; then hybrids; fi

if stage 7 "sequence training of these networks: MMI against a unigram"; then sequence_training; fi

if stage 8 "end to end ($e2e) over subword tokens, supervised by alignments (${sources:-none})"; then end_to_end; fi

if stage 9 "decoding: weights tuned on dev, Hub5 scored by sclite's rules"; then decoding; fi

if stage 10 "report: RESULTS.md, results.json and the pages of exp/report"; then
  python "$utils/results.py" .
  report
fi
