# Sourced by run.sh: training and decoding of end-to-end models, alike on the cross-validation part and on all speakers.

perturbed_feats() { # the training data at three speeds; alignments are stretched when they are used
  local part
  for part in train train_all; do
    python "$steps/perturb_speed.py" data/local/$part data/local/${part}_sp "${force[@]}"
    python "$steps/compute_feats.py" data/local/${part}_sp data/fbank/${part}_sp --config conf/fbank.yaml "${force[@]}"
  done
}

train_e2e() { # MODEL SOURCE: CTC, beside it an attention decoder or an RNN-T, supervised by the alignment of SOURCE (none: without)
  local exp supervision name=e2e_$1_$2
  for exp in exp/cv exp; do
    supervision=()
    if [[ $2 != none ]]; then supervision=(--ali $exp/"$(labels_of $2)" --aux-layers 3); fi
    python "$steps/train_e2e.py" data/fbank/"$(train_part $exp)"_sp data/tokens $exp/$name --config conf/e2e_$1.yaml \
      "${supervision[@]}" "${force[@]}"
    python "$steps/export_e2e.py" $exp/$name data/tokens data/lang_tokens $exp/$name/hmm "${force[@]}"
  done
}

decode_e2e() { # MODEL SOURCE: its own search without and with the unigram, and its CTC output with the lexicon and the unigram
  local name=e2e_$1_$2 cv=exp/cv/e2e_$1_$2 all=exp/e2e_$1_$2
  python "$steps/decode_e2e.py" $cv data/tokens data/fbank/dev $cv/decode_dev --id $name --part dev \
    --config conf/decode_e2e.yaml "${force[@]}"
  python "$steps/decode_e2e.py" $all data/tokens data/fbank/test $all/decode_test --id $name --part test \
    --config conf/decode_e2e.yaml --weights-from $cv/decode_dev "${force[@]}"
  python "$steps/decode_e2e.py" $cv data/tokens data/fbank/dev $cv/decode_fusion_dev --id ${name}_1gram --part dev \
    --lm data/lm_1gram_cv --config conf/decode_e2e_lm.yaml "${force[@]}"
  python "$steps/decode_e2e.py" $all data/tokens data/fbank/test $all/decode_fusion_test --id ${name}_1gram --part test \
    --lm data/lm_1gram --config conf/decode_e2e_lm.yaml --weights-from $cv/decode_fusion_dev "${force[@]}"
  python "$steps/make_graph.py" data/lang_tokens data/lm_1gram_cv $cv/hmm $cv/graph_1gram "${force[@]}"
  python "$steps/make_graph.py" data/lang_tokens data/lm_1gram $all/hmm $all/graph_1gram "${force[@]}"
  python "$steps/decode.py" $cv/hmm $cv/graph_1gram data/fbank/dev $cv/decode_1gram_dev --id ${name}_ctc_1gram --part dev \
    --config conf/decode_ctc.yaml "${force[@]}"
  python "$steps/decode.py" $all/hmm $all/graph_1gram data/fbank/test $all/decode_1gram_test --id ${name}_ctc_1gram --part test \
    --config conf/decode_ctc.yaml --weights-from $cv/decode_1gram_dev "${force[@]}"
}
