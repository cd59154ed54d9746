#!/usr/bin/env bash
# commonvoice: read speech of a language of Mozilla Common Voice, with letters as units. For holders of the corpus.
#
# Usage: ./run.sh [--language ro|tr|de] [--stage N] [--stop-stage N] [--list] [--corpus-root DIR]
#                 [--ali gmm|nhmm|both|none] [--e2e LIST] [--overwrite]
#                 [--jobs N] [--backend B]
#   --language CODE       ro (default), tr, de, or another of the corpus; data/, exp/ and RESULTS.md stand in a folder of that name
#   --corpus-root DIR     folder of the language, with train.tsv, dev.tsv, test.tsv and clips/, or the one above it; else
#                         ../shared/corpora/commonvoice beside the checkout
#   --ali gmm|nhmm|both   alignments that the networks of stages 6 and 7 start from, and by which the end-to-end models of stage 8
#                         are supervised; default gmm; none: no such networks, and end-to-end models without supervision
#   --e2e LIST            end-to-end models of stage 8 among "ctc attention transducer", or none; by default ctc
#   --overwrite           remake outputs whose options or inputs have changed
#   --jobs N              parts into which features, alignments and decodings are divided; the results are the same
#   --backend B           what runs the parts: local, slurm or dask; conf/cluster.yaml describes the cluster
#
# The parts are those of the publisher. From the lang on, the stages are those of ../samromur/run.sh with the sizes in conf/ here.
# The tables in conf/tables compare auxiliary tasks of RNN-Ts: ../../utils/tables.py . NAME once stages 0 to 3 are done.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
language=ro
corpus_root=
ali=gmm
e2e=ctc
overwrite=false
jobs=1
backend=local
. ../../utils/stage.sh
. ../../utils/parse_options.sh
. ../../utils/recipe.sh
[[ $language =~ ^[a-z]{2,3}(-[A-Za-z]+)?$ ]] || { echo "$0: --language is a code such as ro, not '$language'" >&2; exit 2; }

samromur() { # STAGE: of ../samromur, in the folder of the language, with conf/ here
  mkdir -p "$language"
  ln -sfn ../conf "$language/conf"
  ../samromur/run.sh --work "$PWD/$language" --stage $1 --stop-stage $1 --ali "$ali" --e2e "${e2e:-none}" \
    --jobs $jobs --backend $backend "${force[@]}"
}

if stage 0 "data: clips and transcripts of the published parts"; then
  python local/prepare_commonvoice.py "$language/data/local" --language "$language" --digits "$language" \
    ${corpus_root:+--corpus-root "$corpus_root"} --config conf/import.yaml "${force[@]}"
  for part in train dev test; do python "$utils/validate_data.py" "$language/data/local/$part"; done
fi

if stage 1 "lang: letters; 3-gram for decoding, unigram for sequence training"; then samromur 1; fi

if stage 2 "features: MFCC for the GMM, log-mel for the networks"; then samromur 2; fi

if stage 3 "GMM: monophones, triphones of letters (chenones) with deltas, LDA and MLLT; alignments"; then samromur 3; fi

if stage 5 "neural HMM: full-sum training with learned transitions, alignments, tied states"; then samromur 5; fi

if stage 6 "Viterbi training of a network on each alignment"; then samromur 6; fi

if stage 7 "sequence training of these networks: MMI against a unigram"; then samromur 7; fi

if stage 8 "end to end over subword tokens, supervised by alignments"; then samromur 8; fi

if stage 9 "decoding: weights tuned on dev, reported on test"; then samromur 9; fi

if stage 10 "report: RESULTS.md, results.json and the pages of exp/report"; then samromur 10; fi
