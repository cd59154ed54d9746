# Sourced by run.sh: the chain of Gaussian mixtures, and its decoding tuned by cross-validation over the training speakers.
#
# Uses steps, utils, force and held_out, the directories whose models recognise speakers that they were not trained on:
# exp/fold0 is trained on all but those of fold 0, and so on, exp/cv on all but dev. The weights with the fewest errors over all
# of them are then used for exp, which is trained on everyone, on test.

train_part() { # EXP: what its models are trained on
  case $1 in
    exp/cv) echo train ;;
    exp/*) echo "${1#exp/}/train" ;;
    *) echo train_all ;;
  esac
}

eval_part() { # EXP: what its models recognise
  case $1 in
    exp/cv) echo data/mfcc/dev ;;
    exp/*) echo "data/mfcc/${1#exp/}/dev" ;;
    *) echo data/mfcc/test ;;
  esac
}

eval_dir() { if [[ $1 == exp ]]; then echo $1/$2_test; else echo $1/$2; fi; } # EXP MODEL/NAME: where the result stands

chain() { # LANG SUFFIX ALI CONF..: monophones, triphones on deltas, with LDA and MLLT, speaker-adaptive; each aligns for the next
  local exp data
  for exp in exp/cv exp ${held_out/exp\/cv/}; do
    data=data/mfcc/$(train_part $exp)
    python "$steps/train_mono.py" $data $1 $exp/mono$2 --config conf/mono.yaml "${force[@]}"
    python "$steps/align.py" $data $1 $exp/mono$2 $exp/mono$2_ali "${force[@]}"
    python "$steps/train_deltas.py" $data $1 $exp/mono$2_ali $exp/tri1$2 --config conf/$4.yaml "${force[@]}"
    python "$steps/align.py" $data $1 $exp/tri1$2 $exp/tri1$2_ali "${force[@]}"
    python "$steps/train_lda_mllt.py" $data $1 $exp/tri1$2_ali $exp/tri2$2 --config conf/$5.yaml "${force[@]}"
    python "$steps/align.py" $data $1 $exp/tri2$2 $exp/tri2$2_ali "${force[@]}"
    python "$steps/train_sat.py" $data $1 $exp/tri2$2_ali $exp/tri3$2 --config conf/$6.yaml "${force[@]}"
    python "$steps/align.py" $data $1 $exp/tri3$2 $exp/$3 --transforms $exp/tri3$2 "${force[@]}"
  done
}

gmm_pass() { # MODEL PASS ID FMLLR [OPTION..]: decodes what is held out, tunes on it, decodes test; FMLLR: transforms or ""
  local model=$1 name=$1/decode_1gram$2 id=$3 fmllr=$4 exp use=() held=() tune=(--tried) part=cv
  if [[ $held_out == exp/cv ]]; then part=dev; fi
  for exp in $held_out exp; do
    if [[ -n $fmllr ]]; then use=(--transforms $exp/$model/$fmllr); fi
    if [[ $exp == exp ]]; then
      python "$steps/pool_weights.py" exp/${name}_cv "${held[@]}" --id $id --part $part "${force[@]}"
      tune=(--weights-from exp/${name}_cv --id $id --part test)
    fi
    python "$steps/decode.py" $exp/$model $exp/$model/graph_1gram $(eval_part $exp) $(eval_dir $exp $name) \
      --config conf/decode_mfcc.yaml "${tune[@]}" "${use[@]}" "${@:5}" "${force[@]}"
    held+=($(eval_dir $exp $name))
  done
}

adapt() { # MODEL LANG PASS OUT [FROM]: speaker transforms from the lattices of a pass, itself adapted by FROM
  local exp used=()
  for exp in $held_out exp; do
    if (($# > 4)); then used=(--transforms $exp/$1/$5); fi
    python "$steps/estimate_fmllr.py" $(eval_part $exp) $2 $exp/$1 $(eval_dir $exp $1/decode_1gram$3) $exp/$1/$4 \
      --source lattices "${used[@]}" "${force[@]}"
  done
}

gmm_graphs() { # MODEL LANG
  local exp
  for exp in $held_out; do
    python "$steps/make_graph.py" $2 data/lm_1gram_${exp#exp/} $exp/$1 $exp/$1/graph_1gram "${force[@]}"
  done
  python "$steps/make_graph.py" $2 data/lm_1gram exp/$1 exp/$1/graph_1gram "${force[@]}"
}

decode_sat() { # MODEL LANG: a pass without speaker transforms, a second one with those from its lattices, and a third one
  gmm_graphs $1 $2
  gmm_pass $1 _first ${1}_first_pass "" --posteriors
  adapt $1 $2 _first fmllr
  gmm_pass $1 _second ${1}_second_pass fmllr --posteriors
  adapt $1 $2 _second fmllr_again fmllr
  gmm_pass $1 "" $1 fmllr_again
}

decode_gmms() { # SUFFIX LANG: all models of a chain
  local model
  for model in mono$1 tri1$1 tri2$1; do
    gmm_graphs $model $2
    gmm_pass $model "" $model ""
  done
  decode_sat tri3$1 $2
}

adapted_feats() { # MODEL LANG: dev and test as the mixtures see them after the last speaker transforms of decode_sat
  local exp=exp/cv/$1 pass next=fmllr use=()
  python "$steps/make_graph.py" $2 data/lm_1gram_cv $exp $exp/graph_1gram "${force[@]}"
  for pass in _first _second; do # the passes of dev, whose speakers only exp/cv does not know, with the weights of all folds
    python "$steps/decode.py" $exp $exp/graph_1gram data/mfcc/dev $exp/decode_1gram$pass --config conf/decode_mfcc.yaml \
      --weights-from exp/$1/decode_1gram${pass}_cv --posteriors "${use[@]}" "${force[@]}"
    python "$steps/estimate_fmllr.py" data/mfcc/dev $2 $exp $exp/decode_1gram$pass $exp/$next --source lattices "${use[@]}" "${force[@]}"
    use=(--transforms $exp/$next) next=fmllr_again
  done
  python "$steps/transform_feats.py" data/mfcc/dev $exp data/fmllr/dev --transforms $exp/fmllr_again "${force[@]}"
  python "$steps/transform_feats.py" data/mfcc/test exp/$1 data/fmllr/test --transforms exp/$1/fmllr_again "${force[@]}"
}
