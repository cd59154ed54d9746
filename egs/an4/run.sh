#!/usr/bin/env bash
# an4: CMU AN4, spelled words, numbers and commands of 84 speakers; 948 training and 130 test utterances.
#
# Usage: ./run.sh [--stage N] [--stop-stage N] [--list] [--corpus-root DIR] [--ali gmm|nhmm|both|none|hybrid|chenone]
#                 [--e2e LIST] [--ways LIST] [--overwrite]
#                 [--jobs N] [--backend B]
#   --corpus-root DIR     folder with etc/ and wav/ (SPHERE, raw, WAV or FLAC); else ../shared/corpora/an4 beside the
#                         checkout, else a download
#   --ali gmm|nhmm|both   alignments that the networks of stages 6 and 7 are trained on, and by which the end-to-end models of
#                         stage 8 are supervised; none: no such networks, and end-to-end models without supervision
#         hybrid|chenone  networks on the GMM's alignments, and end-to-end models supervised by what the hybrid of stage 6 aligns anew, or
#                         by the chenones of stage 4
#   --e2e LIST            end-to-end models of stage 8 among "ctc attention transducer", or none; by default ctc
#   --ways LIST           teachers of stage 11 among "fixed ema cache rounds decoded decoded_again by_hybrid",
#                         by default "ema decoded decoded_again by_hybrid"
#   --overwrite           remake outputs whose options or inputs have changed
#   --jobs N              parts into which features, alignments and decodings are divided; the results are the same
#   --backend B           what runs the parts: local, slurm or dask; conf/cluster.yaml describes the cluster
#
# AN4 has no development part. GMMs are tuned by cross-validation: the training speakers are dealt into four folds, models
# trained without a fold (exp/fold0..3) recognise it, and the weights of language model and words are those with the
# fewest errors over all folds. For networks and chenones one speaker-disjoint eighth is dev, with models trained on the other
# speakers (exp/cv). The models that are reported are trained alike on all training speakers (exp) and see test once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
corpus_root=
ali=both
e2e=ctc
ways="ema decoded decoded_again by_hybrid"
overwrite=false
jobs=1
backend=local
. ../../utils/stage.sh
. ../../utils/parse_options.sh
more_teachers="hybrid chenone"
. ../../utils/recipe.sh
lang=data/lang_phone
gmm_lang=data/lang_phone_gmm
chenone_lang=data/lang_grapheme_gmm
folds="fold0 fold1 fold2 fold3"
held_out="exp/fold0 exp/fold1 exp/fold2 exp/fold3"
. local/gmm.sh
. local/e2e.sh

# Alignments by the GMM have more states for silence than those by the neural HMM, so each source has its lang.
lang_of() { if [[ $1 == nhmm* ]]; then echo $lang; else echo $gmm_lang; fi; }

# Networks learn tied states of either alignment: those of the last GMM, or of a tree built on the neural HMM's alignment. With
# the GMM there are also networks on the features that it has adapted to the speakers ("sat" with its states, "nhmm_sat").
labels_of() {
  case $1 in
    nhmm*) echo nhmm_tied_ali ;;
    hybrid | chenone) echo $1_ali ;;
    *) echo gmm_ali ;;
  esac
}
feats_of() { if [[ $1 == *sat ]]; then echo fmllr; else echo fbank; fi; }
conf_of() { if [[ $1 == *sat ]]; then echo conf/$2_sat.yaml; else echo conf/$2.yaml; fi; } # SOURCE STEP
case $sources in
  "gmm nhmm") networks="gmm sat nhmm nhmm_sat" ;;
  gmm) networks="gmm sat" ;;
  *) networks=$sources ;;
esac

graphs() { # MODEL LANG
  python "$steps/make_graph.py" $2 data/lm_1gram_cv exp/cv/$1 exp/cv/$1/graph_1gram "${force[@]}"
  python "$steps/make_graph.py" $2 data/lm_1gram exp/$1 exp/$1/graph_1gram "${force[@]}"
}

decode() { # MODEL FEATURES: a network; tune on dev with exp/cv/MODEL, report exp/MODEL on test
  local model=$1 feats=$2 name=decode_1gram conf=conf/decode_fbank.yaml
  case $model in
    nhmm_*) conf=conf/decode_nhmm.yaml ;;
    mmi_* | *_sat) conf=conf/decode_mmi.yaml ;;
  esac
  python "$steps/decode.py" exp/cv/$model exp/cv/$model/graph_1gram data/$feats/dev exp/cv/$model/${name}_dev \
    --id $model --part dev --config $conf "${force[@]}"
  python "$steps/decode.py" exp/$model exp/$model/graph_1gram data/$feats/test exp/$model/${name}_test \
    --id $model --part test --config $conf --weights-from exp/cv/$model/${name}_dev "${force[@]}"
}

if stage 0 "data: recordings and transcripts"; then
  python "$local/prepare_an4.py" data/local ${corpus_root:+--corpus-root "$corpus_root"} "${force[@]}"
  for part in train_all dev test; do python "$utils/validate_data.py" data/local/$part; done
  for fold in $folds; do
    python "$local/prepare_an4.py" data/folds/$fold --folds 4 --dev-fold ${fold#fold} \
      ${corpus_root:+--corpus-root "$corpus_root"} "${force[@]}"
  done
fi

if stage 1 "lang: phone and grapheme lexicons, unigram of the training transcripts, tokens"; then
  python "$steps/make_lang.py" data/local/lexicon.txt $lang --silence-states 1 "${force[@]}"
  python "$steps/make_lang.py" data/local/lexicon.txt data/lang_grapheme --unit grapheme --silence-states 1 "${force[@]}"
  python "$steps/make_lang.py" data/local/lexicon.txt $gmm_lang --config conf/lang_gmm.yaml "${force[@]}"
  python "$steps/make_lang.py" data/local/lexicon.txt $chenone_lang --config conf/lang_gmm.yaml --unit grapheme "${force[@]}"
  python "$steps/train_lm.py" data/local/lm_text.txt $lang data/lm_1gram --order 1 "${force[@]}"
  python "$steps/train_lm.py" data/local/lm_text_train.txt $lang data/lm_1gram_cv --order 1 "${force[@]}"
  python "$steps/train_tokens.py" data/local/lm_text_train.txt data/tokens --config conf/tokens.yaml "${force[@]}"
  python "$steps/make_lang.py" data/local/lexicon.txt data/lang_tokens --tokens data/tokens "${force[@]}"
  for fold in $folds; do
    python "$steps/train_lm.py" data/folds/$fold/lm_text_train.txt $lang data/lm_1gram_$fold --order 1 "${force[@]}"
  done
fi

if stage 2 "features: MFCC for the GMM, log-mel for the networks"; then
  for part in train_all train dev test; do
    for feats in mfcc fbank; do
      python "$steps/compute_feats.py" data/local/$part data/$feats/$part --config conf/$feats.yaml "${force[@]}"
    done
  done
  for fold in $folds; do
    for part in train dev; do
      python "$steps/compute_feats.py" data/folds/$fold/$part data/mfcc/$fold/$part --config conf/mfcc.yaml "${force[@]}"
    done
  done
fi

if stage 3 "GMM: monophones, triphones with deltas, LDA and MLLT, speaker-adaptive training; alignments"; then
  chain $gmm_lang "" gmm_ali tri1 tri2 tri3
  python "$steps/sum_times.py" exp/chain exp/{mono,mono_ali,tri1,tri1_ali,tri2,tri2_ali,tri3,gmm_ali} "${force[@]}"
fi

if stage 4 "chenones: the same chain over graphemes in place of the lexicon's phones"; then
  held_out=exp/cv chain $chenone_lang _chenone chenone_ali tri_chenone tri_chenone tri_chenone
fi

if stage 5 "neural HMM: full-sum training with learned transitions, alignments"; then
  for exp in exp/cv exp; do
    part=$(train_part $exp)
    python "$steps/train_nhmm.py" data/fbank/$part $lang $exp/nhmm_speech_silence --config conf/nhmm.yaml "${force[@]}"
    python "$steps/align.py" data/fbank/$part $lang $exp/nhmm_speech_silence $exp/nhmm_ali \
      --config conf/nhmm_align.yaml "${force[@]}"
    python "$steps/tie_states.py" data/mfcc/$part $lang $exp/nhmm_ali $exp/nhmm_tied_ali --config conf/tie.yaml "${force[@]}"
  done
  python "$steps/score_ali.py" exp/nhmm_ali exp/gmm_ali exp/nhmm_ali/score_train \
    --id nhmm_speech_silence --part train "${force[@]}"
fi

if stage 6 "Viterbi training of a network on each alignment ($networks)"; then
  for exp in exp/cv exp; do
    for source in $networks; do
      if [[ $source == sat ]]; then
        python "$steps/transform_feats.py" data/mfcc/"$(train_part $exp)" $exp/tri3 data/fmllr/"$(train_part $exp)" \
          --transforms $exp/tri3 "${force[@]}"
      fi
      python "$steps/train_viterbi.py" data/"$(feats_of $source)"/"$(train_part $exp)" "$(lang_of $source)" \
        $exp/"$(labels_of $source)" $exp/hybrid_$source --config "$(conf_of $source viterbi)" "${force[@]}"
    done
  done
fi

if stage 7 "sequence training of these networks: MMI against the unigram"; then
  for source in $networks; do
    graphs hybrid_$source "$(lang_of $source)"
    python "$steps/train_sequence.py" data/"$(feats_of $source)"/train "$(lang_of $source)" exp/cv/hybrid_$source exp/cv/mmi_$source \
      --graph exp/cv/hybrid_$source/graph_1gram --lm data/lm_1gram_cv --config "$(conf_of $source mmi)" "${force[@]}"
    python "$steps/train_sequence.py" data/"$(feats_of $source)"/train_all "$(lang_of $source)" exp/hybrid_$source exp/mmi_$source \
      --graph exp/hybrid_$source/graph_1gram --lm data/lm_1gram --config "$(conf_of $source mmi)" "${force[@]}"
  done
fi

if stage 8 "end to end ($e2e) over subword tokens, supervised by alignments (${teachers:-none})"; then
  perturbed_feats
  if [[ $teachers == hybrid ]]; then
    for exp in exp/cv exp; do
      python "$steps/align.py" data/fbank/"$(train_part $exp)" $gmm_lang $exp/hybrid_gmm $exp/hybrid_ali "${force[@]}"
    done
  fi
  for model in $e2e; do
    for source in ${teachers:-none}; do train_e2e $model $source; done
  done
fi

if stage 9 "decoding: weights tuned on dev, reported on test"; then
  decode_gmms "" $gmm_lang
  held_out=exp/cv decode_gmms _chenone $chenone_lang
  graphs nhmm_speech_silence $lang
  decode nhmm_speech_silence fbank
  for source in $networks; do
    if [[ $source == sat ]]; then adapted_feats tri3 $gmm_lang; fi
    for model in hybrid mmi; do
      graphs ${model}_$source "$(lang_of $source)"
      decode ${model}_$source "$(feats_of $source)"
    done
  done
  for model in $e2e; do
    for source in ${teachers:-none}; do decode_e2e $model $source; done
  done
fi

if stage 10 "report: RESULTS.md, results.json and the pages of exp/report"; then
  python "$utils/results.py" .
  report
fi

if stage 11 "semi-supervised: transcripts of some speakers, pseudo-labels of the others ($ways)"; then
  semi_lang=$gmm_lang semi_lm= semi_lexicon=data/local/lexicon.txt semi_dev=dev semi_test=test
  . "$utils/semisup.sh"
fi
