#!/usr/bin/env bash
# timit: alignments measured against hand-made phone times, on the sample or the full corpus.
#
# Usage: ./run.sh [--stage N] [--stop-stage N] [--list] [--corpus-root DIR] [--librispeech-root DIR] [--part NAME] [--overwrite]
#                 [--jobs N] [--backend B]
#   --corpus-root DIR       folder with TRAIN/ and TEST/, or with the sample; else ../shared/corpora/timit_sample beside the checkout
#   --librispeech-root DIR  folder of the LibriSpeech subset; else ../shared/corpora/librispeech_subset beside the checkout
#   --part NAME             part that is aligned and scored: sample (default), or train, dev, test of the full corpus
#   --overwrite             remake outputs whose options or inputs have changed
#   --jobs N                parts into which features, alignments and decodings are divided; the results are the same
#   --backend B             what runs the parts: local, slurm or dask; conf/cluster.yaml describes the cluster
#
# Two systems align the part: "own", trained on its audio and words (never on its times), with TIMIT's dictionary; and
# "librispeech", trained without any TIMIT speaker, with the CMU dictionary. Each has monophones with and without deltas; the
# boundaries of the Viterbi alignment ("mono_...") are then refined by the posteriors of both ("refined_..."). The settings were
# chosen on the speakers of part "tuned"; "unseen" has the others. Stage 5 does the same with neural HMMs instead of GMMs ("nhmm_...",
# "nhmm_refined_...").
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
corpus_root=
librispeech_root=
part=sample
overwrite=false
jobs=1
backend=local
. ../../utils/stage.sh
. ../../utils/parse_options.sh
. ../../utils/recipe.sh

train_on() { # SYSTEM: data that its models are trained on
  if [[ $1 == own ]]; then echo data/mfcc/$part; else echo data/mfcc/librispeech; fi
}

if stage 0 "data: TIMIT with its times, LibriSpeech, dictionaries"; then
  python "$local/prepare_timit.py" data/local ${corpus_root:+--corpus-root "$corpus_root"} "${force[@]}"
  python "$local/prepare_librispeech.py" data/librispeech --parts train=train.list \
    ${librispeech_root:+--corpus-root "$librispeech_root"} "${force[@]}"
  python "$local/prepare_cmudict.py" data/cmudict "${force[@]}"
  python "$utils/validate_data.py" data/local/$part
  python local/split_speakers.py data/local/$part data/halves "${force[@]}"
fi

if stage 1 "lang: TIMIT's dictionary; the CMU dictionary with grapheme-to-phoneme conversion; glottal stops in both"; then
  python local/add_glottal_stops.py data/local/lexicon.txt data/lexicon_own "${force[@]}"
  python "$steps/train_g2p.py" data/cmudict/lexicon.txt data/g2p "${force[@]}"
  python "$steps/make_lexicon.py" data/cmudict/lexicon.txt data/g2p data/librispeech/train data/local/$part data/lexicon_cmu "${force[@]}"
  python local/add_glottal_stops.py data/lexicon_cmu/lexicon.txt data/lexicon_librispeech "${force[@]}"
  for system in own librispeech; do
    python "$steps/make_lang.py" data/lexicon_$system/lexicon.txt data/lang_$system --config conf/lang.yaml "${force[@]}"
  done
fi

if stage 2 "features: MFCC with a short window"; then
  python "$steps/compute_feats.py" data/local/$part data/mfcc/$part --config conf/mfcc.yaml "${force[@]}"
  python "$steps/compute_feats.py" data/librispeech/train data/mfcc/librispeech --config conf/mfcc.yaml "${force[@]}"
fi

if stage 3 "GMM: monophones with deltas and without, alignments, refined boundaries"; then
  for system in own librispeech; do
    exp=exp/$system train=$(train_on $system) lang=data/lang_$system
    for model in mono static; do
      python "$steps/train_mono.py" $train $lang $exp/$model --config conf/${model}_$system.yaml "${force[@]}"
    done
    python "$steps/align.py" data/mfcc/$part $lang $exp/mono $exp/mono_ali "${force[@]}"
    python "$steps/refine_ali.py" $exp/mono_ali $exp/refined_ali --by $exp/mono data/mfcc/$part --by $exp/static data/mfcc/$part \
      --config conf/refine.yaml "${force[@]}"
  done
fi

if stage 5 "neural HMM, without the GMM: networks of deltas and without, alignments, refined boundaries"; then
  for system in own librispeech; do
    exp=exp/$system train=$(train_on $system) lang=data/lang_$system
    for deltas in 1 0; do
      python "$steps/train_nhmm.py" $train $lang $exp/nhmm_deltas$deltas --config conf/nhmm_$system.yaml --deltas $deltas "${force[@]}"
    done
    python "$steps/align.py" data/mfcc/$part $lang $exp/nhmm_deltas1 $exp/nhmm_ali --config conf/nhmm_align.yaml "${force[@]}"
    python "$steps/refine_ali.py" $exp/nhmm_ali $exp/nhmm_refined_ali --by $exp/nhmm_deltas1 data/mfcc/$part \
      --by $exp/nhmm_deltas0 data/mfcc/$part --config conf/refine_nhmm.yaml "${force[@]}"
  done
fi

if stage 9 "score: boundaries against the hand-made times"; then
  for system in own librispeech; do
    for ali in mono refined nhmm nhmm_refined; do
      for data in local/$part halves/tuned halves/unseen; do
        python "$steps/score_ali.py" exp/$system/${ali}_ali data/$data exp/$system/${ali}_ali/score_${data#*/} \
          --id ${ali}_$system --part ${data#*/} --config conf/score_$system.yaml "${force[@]}"
      done
    done
  done
fi

if stage 10 "report: RESULTS.md and results.json; an English model in one file"; then
  # All of the CMU dictionary, where the models were trained with the words of their texts only.
  python local/add_glottal_stops.py data/cmudict/lexicon.txt data/lexicon_english "${force[@]}"
  python "$steps/make_lang.py" data/lexicon_english/lexicon.txt data/lang_english --config conf/lang.yaml "${force[@]}"
  python "$steps/train_g2p.py" data/lexicon_english/plain.txt data/g2p_english "${force[@]}"
  python "$steps/pack.py" exp/librispeech/mono data/lang_english exp/english.fsm --g2p data/g2p_english \
    --refiner exp/librispeech/static --card conf/english_gmm.yaml
  python "$utils/results.py" .
fi
