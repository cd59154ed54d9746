# Sourced by run.sh of recipes in stage 11: training with the transcripts of some speakers of train and pseudo-labels of the others,
# beside models of those transcripts alone and of all.
#
# Uses steps and force of utils/recipe.sh, and of the recipe:
#   ways            teachers that are tried: fixed, ema, cache, rounds (of steps/train_semisup.py); decoded: a fixed one that decodes with
#                   the lexicon and the language model; decoded_again: the model of decoded in its place; by_hybrid: CTC that learns what
#                   the hybrid of decoded recognises
#   semi_lexicon    pronouncing dictionary; semi_lang: its lang
#   semi_dev_lang   lang by which dev is aligned, with the same phones; empty: semi_lang. It has the words of dev that the searches lack
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

semi_teacher() { if [[ $1 == decoded_again ]]; then echo decoded; else echo labelled; fi; } # WAY: whose words it learns

semi_recognise() { # NAME MODEL CONF: what a model recognises in the unlabelled speech
  python "$steps/decode.py" $2 exp/semi/$1/graph data/semi/fbank/unlabelled exp/semi/$1/decode_unlabelled \
    ${semi_confidence:+--confidences} --config conf/$3.yaml --weights-from exp/semi/$1/decode_$semi_dev "${force[@]}"
}

semi_ctc() { # CTC on the transcripts that are left, on all of them, and in each way from the first of these
  local name exp=exp/semi/ctc from how
  for name in labelled all $ways; do
    case $name in
      labelled | all)
        how=data/semi/fbank/labelled
        [[ $name == labelled ]] || how=data/fbank/train
        python "$steps/train_e2e.py" $how data/semi/tokens ${exp}_$name --dev data/fbank/$semi_dev --config conf/semi_ctc_$name.yaml \
          "${force[@]}"
        ;;
      *)
        how=(--teacher $name)
        if [[ $name == by_hybrid ]]; then
          semi_recognise hybrid_decoded exp/semi/hybrid_decoded decode_fbank
          how=(--teacher fixed --pseudo exp/semi/hybrid_decoded/decode_unlabelled)
        elif [[ $name == decoded* ]]; then
          from=$(semi_teacher $name)
          semi_recognise ctc_$from ${exp}_$from/hmm decode_ctc
          how=(--teacher fixed --pseudo ${exp}_$from/decode_unlabelled)
        fi
        python "$steps/train_semisup.py" data/semi/fbank/labelled data/semi/fbank/unlabelled ${exp}_labelled ${exp}_$name \
          --tokens data/semi/tokens --dev data/fbank/$semi_dev --config conf/semi_ctc.yaml "${how[@]}" "${force[@]}"
        ;;
    esac
    python "$steps/export_e2e.py" ${exp}_$name data/semi/tokens data/semi/lang_tokens ${exp}_$name/hmm "${force[@]}"
    semi_decode ctc_$name ${exp}_$name/hmm data/semi/lang_tokens decode_ctc
  done
}

semi_hybrid() { # the same with networks of the states of monophones, of the labelled speech or of all
  local name exp=exp/semi/hybrid from how dev_ali
  python "$steps/train_mono.py" data/semi/mfcc/labelled $semi_lang exp/semi/mono_labelled --config conf/mono.yaml "${force[@]}"
  python "$steps/align.py" data/semi/mfcc/labelled $semi_lang exp/semi/mono_labelled exp/semi/ali_labelled "${force[@]}"
  # Dev is aligned by both: what their states mean differs.
  python "$steps/align.py" data/mfcc/$semi_dev ${semi_dev_lang:-$semi_lang} exp/semi/mono_labelled exp/semi/ali_dev "${force[@]}"
  python "$steps/train_mono.py" data/mfcc/train $semi_lang exp/semi/mono_all --config conf/mono.yaml "${force[@]}"
  python "$steps/align.py" data/mfcc/train $semi_lang exp/semi/mono_all exp/semi/ali_all "${force[@]}"
  python "$steps/align.py" data/mfcc/$semi_dev ${semi_dev_lang:-$semi_lang} exp/semi/mono_all exp/semi/ali_dev_all "${force[@]}"
  for name in labelled all ${ways/by_hybrid/}; do
    case $name in
      labelled | all)
        how=data/semi/fbank/labelled dev_ali=exp/semi/ali_dev
        [[ $name == labelled ]] || how=data/fbank/train dev_ali=exp/semi/ali_dev_all
        python "$steps/train_viterbi.py" $how $semi_lang exp/semi/ali_$name ${exp}_$name --dev data/fbank/$semi_dev \
          --dev-ali $dev_ali --config conf/semi_hybrid_$name.yaml "${force[@]}"
        ;;
      *)
        how=(--teacher $name)
        if [[ $name == decoded* ]]; then
          from=$(semi_teacher $name)
          semi_recognise hybrid_$from ${exp}_$from decode_fbank
          python "$steps/pseudo_label.py" data/semi/fbank/unlabelled ${exp}_$from/decode_unlabelled data/semi/pseudo_$name "${force[@]}"
          python "$steps/align.py" data/semi/pseudo_$name $semi_lang ${exp}_$from exp/semi/ali_pseudo_$name \
            ${semi_confidence:+--confidence} "${force[@]}"
          how=(--teacher fixed --pseudo exp/semi/ali_pseudo_$name)
        fi
        python "$steps/train_semisup.py" data/semi/fbank/labelled data/semi/fbank/unlabelled ${exp}_labelled ${exp}_$name \
          --lang $semi_lang --ali exp/semi/ali_labelled --dev data/fbank/$semi_dev --dev-ali exp/semi/ali_dev \
          --config conf/semi_hybrid.yaml "${how[@]}" "${force[@]}"
        ;;
    esac
    semi_decode hybrid_$name ${exp}_$name $semi_lang decode_fbank
  done
}

# Confidences take longer than the search where a model is sure of nothing, and are made only where a least one is set.
semi_confidence=$(grep -ls '^min_confidence:' conf/semi_*.yaml || true)
semi_data
semi_hybrid
semi_ctc
python "$utils/results.py" .
