# Sourced by run.sh of recipes in stage 11: training with the transcripts of some speakers of train and pseudo-labels of the others,
# beside models of those transcripts alone and of all.
#
# Uses steps and force of utils/recipe.sh, and of the recipe:
#   ways            teachers of steps/train_semisup.py that are tried: fixed, ema, cache, rounds
#   semi_lexicon    pronouncing dictionary; semi_lang: its lang
#   semi_lm         language model, of no transcript that is taken away; empty: a unigram of the other transcripts is made
#   semi_dev        part by which epochs and weights are chosen; semi_test: the one that is tested
# and conf/semi_*.yaml. Everything is put into data/semi and exp/semi.

semi_data() { # some speakers keep their transcripts; features, tokens of what they say
  local part kind
  python "$steps/split_labelled.py" data/local/train data/semi/local --config conf/semi_split.yaml "${force[@]}"
  for part in labelled unlabelled; do
    for kind in mfcc fbank; do
      python "$steps/compute_feats.py" data/semi/local/$part data/semi/$kind/$part --config conf/$kind.yaml "${force[@]}"
    done
  done
  python "$steps/train_tokens.py" data/semi/local/labelled data/semi/tokens --config conf/tokens.yaml "${force[@]}"
  python "$steps/make_lang.py" "$semi_lexicon" data/semi/lang_tokens --tokens data/semi/tokens "${force[@]}"
  if [[ -z $semi_lm ]]; then # every word of the lexicon counts once more than it stands there
    semi_lm=data/semi/lm
    python "$steps/train_lm.py" data/semi/local/labelled $semi_lang $semi_lm --order 1 --add 1 "${force[@]}"
  fi
}

semi_decode() { # NAME MODEL LANG CONF: with the lexicon and the language model; the gap that it closes on what is tested
  local exp=exp/semi/$1 family=${1%%_*} part tuned=()
  python "$steps/make_graph.py" $3 $semi_lm $2 $exp/graph "${force[@]}"
  for part in $semi_dev $semi_test; do
    python "$steps/decode.py" $2 $exp/graph data/fbank/$part $exp/decode_$part --id semi_$1 --part $part --config conf/$4.yaml \
      "${tuned[@]}" "${force[@]}"
    tuned=(--weights-from $exp/decode_$semi_dev)
    [[ $1 == *_labelled || $1 == *_all ]] || python "$steps/score_gap.py" exp/semi/${family}_labelled/decode_$part \
      exp/semi/${family}_all/decode_$part $exp/decode_$part $exp/gap_$part --id semi_$1 --part $part "${force[@]}"
  done
}

semi_ctc() { # CTC: labelled speech alone, all of it labelled, then each way from the first of these
  local name
  python "$steps/train_e2e.py" data/semi/fbank/labelled data/semi/tokens exp/semi/ctc_labelled --dev data/fbank/$semi_dev \
    --config conf/semi_ctc_labelled.yaml "${force[@]}"
  python "$steps/train_e2e.py" data/fbank/train data/semi/tokens exp/semi/ctc_all --dev data/fbank/$semi_dev \
    --config conf/semi_ctc_all.yaml "${force[@]}"
  for name in $ways; do
    python "$steps/train_semisup.py" data/semi/fbank/labelled data/semi/fbank/unlabelled exp/semi/ctc_labelled exp/semi/ctc_$name \
      --tokens data/semi/tokens --dev data/fbank/$semi_dev --config conf/semi_ctc.yaml --teacher $name "${force[@]}"
  done
  for name in labelled all $ways; do
    python "$steps/export_e2e.py" exp/semi/ctc_$name data/semi/tokens data/semi/lang_tokens exp/semi/ctc_$name/hmm "${force[@]}"
    semi_decode ctc_$name exp/semi/ctc_$name/hmm data/semi/lang_tokens decode_ctc
  done
}

semi_hybrid() { # networks of the states of monophones, which are trained on the labelled speech, or on all of it
  local name
  python "$steps/train_mono.py" data/mfcc/train $semi_lang exp/semi/mono_all --config conf/mono.yaml "${force[@]}"
  python "$steps/train_mono.py" data/semi/mfcc/labelled $semi_lang exp/semi/mono --config conf/mono.yaml "${force[@]}"
  python "$steps/align.py" data/semi/mfcc/labelled $semi_lang exp/semi/mono exp/semi/ali_labelled "${force[@]}"
  python "$steps/align.py" data/mfcc/$semi_dev $semi_lang exp/semi/mono exp/semi/ali_dev "${force[@]}"
  python "$steps/align.py" data/mfcc/train $semi_lang exp/semi/mono_all exp/semi/ali_all "${force[@]}"
  python "$steps/train_viterbi.py" data/semi/fbank/labelled $semi_lang exp/semi/ali_labelled exp/semi/hybrid_labelled \
    --dev data/fbank/$semi_dev --dev-ali exp/semi/ali_dev --config conf/semi_hybrid_labelled.yaml "${force[@]}"
  python "$steps/train_viterbi.py" data/fbank/train $semi_lang exp/semi/ali_all exp/semi/hybrid_all \
    --dev data/fbank/$semi_dev --dev-ali exp/semi/ali_dev --config conf/semi_hybrid_all.yaml "${force[@]}"
  for name in $ways; do
    python "$steps/train_semisup.py" data/semi/fbank/labelled data/semi/fbank/unlabelled exp/semi/hybrid_labelled \
      exp/semi/hybrid_$name --lang $semi_lang --ali exp/semi/ali_labelled --dev data/fbank/$semi_dev --dev-ali exp/semi/ali_dev \
      --config conf/semi_hybrid.yaml --teacher $name "${force[@]}"
  done
  for name in labelled all $ways; do
    semi_decode hybrid_$name exp/semi/hybrid_$name $semi_lang decode_fbank
  done
}

semi_data
semi_ctc
semi_hybrid
python "$utils/results.py" .
