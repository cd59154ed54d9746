#!/usr/bin/env bash
# tiny: synthetic speech with exact phone and word times; from nothing to alignments and word error rates in minutes.
#
# Usage: ./run.sh [--stage N] [--stop-stage N] [--list] [--ali gmm|nhmm|both] [--overwrite]
#   --ali gmm|nhmm|both   alignments that the networks of stage 6 are trained on
#   --overwrite           remake outputs whose options or inputs have changed
# Every step is skipped when its output is up to date.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
ali=both
overwrite=false
. ../../utils/stage.sh
. ../../utils/parse_options.sh
. ../../utils/path.sh
case $ali in
  both) sources="gmm nhmm" ;;
  gmm | nhmm) sources=$ali ;;
  *) echo "$0: --ali is gmm, nhmm or both, not '$ali'" >&2; exit 2 ;;
esac
steps=$FULLSUM_ROOT/steps
utils=$FULLSUM_ROOT/utils
force=()
if $overwrite; then force=(--overwrite); fi
parts="train dev test"

if stage 0 "data: synthesise speech with exact times"; then
  python local/prepare.py data/local "${force[@]}"
  for part in $parts; do python "$utils/validate_data.py" data/local/$part; done
fi

if stage 1 "lang: phone and grapheme lexicons, unigram and 2-gram language models"; then
  python "$steps/make_lang.py" data/local/lexicon.txt data/lang_phone "${force[@]}"
  python "$steps/make_lang.py" data/local/lexicon.txt data/lang_grapheme --unit grapheme "${force[@]}"
  python "$steps/train_lm.py" data/local/lm_text.txt data/lang_phone data/lm_2gram --order 2 "${force[@]}"
fi

if stage 2 "features: MFCC for the GMM, log-mel for the networks"; then
  for part in $parts; do
    python "$steps/compute_feats.py" data/local/$part data/mfcc/$part --config conf/mfcc.yaml "${force[@]}"
    python "$steps/compute_feats.py" data/local/$part data/fbank/$part --config conf/fbank.yaml "${force[@]}"
  done
fi

if stage 3 "GMM: monophones from a flat start, alignments"; then
  python "$steps/train_mono.py" data/mfcc/train data/lang_phone exp/mono --config conf/mono.yaml "${force[@]}"
  for part in $parts; do
    python "$steps/align.py" data/mfcc/$part data/lang_phone exp/mono exp/gmm_ali/$part --confidence "${force[@]}"
    python "$steps/score_ali.py" exp/gmm_ali/$part data/local/$part exp/gmm_ali/score_$part \
      --id mono --part $part "${force[@]}"
  done
fi

if stage 5 "neural HMM: full-sum training with learned transitions, alignments"; then
  python "$steps/train_nhmm.py" data/fbank/train data/lang_phone exp/nhmm_speech_silence \
    --dev data/fbank/dev --config conf/nhmm.yaml "${force[@]}"
  for part in $parts; do
    python "$steps/align.py" data/fbank/$part data/lang_phone exp/nhmm_speech_silence exp/nhmm_ali/$part \
      --config conf/nhmm_align.yaml "${force[@]}"
    python "$steps/score_ali.py" exp/nhmm_ali/$part data/local/$part exp/nhmm_ali/score_$part \
      --id nhmm_speech_silence --part $part "${force[@]}"
  done
fi

if stage 6 "Viterbi training of a network on each alignment ($sources)"; then
  for source in $sources; do
    python "$steps/train_viterbi.py" data/fbank/train data/lang_phone exp/${source}_ali/train exp/hybrid_$source \
      --dev data/fbank/dev --dev-ali exp/${source}_ali/dev --config conf/viterbi.yaml "${force[@]}"
  done
fi

if stage 9 "decoding: LM weight and insertion penalty tuned on dev, reported on test"; then
  for model in mono nhmm_speech_silence $(printf 'hybrid_%s ' $sources); do
    feats=fbank
    if [[ $model == mono ]]; then feats=mfcc; fi
    python "$steps/make_graph.py" data/lang_phone data/lm_2gram exp/$model exp/$model/graph_2gram "${force[@]}"
    python "$steps/decode.py" exp/$model exp/$model/graph_2gram data/$feats/dev exp/$model/decode_2gram_dev \
      --id $model --part dev --config conf/decode_$feats.yaml "${force[@]}"
    python "$steps/decode.py" exp/$model exp/$model/graph_2gram data/$feats/test exp/$model/decode_2gram_test \
      --id $model --part test --config conf/decode_$feats.yaml \
      --weights-from exp/$model/decode_2gram_dev "${force[@]}"
  done
fi

if stage 10 "report: RESULTS.md, results.json and a picture of alignments"; then
  python "$steps/plot_ali.py" data/local/test exp/plots exp/gmm_ali/test exp/nhmm_ali/test --count 1 "${force[@]}"
  cp exp/plots/*.png alignment.png
  python "$utils/results.py" .
fi
