#!/usr/bin/env bash
# samromur: read Icelandic, crowd-sourced; the sample of 399 training, 50 dev and 50 test utterances of 83 speakers, or the full corpus.
#
# Usage: ./run.sh [--stage N] [--stop-stage N] [--list] [--corpus-root DIR] [--ali gmm|nhmm|both|none]
#                 [--e2e LIST] [--work DIR] [--overwrite]
#                 [--jobs N] [--backend B]
#   --corpus-root DIR     folder with metadata.tsv and audio/; else ../shared/corpora/samromur_demo beside the checkout
#   --ali gmm|nhmm|both   alignments that the networks of stages 6 and 7 start from, and by which the end-to-end models of stage 8
#                         are supervised; default gmm; none: no such networks, and end-to-end models without supervision
#   --e2e LIST            end-to-end models of stage 8 among "ctc attention transducer", or none; by default ctc
#   --work DIR            recipe with conf/ of its own, whose data/ and exp/ are used (../malromur)
#   --overwrite           remake outputs whose options or inputs have changed
#   --jobs N              parts into which features, alignments and decodings are divided; the results are the same
#   --backend B           what runs the parts: local, slurm or dask; conf/cluster.yaml describes the cluster
#
# There is no pronouncing dictionary: the units are letters. The language model's text is the corpus's own without the sentences
# of dev and test, so every sixth word of test is unknown to it. All weights are tuned on dev; test is decoded once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
corpus_root=
ali=gmm
e2e=ctc
work=.
overwrite=false
jobs=1
backend=local
. ../../utils/stage.sh
. ../../utils/parse_options.sh
. ../../utils/recipe.sh
cd "$work" || exit 2
clustered
lang=data/lang_grapheme
lm=data/lm_3gram
weak_lm=data/lm_1gram

wanted() { [[ " $sources " == *" $1 "* ]]; } # SOURCE

decode() { # MODEL FEATURES PART: tunes the weights on dev, uses them on test
  local weights=()
  if [[ $3 == test ]]; then weights=(--weights-from exp/$1/decode_3gram_dev); fi
  python "$steps/make_graph.py" $lang $lm exp/$1 exp/$1/graph_3gram "${force[@]}"
  python "$steps/decode.py" exp/$1 exp/$1/graph_3gram data/$2/$3 exp/$1/decode_3gram_$3 --id $1 --part $3 \
    --config conf/decode_$2.yaml "${weights[@]}" "${force[@]}"
}

tuned() { if [[ $2 == test ]]; then echo --weights-from $1_dev; fi; } # DIR PART: options with weights chosen on dev

decode_e2e() { # MODEL SOURCE PART: its own search without and with the 3-gram, and its CTC output with the lexicon and the 3-gram
  local exp=exp/e2e_$1_$2
  python "$steps/decode_e2e.py" $exp data/tokens data/fbank/$3 $exp/decode_$3 --id e2e_$1_$2 --part $3 \
    --config conf/decode_e2e.yaml $(tuned $exp/decode $3) "${force[@]}"
  python "$steps/decode_e2e.py" $exp data/tokens data/fbank/$3 $exp/decode_fusion_$3 --id e2e_$1_$2_3gram --part $3 --lm $lm \
    --config conf/decode_e2e_lm.yaml $(tuned $exp/decode_fusion $3) "${force[@]}"
  python "$steps/make_graph.py" data/lang_tokens $lm $exp/hmm $exp/graph_3gram "${force[@]}"
  python "$steps/decode.py" $exp/hmm $exp/graph_3gram data/fbank/$3 $exp/decode_3gram_$3 --id e2e_$1_$2_ctc_3gram --part $3 \
    --config conf/decode_ctc.yaml $(tuned $exp/decode_3gram $3) "${force[@]}"
}

if stage 0 "data: recordings and transcripts"; then
  python "$local/prepare_samromur.py" data/local ${corpus_root:+--corpus-root "$corpus_root"} "${force[@]}"
  for part in train dev test; do python "$utils/validate_data.py" data/local/$part; done
fi

if stage 1 "lang: letters; 3-gram for decoding, unigram for sequence training; subword tokens"; then
  python "$steps/make_lang.py" data/local/lexicon.txt $lang --config conf/lang.yaml "${force[@]}"
  python "$steps/train_lm.py" data/local/lm_text.txt $lang $lm --dev data/local/dev --config conf/lm.yaml "${force[@]}"
  python "$steps/train_lm.py" data/local/train $lang $weak_lm --order 1 "${force[@]}"
  python "$steps/train_tokens.py" data/local/train data/tokens --config conf/tokens.yaml "${force[@]}"
  python "$steps/make_lang.py" data/local/lexicon.txt data/lang_tokens --tokens data/tokens "${force[@]}"
fi

if stage 2 "features: MFCC for the GMM, log-mel for the networks"; then
  for part in train dev test; do
    for feats in mfcc fbank; do
      python "$steps/compute_feats.py" data/local/$part data/$feats/$part --config conf/$feats.yaml "${force[@]}"
    done
  done
fi

if stage 3 "GMM: monophones, triphones with deltas, LDA and MLLT; alignments"; then
  if wanted gmm; then
    python "$steps/train_mono.py" data/mfcc/train $lang exp/mono --config conf/mono.yaml "${force[@]}"
    python "$steps/align.py" data/mfcc/train $lang exp/mono exp/mono_ali "${force[@]}"
    python "$steps/train_deltas.py" data/mfcc/train $lang exp/mono_ali exp/tri1 --config conf/tri1.yaml "${force[@]}"
    python "$steps/align.py" data/mfcc/train $lang exp/tri1 exp/tri1_ali "${force[@]}"
    python "$steps/train_lda_mllt.py" data/mfcc/train $lang exp/tri1_ali exp/tri2 --config conf/tri2.yaml "${force[@]}"
    python "$steps/align.py" data/mfcc/train $lang exp/tri2 exp/gmm_ali "${force[@]}"
  fi
fi

if stage 5 "neural HMM: full-sum training with learned transitions, alignments, tied states"; then
  if wanted nhmm; then
    python "$steps/train_nhmm.py" data/fbank/train $lang exp/nhmm_speech_silence --config conf/nhmm.yaml "${force[@]}"
    python "$steps/align.py" data/fbank/train $lang exp/nhmm_speech_silence exp/nhmm_mono_ali "${force[@]}"
    python "$steps/tie_states.py" data/mfcc/train $lang exp/nhmm_mono_ali exp/nhmm_ali --config conf/tie.yaml "${force[@]}"
  fi
fi

if stage 6 "Viterbi training of a network on each alignment ($sources)"; then
  for source in $sources; do
    python "$steps/train_viterbi.py" data/fbank/train $lang exp/${source}_ali exp/hybrid_$source --config conf/viterbi.yaml "${force[@]}"
  done
fi

if stage 7 "sequence training of these networks: MMI against a unigram"; then
  for source in $sources; do
    python "$steps/make_graph.py" $lang $weak_lm exp/hybrid_$source exp/hybrid_$source/graph_1gram "${force[@]}"
    python "$steps/train_sequence.py" data/fbank/train $lang exp/hybrid_$source exp/mmi_$source \
      --graph exp/hybrid_$source/graph_1gram --lm $weak_lm --config conf/mmi.yaml "${force[@]}"
  done
fi

if stage 8 "end to end ($e2e) over subword tokens, supervised by alignments (${sources:-none})"; then
  for model in $e2e; do
    for source in ${sources:-none}; do
      exp=exp/e2e_${model}_$source supervision=()
      if [[ $source != none ]]; then supervision=(--ali exp/${source}_ali --aux-layers 3); fi
      python "$steps/train_e2e.py" data/fbank/train data/tokens $exp --dev data/fbank/dev --config conf/e2e_$model.yaml \
        "${supervision[@]}" "${force[@]}"
      python "$steps/export_e2e.py" $exp data/tokens data/lang_tokens $exp/hmm "${force[@]}"
    done
  done
fi

if stage 9 "decoding: weights tuned on dev, reported on test"; then
  for part in dev test; do
    if wanted gmm; then
      for model in mono tri1 tri2; do decode $model mfcc $part; done
    fi
    for source in $sources; do
      decode hybrid_$source fbank $part
      decode mmi_$source fbank $part
    done
    for model in $e2e; do
      for source in ${sources:-none}; do decode_e2e $model $source $part; done
    done
  done
fi

if stage 10 "report: RESULTS.md, results.json and the pages of exp/report"; then
  python "$utils/results.py" .
  report
fi
