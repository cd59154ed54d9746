#!/usr/bin/env bash
# yesno: 60 recordings of one speaker saying yes and no in Hebrew; a smoke test on real speech (Kaldi egs/yesno).
#
# Usage: ./run.sh [--stage N] [--stop-stage N] [--list] [--corpus-root DIR] [--overwrite]
#                 [--jobs N] [--backend B]
#   --corpus-root DIR   folder with the .wav files; else ../shared/corpora/yesno beside the checkout, else a download
#   --overwrite         remake outputs whose options or inputs have changed
#   --jobs N            parts into which features, alignments and decodings are divided; the results are the same
#   --backend B         what runs the parts: local, slurm or dask; conf/cluster.yaml describes the cluster
# There is no development part: decoding uses the fixed weights of conf/decode_*.yaml.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
corpus_root=
overwrite=false
jobs=1
backend=local
. ../../utils/stage.sh
. ../../utils/parse_options.sh
. ../../utils/recipe.sh

if stage 0 "data: recordings and transcripts"; then
  python "$local/prepare_yesno.py" data/local ${corpus_root:+--corpus-root "$corpus_root"} "${force[@]}"
  for part in train test; do python "$utils/validate_data.py" data/local/$part; done
fi

if stage 1 "lang: words as phones, unigram language model"; then
  python "$steps/make_lang.py" data/local/lexicon.txt data/lang_phone --config conf/lang.yaml "${force[@]}"
  python "$steps/train_lm.py" data/local/lm_text.txt data/lang_phone data/lm_1gram --order 1 "${force[@]}"
fi

if stage 2 "features: MFCC for the GMM, log-mel for the networks"; then
  for part in train test; do
    python "$steps/compute_feats.py" data/local/$part data/mfcc/$part --config conf/mfcc.yaml "${force[@]}"
    python "$steps/compute_feats.py" data/local/$part data/fbank/$part --config conf/fbank.yaml "${force[@]}"
  done
fi

if stage 3 "GMM: monophones from a flat start, alignments"; then
  python "$steps/train_mono.py" data/mfcc/train data/lang_phone exp/mono --config conf/mono.yaml "${force[@]}"
  python "$steps/align.py" data/mfcc/train data/lang_phone exp/mono exp/gmm_ali/train "${force[@]}"
fi

if stage 5 "neural HMM: full-sum training with learned transitions, alignments"; then
  python "$steps/train_nhmm.py" data/fbank/train data/lang_phone exp/nhmm_speech_silence --config conf/nhmm.yaml "${force[@]}"
  python "$steps/align.py" data/fbank/train data/lang_phone exp/nhmm_speech_silence exp/nhmm_ali/train \
    --config conf/nhmm_align.yaml "${force[@]}"
  python "$steps/score_ali.py" exp/nhmm_ali/train exp/gmm_ali/train exp/nhmm_ali/score_train \
    --id nhmm_speech_silence --part train "${force[@]}"
fi

if stage 6 "Viterbi training of a network on each alignment"; then
  for source in gmm nhmm; do
    python "$steps/train_viterbi.py" data/fbank/train data/lang_phone exp/${source}_ali/train exp/hybrid_$source \
      --config conf/viterbi.yaml "${force[@]}"
  done
fi

if stage 9 "decoding with fixed weights"; then
  for model in mono nhmm_speech_silence hybrid_gmm hybrid_nhmm; do
    feats=fbank
    if [[ $model == mono ]]; then feats=mfcc; fi
    python "$steps/make_graph.py" data/lang_phone data/lm_1gram exp/$model exp/$model/graph_1gram "${force[@]}"
    python "$steps/decode.py" exp/$model exp/$model/graph_1gram data/$feats/test exp/$model/decode_1gram_test \
      --id $model --part test --config conf/decode_$feats.yaml "${force[@]}"
  done
fi

if stage 10 "report: RESULTS.md, results.json and the pages of exp/report"; then
  python "$utils/results.py" .
  report
fi
