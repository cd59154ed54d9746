#!/usr/bin/env bash
# tiny: synthetic speech with exact phone and word times; from nothing to alignments and word error rates in minutes.
#
# Usage: ./run.sh [--stage N] [--stop-stage N] [--list] [--ali gmm|nhmm|both|none] [--large-test] [--overwrite]
#                 [--ways LIST] [--jobs N] [--backend B]
#   --ali ALI     alignments that the networks of stage 6 are trained on, and by which the end-to-end model of stage 8 is supervised
#                 (both: there by the GMM's; none: no networks of stage 6, and an end-to-end model without supervision)
#   --large-test  in stages 0 and 2 also two larger test parts for tables: 3,000 utterances by 24 further voices (test_large) and
#                 by 240 drawn ones (test_voices)
#   --ways LIST   teachers of stage 11 among "fixed ema cache rounds decoded decoded_again by_hybrid"; by default none, and the
#                 stage does nothing
#   --overwrite   remake outputs whose options or inputs have changed
#   --jobs N      parts into which features, alignments and decodings are divided; the results are the same
#   --backend B   what runs the parts: local, slurm or dask; conf/cluster.yaml describes the cluster
# Every step is skipped when its output is up to date.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
ali=both
large_test=false
ways=
overwrite=false
jobs=1
backend=local
. ../../utils/stage.sh
. ../../utils/parse_options.sh
. ../../utils/recipe.sh
weak=${sources%% *} weak=${weak:-none} # source of the weak supervision
parts="train dev test"

if stage 0 "data: synthesise speech with exact times"; then
  python local/prepare.py data/local "${force[@]}"
  python "$utils/validate_data.py" $(printf 'data/local/%s ' $parts)
  if $large_test; then
    python local/prepare_large_test.py data/local data/local_large "${force[@]}"
    python local/prepare_large_test.py data/local data/local_voices --drawn-voices 240 "${force[@]}"
  fi
fi

if stage 1 "lang: phone and grapheme lexicons, 2-gram language model, subword tokens"; then
  python "$steps/make_lang.py" data/local/lexicon.txt data/lang_phone --silence-states 1 "${force[@]}"
  python "$steps/make_lang.py" data/local/lexicon.txt data/lang_grapheme --unit grapheme --silence-states 1 "${force[@]}"
  python "$steps/train_lm.py" data/local/lm_text.txt data/lang_phone data/lm_2gram --order 2 "${force[@]}"
  python "$steps/train_tokens.py" data/local/train data/tokens --config conf/tokens.yaml "${force[@]}"
  python "$steps/make_lang.py" data/local/lexicon.txt data/lang_tokens --tokens data/tokens "${force[@]}"
fi

if stage 2 "features: MFCC for the GMM, log-mel for the networks"; then
  for part in $parts; do
    python "$steps/compute_feats.py" data/local/$part data/mfcc/$part --config conf/mfcc.yaml "${force[@]}"
    python "$steps/compute_feats.py" data/local/$part data/fbank/$part --config conf/fbank.yaml "${force[@]}"
  done
  if $large_test; then
    python "$steps/compute_feats.py" data/local_large data/mfcc/test_large --config conf/mfcc.yaml "${force[@]}"
    python "$steps/compute_feats.py" data/local_large data/fbank/test_large --config conf/fbank.yaml "${force[@]}"
    python "$steps/compute_feats.py" data/local_voices data/fbank/test_voices --config conf/fbank.yaml "${force[@]}"
  fi
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

if stage 8 "end to end: CTC over subword tokens with weak supervision by an alignment ($weak)"; then
  supervision=()
  if [[ $weak != none ]]; then supervision=(--ali exp/${weak}_ali/train --aux-layers 3); fi
  python "$steps/train_e2e.py" data/fbank/train data/tokens exp/e2e_ctc_$weak --dev data/fbank/dev --config conf/e2e.yaml \
    "${supervision[@]}" "${force[@]}"
  python "$steps/export_e2e.py" exp/e2e_ctc_$weak data/tokens data/lang_tokens exp/e2e_ctc_$weak/hmm "${force[@]}"
fi

if stage 9 "decoding: LM weight and insertion penalty tuned on dev, reported on test"; then
  for model in mono nhmm_speech_silence ${sources:+$(printf 'hybrid_%s ' $sources)}; do
    feats=fbank
    if [[ $model == mono ]]; then feats=mfcc; fi
    python "$steps/make_graph.py" data/lang_phone data/lm_2gram exp/$model exp/$model/graph_2gram "${force[@]}"
    python "$steps/decode.py" exp/$model exp/$model/graph_2gram data/$feats/dev exp/$model/decode_2gram_dev \
      --id $model --part dev --config conf/decode_$feats.yaml "${force[@]}"
    python "$steps/decode.py" exp/$model exp/$model/graph_2gram data/$feats/test exp/$model/decode_2gram_test \
      --id $model --part test --config conf/decode_$feats.yaml \
      --weights-from exp/$model/decode_2gram_dev "${force[@]}"
  done
  # End to end: without anything but the network, and with the lexicon and the 2-gram.
  ctc=exp/e2e_ctc_$weak
  python "$steps/make_graph.py" data/lang_tokens data/lm_2gram $ctc/hmm $ctc/graph_2gram "${force[@]}"
  for part in dev test; do
    weights=()
    if [[ $part == test ]]; then weights=(--weights-from $ctc/decode_2gram_dev); fi
    python "$steps/decode_e2e.py" $ctc data/tokens data/fbank/$part $ctc/decode_greedy_$part --method ctc_greedy \
      --id e2e_ctc_${weak}_greedy --part $part "${force[@]}"
    python "$steps/decode.py" $ctc/hmm $ctc/graph_2gram data/fbank/$part $ctc/decode_2gram_$part --id e2e_ctc_$weak --part $part \
      --config conf/decode_ctc.yaml "${weights[@]}" "${force[@]}"
  done
fi

if stage 10 "report: RESULTS.md, results.json, the pages of exp/report and a picture of alignments"; then
  python "$steps/plot_ali.py" data/local/test exp/plots exp/gmm_ali/test exp/nhmm_ali/test --count 1 "${force[@]}"
  cp exp/plots/*.png alignment.png
  python "$utils/results.py" .
  report
fi

if stage 11 "semi-supervised: transcripts of some speakers, pseudo-labels of the others (${ways:-none})" && [[ -n $ways ]]; then
  # The text of the other 2-gram holds the transcripts that are taken away.
  python "$steps/train_lm.py" data/local/lm_text.txt data/lang_phone data/semi/lm --order 2 --leave-out data/local/train "${force[@]}"
  semi_lang=data/lang_phone semi_lm=data/semi/lm semi_lexicon=data/local/lexicon.txt semi_dev=dev semi_test=test
  . "$utils/semisup.sh"
fi
