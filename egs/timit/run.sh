#!/usr/bin/env bash
# timit: alignments measured against hand-made phone times, on the sample or the full corpus; of that also phone recognition.
#
# Usage: ./run.sh [--stage N] [--stop-stage N] [--list] [--corpus-root DIR] [--librispeech-root DIR] [--systems LIST]
#                 [--part NAME] [--overwrite] [--jobs N] [--backend B]
#   --corpus-root DIR       folder with TRAIN/ and TEST/, or with the sample; else ../shared/corpora/timit beside the checkout, and
#                           where that is not there ../shared/corpora/timit_sample
#   --librispeech-root DIR  folder of the LibriSpeech subset; else ../shared/corpora/librispeech_subset beside the checkout
#   --systems LIST          systems that align, by default "own librispeech"; own alone needs no LibriSpeech
#   --part NAME             part that is aligned and scored: of the full corpus train, dev or test (default), of the sample sample
#   --overwrite             remake outputs whose options or inputs have changed
#   --jobs N                parts into which features, alignments and decodings are divided; the results are the same
#   --backend B             what runs the parts: local, slurm or dask; conf/cluster.yaml describes the cluster
#
# Two systems align the part: "own", trained on the audio and words (never on the times) of train, of the sample itself, with TIMIT's
# dictionary; and "librispeech", trained without any TIMIT speaker, with the CMU dictionary. Each has monophones with and without deltas; the
# boundaries of the Viterbi alignment ("mono_...") are then refined by the posteriors of both ("refined_..."). The settings were
# chosen on the speakers of part "tuned"; "unseen" has the others. Stage 5 does the same with neural HMMs instead of GMMs ("nhmm_...",
# "nhmm_refined_..."; of "own" with one network). Phone recognition ("phones_...") learns 48 phones of the 3,696 utterances of train and is scored over 39 on the
# 192 utterances of the core test set, with a bigram of phones, as Kaldi's recipe does it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
corpus_root=
librispeech_root=
systems="own librispeech"
part=
overwrite=false
jobs=1
backend=local
. ../../utils/stage.sh
. ../../utils/parse_options.sh
. ../../utils/recipe.sh

[[ $systems =~ ^(own|librispeech|own librispeech)$ ]] || { echo "$0: --systems is a list of own and librispeech, not '$systems'" >&2; exit 2; }

whole() { [[ -d data/local/train ]]; } # is it the full corpus
given=$part
scope() { # sets the part that is aligned, the one that own learns from, and both; known once there is data
  if whole; then part=${given:-test} learnt=train; else part=${given:-sample} learnt=${given:-sample}; fi
  both=$part
  if [[ $learnt != "$part" ]]; then both+=" $learnt"; fi
}
scope
train_on() { if [[ $1 == own ]]; then echo data/mfcc/$learnt; else echo data/mfcc/librispeech; fi; } # SYSTEM: its training data
uses() { [[ " $systems " == *" $1 "* ]]; }                                                          # SYSTEM

phones() { # PART [mfcc|fbank]: data of phone recognition
  echo data/phones_${2:-mfcc}/$1
}

recognise() { # MODEL mfcc|fbank: phones of dev and test; weights chosen on dev; tri3 adapts to the phones of a first pass
  local exp=exp/phones/$1 data part pass weights
  python "$steps/make_graph.py" data/lang_phones data/lm_phones $exp $exp/graph "${force[@]}"
  for part in dev test; do
    data=$(phones $part $2) weights=() pass=()
    if [[ $1 == tri3 ]]; then
      python "$steps/decode.py" $exp $exp/graph $data $exp/first_$part --part $part --config conf/phones_decode_mfcc.yaml \
        --weights-from exp/phones/tri2/decode_dev "${force[@]}"
      python "$steps/estimate_fmllr.py" $data data/lang_phones $exp $exp/first_$part $exp/fmllr_$part "${force[@]}"
      pass=(--transforms $exp/fmllr_$part)
    fi
    if [[ $part == test ]]; then weights=(--weights-from $exp/decode_dev); fi
    python "$steps/decode.py" $exp $exp/graph $data $exp/decode_$part --part $part --config conf/phones_decode_$2.yaml "${pass[@]}" \
      "${weights[@]}" "${force[@]}"
    python local/score_phones.py $exp/decode_$part $exp/per_$part --id phones_$1 --part $part "${force[@]}"
  done
}

if stage 0 "data: TIMIT with its times, LibriSpeech, dictionaries"; then
  python "$local/prepare_timit.py" data/local ${corpus_root:+--corpus-root "$corpus_root"} "${force[@]}"
  scope
  if uses librispeech; then
    python "$local/prepare_librispeech.py" data/librispeech --parts train=train.list \
      ${librispeech_root:+--corpus-root "$librispeech_root"} "${force[@]}"
    python "$local/prepare_cmudict.py" data/cmudict "${force[@]}"
  fi
  for each in $both; do python "$utils/validate_data.py" data/local/$each; done
  python local/split_speakers.py data/local/$part data/halves "${force[@]}"
  if whole; then python local/make_phone_data.py data/local data/phones "${force[@]}"; fi
fi

if stage 1 "lang: TIMIT's dictionary; the CMU dictionary with grapheme-to-phoneme conversion; glottal stops in both; phones"; then
  if uses own; then python local/add_glottal_stops.py data/local/lexicon.txt data/lexicon_own "${force[@]}"; fi
  if uses librispeech; then
    python "$steps/train_g2p.py" data/cmudict/lexicon.txt data/g2p "${force[@]}"
    python "$steps/make_lexicon.py" data/cmudict/lexicon.txt data/g2p data/librispeech/train data/local/$part data/lexicon_cmu "${force[@]}"
    python local/add_glottal_stops.py data/lexicon_cmu/lexicon.txt data/lexicon_librispeech "${force[@]}"
  fi
  for system in $systems; do
    python "$steps/make_lang.py" data/lexicon_$system/lexicon.txt data/lang_$system --config conf/lang.yaml "${force[@]}"
  done
  if whole; then
    python "$steps/make_lang.py" data/phones/lexicon.txt data/lang_phones --config conf/phones_lang.yaml "${force[@]}"
    python "$steps/train_lm.py" data/phones/lm_text.txt data/lang_phones data/lm_phones --order 2 "${force[@]}"
  fi
fi

if stage 2 "features: MFCC with a short window; for recognition MFCC and log-mel with the usual one"; then
  for each in $both; do
    python "$steps/compute_feats.py" data/local/$each data/mfcc/$each --config conf/mfcc.yaml "${force[@]}"
    if uses own; then
      python "$steps/compute_feats.py" data/local/$each data/mfcc_fine/$each --config conf/mfcc_fine.yaml "${force[@]}"
    fi
  done
  if uses librispeech; then
    python "$steps/compute_feats.py" data/librispeech/train data/mfcc/librispeech --config conf/mfcc.yaml "${force[@]}"
  fi
  for each in $(if whole; then echo train dev test; fi); do
    for feats in mfcc fbank; do
      python "$steps/compute_feats.py" data/phones/$each "$(phones $each $feats)" --config conf/phones_$feats.yaml "${force[@]}"
    done
  done
fi

if stage 3 "GMM: monophones with deltas and without, alignments, refined boundaries; triphones of recognition"; then
  for system in $systems; do
    exp=exp/$system train=$(train_on $system) lang=data/lang_$system
    for model in mono static; do
      python "$steps/train_mono.py" $train $lang $exp/$model --config conf/${model}_$system.yaml "${force[@]}"
    done
    python "$steps/align.py" data/mfcc/$part $lang $exp/mono $exp/mono_ali "${force[@]}"
    python "$steps/refine_ali.py" $exp/mono_ali $exp/refined_ali --by $exp/mono data/mfcc/$part --by $exp/static data/mfcc/$part \
      --config conf/refine.yaml "${force[@]}"
  done
  if whole; then
    data=$(phones train) lang=data/lang_phones exp=exp/phones
    python "$steps/train_mono.py" $data $lang $exp/mono --config conf/phones_mono.yaml "${force[@]}"
    python "$steps/align.py" $data $lang $exp/mono $exp/mono_ali "${force[@]}"
    python "$steps/train_deltas.py" $data $lang $exp/mono_ali $exp/tri1 --config conf/phones_tri.yaml "${force[@]}"
    python "$steps/align.py" $data $lang $exp/tri1 $exp/tri1_ali "${force[@]}"
    python "$steps/train_lda_mllt.py" $data $lang $exp/tri1_ali $exp/tri2 --config conf/phones_tri.yaml "${force[@]}"
    python "$steps/align.py" $data $lang $exp/tri2 $exp/tri2_ali "${force[@]}"
    python "$steps/train_sat.py" $data $lang $exp/tri2_ali $exp/tri3 --config conf/phones_tri.yaml "${force[@]}"
    python "$steps/align.py" $data $lang $exp/tri3 $exp/tri3_ali --transforms $exp/tri3 "${force[@]}"
  fi
fi

if stage 5 "neural HMM, without the GMM: networks, alignments, refined boundaries"; then
  for system in $systems; do
    # Of frames of 5 ms one network is enough; of 10 ms a second one, without deltas, helps.
    exp=exp/$system train=$(train_on $system) lang=data/lang_$system feats=mfcc orders="1 0" by=()
    if [[ $system == own ]]; then train=${train/mfcc/mfcc_fine} feats=mfcc_fine orders=1; fi
    for deltas in $orders; do
      python "$steps/train_nhmm.py" $train $lang $exp/nhmm_deltas$deltas --config conf/nhmm_$system.yaml --deltas $deltas "${force[@]}"
      by+=(--by $exp/nhmm_deltas$deltas data/$feats/$part)
    done
    python "$steps/align.py" data/$feats/$part $lang $exp/nhmm_deltas1 $exp/nhmm_ali --config conf/nhmm_align.yaml "${force[@]}"
    python "$steps/refine_ali.py" $exp/nhmm_ali $exp/nhmm_refined_ali "${by[@]}" --config conf/refine_nhmm_$system.yaml "${force[@]}"
  done
fi

if stage 6 "Viterbi training of a network for phone recognition"; then
  if whole; then
    python "$steps/train_viterbi.py" "$(phones train fbank)" data/lang_phones exp/phones/tri3_ali exp/phones/hybrid \
      --config conf/phones_viterbi.yaml "${force[@]}"
  fi
fi

if stage 9 "score: boundaries against the hand-made times, also without the bias that other speakers show; phone error rates"; then
  for system in $systems; do
    exp=exp/$system
    for ali in refined nhmm_refined; do
      python "$steps/estimate_bias.py" $exp/${ali}_ali data/local/$part $exp/${ali}_bias --config conf/score_$system.yaml "${force[@]}"
      python "$steps/correct_bias.py" $exp/${ali}_ali $exp/${ali}_bias data/local/$part $exp/${ali/refined/corrected}_ali "${force[@]}"
    done
    for ali in mono refined corrected nhmm nhmm_refined nhmm_corrected; do
      for data in local/$part halves/tuned halves/unseen; do
        python "$steps/score_ali.py" exp/$system/${ali}_ali data/$data exp/$system/${ali}_ali/score_${data#*/} \
          --id ${ali}_$system --part ${data#*/} --config conf/score_$system.yaml "${force[@]}"
      done
    done
  done
  if whole; then
    for model in mono tri1 tri2 tri3; do recognise $model mfcc; done
    recognise hybrid fbank
  fi
fi

if stage 10 "report: RESULTS.md, results.json and the pages of exp/report; English models in one file each"; then
  if uses librispeech; then
    # All of the CMU dictionary, where the models were trained with the words of their texts only.
    python local/add_glottal_stops.py data/cmudict/lexicon.txt data/lexicon_english "${force[@]}"
    python "$steps/make_lang.py" data/lexicon_english/lexicon.txt data/lang_english --config conf/lang.yaml "${force[@]}"
    python "$steps/train_g2p.py" data/lexicon_english/plain.txt data/g2p_english "${force[@]}"
    python "$steps/pack.py" exp/librispeech/mono data/lang_english exp/english.fsm --g2p data/g2p_english \
      --refiner exp/librispeech/static --card conf/english_gmm.yaml
    python "$steps/pack.py" exp/librispeech/nhmm_deltas1 data/lang_english exp/english_nhmm.fsm --g2p data/g2p_english \
      --refiner exp/librispeech/nhmm_deltas0 --card conf/english_nhmm.yaml
  fi
  python "$utils/results.py" .
  report
fi
