#!/usr/bin/env bash
# own_data: any corpus of recordings and text: alignments of all of it, a packed aligner, and a recogniser with error rates.
#
# Usage: ./run.sh --data DIR [--lexicon FILE] [--language CODE] [--ali gmm|nhmm|both|none] [--models LIST]
#                 [--import-conf FILE] [--espeak CODE] [--sizes DIR] [--work DIR] [--stage N] [--stop-stage N] [--list] [--overwrite]
#                 [--jobs N] [--backend B]
#   --data DIR            corpus in any format that steps/import_data.py reads: folders of audio and .txt, Kaldi, lhotse, tables,
#                         TextGrids and more
#   --lexicon FILE        pronunciations in any known format; words that it lacks are pronounced from their letters. Without it the
#                         units are letters
#   --espeak CODE         in place of a lexicon: espeak-ng pronounces all words by the rules of this language, such as de, fr or sw
#   --language CODE       such as en or de: numbers in digits are written out
#   --ali gmm|nhmm|both   alignments that networks are trained on: gmm (default), or a neural HMM's, which takes most of the time;
#                         none: no networks
#   --models LIST         what is trained for recognition among "mono tri1 tri2 tri3 hybrid"; by default what the amount of speech
#                         is enough for
#   --import-conf FILE    options of steps/import_data.py in place of conf/import.yaml
#   --sizes DIR           options of the trainings, in place of those that stage 0 writes for the amount of speech (data/sizes)
#   --work DIR            where data/ and exp/ are written; by default beside this script
#   --overwrite           remake outputs whose options or inputs have changed
#   --jobs N              parts into which features, alignments and decodings are divided; the results are the same
#   --backend B           what runs the parts: local, slurm or dask; conf/cluster.yaml describes the cluster
#
# The aligner (exp/aligner, the same as of `fullsum train`) learns from all utterances and aligns all. The recogniser learns from
# nine tenths or so; dev and test have other speakers, or, where there are too few, other utterances (the log tells).
set -euo pipefail
start=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")"
recipe=$PWD
data=
lexicon=
espeak=
language=
ali=gmm
models=
import_conf=conf/import.yaml
sizes=data/sizes
work=.
overwrite=false
jobs=1
backend=local
. ../../utils/stage.sh
. ../../utils/parse_options.sh
from_start() { if [[ -z $1 || $1 == /* ]]; then echo "$1"; else echo "$start/$1"; fi; } # PATH as given where the script was called
if [[ $log_json != - ]]; then log_json=$(from_start "$log_json"); fi
. ../../utils/recipe.sh

if [[ ! " ${models:-mono} " =~ ^\ *mono(\ +(tri1|tri2|tri3|hybrid))*\ *$ ]]; then
  echo "$0: --models is mono and some of tri1, tri2, tri3 and hybrid, not '$models'" >&2
  exit 2
fi

data=$(from_start "$data")
lexicon=$(from_start "$lexicon")
if [[ $import_conf == conf/import.yaml ]]; then import_conf=$recipe/$import_conf; else import_conf=$(from_start "$import_conf"); fi
if [[ $sizes != data/sizes ]]; then sizes=$(from_start "$sizes"); fi
if [[ $work != . ]]; then
  work=$(from_start "$work")
  $list || mkdir -p "$work" || exit 2
fi
$list || cd "$work"
clustered
lang=data/lang

wanted() { [[ " ${models:-$(cat data/sizes/models.txt)} " == *" $1 "* ]]; } # MODEL: is it to be trained
sourced() { [[ " $sources " == *" $1 "* ]]; }                             # SOURCE: are its alignments
held_out() { [[ -d data/local/dev ]]; }
pronounced=() spoken=()
if [[ -n $lexicon ]]; then pronounced=(--lexicon "$lexicon"); fi
trained=("${pronounced[@]}")
if [[ -n $espeak ]]; then trained+=(--espeak "$espeak"); fi
if [[ -n $language ]]; then spoken=(--language "$language" --digits "$language"); fi

use() { # MODEL: options with the speaker transforms of its training
  if [[ $1 == tri3 ]]; then echo --transforms exp/tri3; fi
}

decode() { # MODEL FEATURES PART NAME [OPTION..]: tunes the weights on dev, uses them on test
  local model=$1 part=$3 name=$4 weights=()
  if [[ $part == test ]]; then weights=(--weights-from exp/$model/${name}_dev); fi
  python "$steps/decode.py" exp/$model exp/$model/graph data/$2/$part exp/$model/${name}_$part --part $part \
    --config "$recipe/conf/decode_$2.yaml" "${weights[@]}" "${@:5}" "${force[@]}"
}

if stage 0 "data: import, parts by speakers, sizes by the amount of speech"; then
  if [[ ! -e $data ]]; then
    echo "$0: --data names the recordings and their text; ${data:-it} is not there" >&2
    exit 2
  fi
  python "$steps/import_data.py" "$data" data/all --config "$import_conf" "${spoken[@]}" "${force[@]}"
  python "$steps/split_data.py" data/all data/local "${force[@]}"
  python "$steps/choose_sizes.py" data/local/train data/sizes "${force[@]}"
fi

if stage 1 "lang: pronunciations of the words of train, n-gram of its transcripts"; then
  python "$steps/pronounce_words.py" data/local/train data/lexicon "${trained[@]}" "${force[@]}"
  python "$steps/make_lang.py" data/lexicon/lexicon.txt $lang --config data/lexicon/lang.yaml "${force[@]}"
  python "$steps/train_lm.py" data/local/train $lang data/lm --config "$sizes/lm.yaml" "${force[@]}"
fi

if stage 2 "features: MFCC for the GMM, log-mel for the networks"; then
  for part in train dev test; do
    [[ -d data/local/$part ]] || continue
    for feats in mfcc fbank; do
      python "$steps/compute_feats.py" data/local/$part data/$feats/$part --config "$recipe/conf/$feats.yaml" "${force[@]}"
    done
  done
fi

if stage 3 "GMM: aligner and TextGrids of all utterances; chain of the recogniser"; then
  python "$steps/train_aligner.py" data/all exp/aligner "${trained[@]}" "${force[@]}"
  before=
  for model in mono tri1 tri2 tri3; do
    wanted $model || continue
    case $model in
      mono) python "$steps/train_mono.py" data/mfcc/train $lang exp/mono --config "$sizes/mono.yaml" "${force[@]}" ;;
      tri1) python "$steps/train_deltas.py" data/mfcc/train $lang $before exp/tri1 --config "$sizes/tri1.yaml" "${force[@]}" ;;
      tri2) python "$steps/train_lda_mllt.py" data/mfcc/train $lang $before exp/tri2 --config "$sizes/tri2.yaml" "${force[@]}" ;;
      tri3) python "$steps/train_sat.py" data/mfcc/train $lang $before exp/tri3 --config "$sizes/tri3.yaml" "${force[@]}" ;;
    esac
    before=exp/${model}_ali
    python "$steps/align.py" data/mfcc/train $lang exp/$model $before $(use $model) "${force[@]}"
  done
fi

if stage 5 "neural HMM: full-sum training, TextGrids of train, tied states"; then
  if sourced nhmm; then
    python "$steps/train_nhmm.py" data/fbank/train $lang exp/nhmm --config "$sizes/nhmm.yaml" "${force[@]}"
    python "$steps/align.py" data/fbank/train $lang exp/nhmm exp/nhmm_mono_ali "${force[@]}"
    python "$steps/tie_states.py" data/mfcc/train $lang exp/nhmm_mono_ali exp/nhmm_ali --config "$sizes/tie.yaml" "${force[@]}"
    python "$steps/pack.py" exp/nhmm $lang exp/nhmm.fsm
    python "$steps/align_corpus.py" exp/nhmm.fsm data/local/train exp/nhmm_aligned "${force[@]}"
  fi
fi

last_ali() { # SOURCE: the alignment of train that networks learn
  local model
  if [[ $1 == nhmm ]]; then echo exp/nhmm_ali; return; fi
  for model in tri3 tri2 tri1 mono; do
    if wanted $model; then echo exp/${model}_ali; return; fi
  done
}

if stage 6 "Viterbi training of a network on each alignment ($sources)"; then
  for source in $sources; do
    wanted hybrid || continue
    python "$steps/train_viterbi.py" data/fbank/train $lang "$(last_ali $source)" exp/hybrid_$source \
      --config "$sizes/viterbi.yaml" "${force[@]}"
  done
fi

if stage 9 "decoding: weights tuned on dev, reported on test"; then
  held_out || echo "nothing is held out of so few utterances, so there are no error rates"
  for model in mono tri1 tri2 tri3 ${sources:+$(printf 'hybrid_%s ' $sources)}; do
    wanted ${model%_*} && held_out || continue
    feats=mfcc adapted=()
    if [[ $model == hybrid_* ]]; then feats=fbank; fi
    python "$steps/make_graph.py" $lang data/lm exp/$model exp/$model/graph "${force[@]}"
    for part in dev test; do
      if [[ $model == tri3 ]]; then
        decode tri3 mfcc $part first --posteriors
        python "$steps/estimate_fmllr.py" data/mfcc/$part $lang exp/tri3 exp/tri3/first_$part exp/tri3/fmllr_$part \
          --source lattices "${force[@]}"
        adapted=(--transforms exp/tri3/fmllr_$part)
      fi
      decode $model $feats $part decode --id $model "${adapted[@]}"
    done
  done
fi

if stage 10 "report: RESULTS.md, results.json and the pages of exp/report"; then
  if held_out; then python "$utils/results.py" . --title "$(basename "$PWD")"; fi
  report --title "$(basename "$PWD")"
fi
