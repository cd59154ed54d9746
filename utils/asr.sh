# Sourced by run.sh of recipes over a pronouncing dictionary, after utils/recipe.sh: the stages that they have in common.
#
# Uses steps, force, sources, teachers and e2e of utils/recipe.sh, and of the recipe:
#   lang, lm      directories of its lang and of the language model that it decodes with; lm_1gram is that of sequence training
#   parts         data directories below data/local that have features: train, dev, then those that are tested
#   models        GMMs that are decoded, among mono tri1 tri2 tri3
#   aux_layers    layers of end-to-end models that the alignment supervises
#   feats         kind of features of the networks, that of conf/FEATS.yaml: fbank or gammatone
#   dev           part by which end-to-end models choose epochs, by default dev
#   ali_of        function: name below exp of the alignment whose tied states networks learn, of the GMM or the neural HMM; by default
#                 gmm_ali and nhmm_ali
#   subsets       of recordings that have rows of their own where steps/score_stm.py counts, NAME=PREFIX,..; may be missing
# and everything in conf/ that is named here. Where data/local/PART/ref.stm stands beside a part, steps/score_stm.py counts its
# errors, by the map ref.glm where there is one, and otherwise steps/decode.py does.

[[ -z $models ]] || among "--models is" "$models" mono tri1 tri2 tri3
lm_1gram=data/lm_1gram
read -r _ _ tested <<<"$parts" # all but train and dev
dev=${dev:-dev}
declare -F ali_of >/dev/null || ali_of() { echo ${1}_ali; }

language() { # LEXICON LM_TEXT: lang, n-gram for decoding, unigram for sequence training, subword tokens
  python "$steps/make_lang.py" "$1" $lang --config conf/lang.yaml "${force[@]}"
  python "$steps/train_lm.py" "$2" $lang $lm --dev data/local/dev --config conf/lm.yaml "${force[@]}"
  python "$steps/train_lm.py" data/local/train $lang $lm_1gram --order 1 --add 1 "${force[@]}"
  python "$steps/train_tokens.py" data/local/train data/tokens --config conf/tokens.yaml "${force[@]}"
  python "$steps/make_lang.py" "$1" data/lang_tokens --tokens data/tokens "${force[@]}"
}

features() { # MFCC for the GMM, others for the networks
  local part
  for part in $parts; do
    python "$steps/compute_feats.py" data/local/$part data/mfcc/$part --config conf/mfcc.yaml "${force[@]}"
    python "$steps/compute_feats.py" data/local/$part data/$feats/$part --config conf/$feats.yaml "${force[@]}"
  done
}

gmm_chain() { # [EXP]: monophones, triphones with deltas, with LDA and MLLT, speaker-adaptive; in the end their alignment
  local data=data/mfcc/train exp=${1:-exp}
  python "$steps/train_mono.py" $data $lang $exp/mono --config conf/mono.yaml "${force[@]}"
  python "$steps/align.py" $data $lang $exp/mono $exp/mono_ali "${force[@]}"
  python "$steps/train_deltas.py" $data $lang $exp/mono_ali $exp/tri1 --config conf/tri1.yaml "${force[@]}"
  python "$steps/align.py" $data $lang $exp/tri1 $exp/tri1_ali "${force[@]}"
  python "$steps/train_lda_mllt.py" $data $lang $exp/tri1_ali $exp/tri2 --config conf/tri2.yaml "${force[@]}"
  python "$steps/align.py" $data $lang $exp/tri2 $exp/tri2_ali "${force[@]}"
  python "$steps/train_sat.py" $data $lang $exp/tri2_ali $exp/tri3 --config conf/tri3.yaml "${force[@]}"
  python "$steps/align.py" $data $lang $exp/tri3 $exp/"$(ali_of gmm)" --transforms $exp/tri3 "${force[@]}"
}

neural_hmm() { # where it is a source: full-sum training, its alignment, which is compared with the GMM's, and a tree on it
  [[ " $sources " == *" nhmm "* ]] || return 0
  python "$steps/train_nhmm.py" data/$feats/train $lang exp/nhmm --dev data/$feats/dev --config conf/nhmm.yaml "${force[@]}"
  python "$steps/align.py" data/$feats/train $lang exp/nhmm exp/nhmm_mono_ali --config conf/nhmm_align.yaml "${force[@]}"
  python "$steps/tie_states.py" data/mfcc/train $lang exp/nhmm_mono_ali exp/"$(ali_of nhmm)" --config conf/tie.yaml "${force[@]}"
  if [[ -d exp/$(ali_of gmm) ]]; then
    python "$steps/score_ali.py" exp/nhmm_mono_ali exp/"$(ali_of gmm)" exp/nhmm_mono_ali/score_train --id nhmm --part train "${force[@]}"
  fi
}

hybrids() { # a network on the tied states of each alignment
  local source
  for source in $sources; do
    python "$steps/train_viterbi.py" data/$feats/train $lang exp/"$(ali_of $source)" exp/hybrid_$source \
      --config conf/viterbi.yaml "${force[@]}"
  done
}

sequence_training() { # MMI of these networks against a unigram
  local source
  for source in $sources; do
    python "$steps/make_graph.py" $lang $lm_1gram exp/hybrid_$source exp/hybrid_$source/graph_1gram "${force[@]}"
    python "$steps/train_sequence.py" data/$feats/train $lang exp/hybrid_$source exp/mmi_$source \
      --graph exp/hybrid_$source/graph_1gram --lm $lm_1gram --config conf/mmi.yaml "${force[@]}"
  done
}

end_to_end() { # each model supervised by each alignment, or by none where there is none
  local model source exp supervision
  for model in $e2e; do
    for source in ${teachers:-none}; do
      exp=exp/e2e_${model}_$source supervision=()
      if [[ $source != none ]]; then supervision=(--ali exp/"$(ali_of $source)" --aux-layers $aux_layers); fi
      python "$steps/train_e2e.py" data/$feats/train data/tokens $exp --dev data/$feats/$dev --config conf/e2e_$model.yaml \
        "${supervision[@]}" "${force[@]}"
      python "$steps/export_e2e.py" $exp data/tokens data/lang_tokens $exp/hmm "${force[@]}"
    done
  done
}

recognise() { # STEP OUT ID PART ARGUMENT..: decodes into OUT_PART with weights chosen on dev, and counts the errors
  local step=$1 out=$2 id=$3 part=$4 reference=data/local/$4/ref map weights=() row=(--id $3 --part $4)
  if [[ $part != dev ]]; then weights=(--weights-from ${out}_dev); fi
  if [[ -f $reference.stm ]]; then row=(); fi
  if [[ $step == e2e ]]; then
    python "$steps/decode_e2e.py" "${@:5:2}" data/$feats/$part ${out}_$part "${@:7}" "${weights[@]}" "${row[@]}" "${force[@]}"
  else
    python "$steps/decode.py" "${@:5:2}" data/$step/$part ${out}_$part "${@:7}" "${weights[@]}" "${row[@]}" "${force[@]}"
  fi
  if [[ -f $reference.stm ]]; then
    map=()
    if [[ -f $reference.glm ]]; then map=(--glm $reference.glm); fi
    python "$steps/score_stm.py" ${out}_$part $reference.stm ${out}_$part/sclite "${map[@]}" --id $id --part $part \
      ${subsets:+--subsets "$subsets"} "${force[@]}"
  fi
}

recognise_gmm() { # MODEL: tri3 adapts to the lattices of a first pass
  local model=$1 exp=exp/$1 part adapted
  python "$steps/make_graph.py" $lang $lm $exp $exp/graph "${force[@]}"
  for part in dev $tested; do
    adapted=()
    if [[ $model == tri3 ]]; then
      python "$steps/decode.py" $exp $exp/graph data/mfcc/$part $exp/first_$part --posteriors --config conf/decode_mfcc.yaml \
        "${force[@]}"
      python "$steps/estimate_fmllr.py" data/mfcc/$part $lang $exp $exp/first_$part $exp/fmllr_$part --source lattices \
        "${force[@]}"
      adapted=(--transforms $exp/fmllr_$part)
    fi
    recognise mfcc $exp/decode $model $part $exp $exp/graph --config conf/decode_mfcc.yaml "${adapted[@]}"
  done
}

recognise_network() { # MODEL
  local part
  python "$steps/make_graph.py" $lang $lm exp/$1 exp/$1/graph "${force[@]}"
  for part in dev $tested; do
    recognise $feats exp/$1/decode $1 $part exp/$1 exp/$1/graph --config conf/decode_fbank.yaml
  done
}

recognise_e2e() { # NAME: its own search without and with the n-gram, and its CTC output with the lexicon and the n-gram
  local exp=exp/$1 part
  python "$steps/make_graph.py" data/lang_tokens $lm $exp/hmm $exp/graph "${force[@]}"
  for part in dev $tested; do
    recognise e2e $exp/decode $1 $part $exp data/tokens --config conf/decode_e2e.yaml
    recognise e2e $exp/fusion ${1}_lm $part $exp data/tokens --lm $lm --config conf/decode_e2e_lm.yaml
    recognise $feats $exp/ctc ${1}_ctc_lm $part $exp/hmm $exp/graph --config conf/decode_ctc.yaml
  done
}

decoding() { # everything that was trained
  local model source
  for model in $models; do recognise_gmm $model; done
  for source in $sources; do
    for model in hybrid mmi; do recognise_network ${model}_$source; done
  done
  for model in $e2e; do
    for source in ${teachers:-none}; do recognise_e2e e2e_${model}_$source; done
  done
}
