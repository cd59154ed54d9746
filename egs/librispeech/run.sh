#!/usr/bin/env bash
# librispeech: read English: a mini configuration (3.55 h of training speech, 44 dev and 100 test utterances), 100 or 960 hours.
#
# Usage: ./run.sh [--size mini|100|960] [--stage N] [--stop-stage N] [--list] [--corpus-root DIR] [--lm-root DIR]
#                 [--units phone|grapheme|both] [--models LIST] [--parts LIST] [--ali gmm|nhmm|both|none] [--e2e LIST]
#                 [--ways LIST] [--overwrite] [--jobs N] [--backend B]
#   --size SIZE           mini (default); 100: train-clean-100; 960: all three training parts. The two larger ones have conf/, data/,
#                         exp/ and RESULTS.md in folders of their own, 100h and 960h, and the official dev and test parts
#   --corpus-root DIR     mini: folder with the lists and part folders of the subset; else ../shared/corpora/librispeech_subset
#                         beside the checkout. Else: folder with train-clean-100 ...; else ../shared/corpora/librispeech
#   --lm-root DIR         folder with librispeech-lexicon.txt and 3-gram.pruned.3e-7.arpa.gz, for the graph, and ..1e-7.arpa.gz, for the
#                         lattices of GMMs and hybrid networks (OpenSLR 11); by default the CMU dictionary, and a 3-gram of
#                         lm_text.txt.gz or else of the training transcripts
#   --units UNITS         chains that are trained: of phones (senones), of graphemes (chenones; with --ali nhmm or none), or both
#   --models LIST         GMMs that are decoded, by default "mono tri1 tri2 tri3"; tri3 needs tri1 before it
#   --parts LIST          parts that are decoded, by default all of dev and test; test needs dev's weights, test_clean dev_clean's
#   --ali gmm|nhmm|both   alignments that the networks of stages 6 and 7 are trained on, and by which the end-to-end models of
#                         stage 8 are supervised; none: no such networks, and end-to-end models without supervision
#   --e2e LIST            end-to-end models of stage 8 among "ctc attention transducer", or none; by default ctc
#   --ways LIST           teachers of stage 11 among "fixed ema cache rounds decoded decoded_again by_hybrid",
#                         by default "ema decoded decoded_again by_hybrid"
#   --overwrite           remake outputs whose options or inputs have changed
#   --jobs N              parts into which features, alignments and decodings are divided; the results are the same
#   --backend B           what runs the parts: local, slurm or dask; conf/cluster.yaml describes the cluster
#
# The weights of language model and word penalty are tuned on dev and used on test, which is decoded once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
size=mini
corpus_root=
lm_root=
units=both
models="mono tri1 tri2 tri3"
parts=
ali=both
e2e=ctc
ways="ema decoded decoded_again by_hybrid"
overwrite=false
jobs=1
backend=local
. ../../utils/stage.sh
. ../../utils/parse_options.sh
. ../../utils/recipe.sh
case $size in
  mini) evaluated="dev test" ;;
  100 | 960) evaluated="dev_clean dev_other test_clean test_other"
    corpus_root=$(absolute "$corpus_root") lm_root=$(absolute "$lm_root") && cd ${size}h
    clustered ;;
  *) echo "$0: --size is mini, 100 or 960, not '$size'" >&2; exit 2 ;;
esac
decoded=${parts:-$evaluated} parts="train $evaluated" dev=${evaluated%% *}
among "--parts is" "$decoded" $evaluated
[[ $units =~ ^(phone|grapheme|both)$ ]] || { echo "$0: --units is phone, grapheme or both, not '$units'" >&2; exit 2; }
units=${units/both/phone grapheme}
if [[ $units == grapheme && " $sources " == *" gmm "* ]]; then
  echo "$0: with --units grapheme there is no GMM of phones to align for the networks; --ali nhmm or none" >&2 && exit 2
fi
if [[ " $models " == *" tri3 "* && " ${models%%tri3*}" != *" tri1 "* ]]; then
  echo "$0: --models: the first pass of tri3 takes the weights of tri1, which has to stand before it" >&2 && exit 2
fi
lang=data/lang_phone lm=data/lm_3gram feats=fbank aux_layers=3 larger=(${lm_root:+--rescore-lm data/lm_medium})
exp_of() { if [[ $1 == phone ]]; then echo exp; else echo exp/$1; fi; }                # UNIT: where its models stand
id_of() { if [[ $1 == phone ]]; then echo "$2"; else echo "${2}_chenone"; fi; }        # UNIT MODEL: name in the tables

# Networks learn tied states of either alignment: those of the last GMM, or of a tree built on the neural HMM's alignment.
ali_of() { if [[ $1 == gmm ]]; then echo tri3_ali; else echo nhmm_tied_ali; fi; }
. "$utils/asr.sh"

tuned() { if [[ $2 == test* ]]; then echo --weights-from $1_${2/#test/dev}; fi; } # DIR PART: options with weights chosen on dev

decode() { # UNIT MODEL PART: tunes the weights on dev, uses them on test; tri3 adapts to the words of a first pass
  local exp id graph out transforms=()
  exp=$(exp_of $1) id=$(id_of $1 $2)
  graph=$exp/$2/graph_3gram out=$exp/$2/decode_3gram_$3
  python "$steps/make_graph.py" data/lang_$1 $lm $exp/$2 $graph "${force[@]}"
  if [[ $2 == tri3 ]]; then # the words of the first pass are only adapted to, so the weights of tri1 serve it
    python "$steps/decode.py" $exp/$2 $graph data/mfcc/$3 ${out}_si --id "${id}_si" --part $3 --config conf/decode.yaml \
      --weights-from $exp/tri1/decode_3gram_${3/#test/dev} "${force[@]}"
    python "$steps/estimate_fmllr.py" data/mfcc/$3 data/lang_$1 $exp/$2 ${out}_si $exp/$2/fmllr_$3 "${force[@]}"
    transforms=(--transforms $exp/$2/fmllr_$3)
  fi
  python "$steps/decode.py" $exp/$2 $graph data/mfcc/$3 $out --id "$id" --part $3 --config conf/decode.yaml \
    "${transforms[@]}" "${larger[@]}" $(tuned $exp/$2/decode_3gram $3) "${force[@]}"
}

decode_network() { # MODEL PART
  python "$steps/make_graph.py" data/lang_phone $lm exp/$1 exp/$1/graph_3gram "${force[@]}"
  python "$steps/decode.py" exp/$1 exp/$1/graph_3gram data/fbank/$2 exp/$1/decode_3gram_$2 --id $1 --part $2 \
    --config conf/decode_fbank.yaml "${larger[@]}" $(tuned exp/$1/decode_3gram $2) "${force[@]}"
}

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

if stage 0 "data: recordings, transcripts, pronouncing dictionary"; then
  python "$local/prepare_librispeech.py" data/local ${corpus_root:+--corpus-root "$corpus_root"} --config conf/parts.yaml "${force[@]}"
  [[ -n $lm_root ]] || python "$local/prepare_cmudict.py" data/cmudict "${force[@]}"
  for part in train $evaluated; do python "$utils/validate_data.py" data/local/$part; done
fi

if stage 1 "lang: lexicon with grapheme-to-phoneme conversion, phone and grapheme langs, 3-gram, tokens"; then
  if [[ -n $lm_root ]]; then
    python "$local/prepare_librispeech_lm.py" lexicon data/lexicon --lm-root "$lm_root" "${force[@]}"
    python "$local/prepare_librispeech_lm.py" small $lm --lm-root "$lm_root" "${force[@]}"
    python "$local/prepare_librispeech_lm.py" medium data/lm_medium --lm-root "$lm_root" "${force[@]}"
  else
    python "$steps/train_g2p.py" data/cmudict/lexicon.txt data/g2p --config conf/g2p.yaml "${force[@]}"
    python "$steps/make_lexicon.py" data/cmudict/lexicon.txt data/g2p data/local/lm_text.txt data/local/train data/lexicon "${force[@]}"
  fi
  for unit in phone grapheme; do
    python "$steps/make_lang.py" data/lexicon/lexicon.txt data/lang_$unit --config conf/lang_$unit.yaml "${force[@]}"
  done
  [[ -n $lm_root ]] || python "$steps/train_lm.py" data/local/lm_text.txt data/lang_phone $lm \
    --dev data/local/$dev --config conf/lm.yaml "${force[@]}"
  python "$steps/train_tokens.py" data/local/train data/tokens --config conf/tokens.yaml "${force[@]}"
  python "$steps/make_lang.py" data/lexicon/lexicon.txt data/lang_tokens --tokens data/tokens "${force[@]}"
fi

if stage 2 "features: MFCC for the GMM, log-mel for the networks"; then features; fi

if stage 3 "GMM: monophones, triphones, LDA and MLLT, speaker-adaptive training, alignments ($units)"; then
  for unit in $units; do lang=data/lang_$unit gmm_chain "$(exp_of $unit)"; done
fi

if stage 5 "neural HMM: full-sum training with learned transitions, alignment, tied states"; then
  python "$steps/train_nhmm.py" data/fbank/train data/lang_phone exp/nhmm_speech_silence --config conf/nhmm.yaml "${force[@]}"
  python "$steps/align.py" data/fbank/train data/lang_phone exp/nhmm_speech_silence exp/nhmm_ali "${force[@]}"
  python "$steps/tie_states.py" data/mfcc/train data/lang_phone exp/nhmm_ali exp/nhmm_tied_ali --config conf/tie.yaml "${force[@]}"
  if [[ " $units " == *" phone "* ]]; then
    python "$steps/score_ali.py" exp/nhmm_ali exp/tri3_ali exp/nhmm_ali/score_train --id nhmm_speech_silence --part train "${force[@]}"
  fi
fi

if stage 6 "Viterbi training of a network on each alignment ($sources)"; then hybrids; fi

if stage 7 "sequence training of these networks: MMI against a unigram"; then
  python "$steps/train_lm.py" data/local/lm_text.txt data/lang_phone $lm_1gram --order 1 --add 1 "${force[@]}"
  sequence_training
fi

if stage 8 "end to end ($e2e) over subword tokens, supervised by alignments (${sources:-none})"; then end_to_end; fi

if stage 9 "decoding: weights tuned on dev, reported on test"; then
  for unit in $units; do
    for model in $models; do
      for part in $decoded; do decode $unit $model $part; done
    done
  done
  for source in $sources; do
    for part in $decoded; do
      decode_network hybrid_$source $part
      decode_network mmi_$source $part
    done
  done
  for model in $e2e; do
    for source in ${sources:-none}; do
      for part in $decoded; do decode_e2e $model $source $part; done
    done
  done
fi

if stage 10 "report: RESULTS.md, results.json and the pages of exp/report"; then
  python "$utils/results.py" .
  report
fi

if stage 11 "semi-supervised: transcripts of some speakers, pseudo-labels of the others ($ways)"; then
  # Dev is aligned as well: the lexicon of its words has those too that the searches do not know.
  dictionary=data/cmudict/lexicon.txt g2p=data/g2p
  if [[ -n $lm_root ]]; then
    dictionary=data/lexicon/lexicon.txt g2p=data/semi/g2p
    python "$steps/train_g2p.py" $dictionary $g2p --config conf/g2p.yaml "${force[@]}"
  fi
  python "$steps/make_lexicon.py" $dictionary $g2p data/local/train data/local/$dev data/semi/lexicon_dev "${force[@]}"
  python "$steps/make_lang.py" data/semi/lexicon_dev/lexicon.txt data/semi/lang_dev --config conf/lang_phone.yaml "${force[@]}"
  # Its text may hold the transcripts that are taken away, as that of the subset does; of transcripts alone nothing is left.
  semi_lm=$lm
  if [[ -z $lm_root ]]; then
    semi_lm=
    if (($(wc -l < data/local/lm_text.txt) > $(gzip -dc data/local/train/cuts.jsonl.gz | wc -l))); then
      semi_lm=data/semi/lm
      python "$steps/train_lm.py" data/local/lm_text.txt data/lang_phone $semi_lm --leave-out data/local/train \
        --dev data/local/$dev --config conf/lm.yaml "${force[@]}"
    fi
  fi
  semi_lang=data/lang_phone semi_dev_lang=data/semi/lang_dev semi_lexicon=data/lexicon/lexicon.txt semi_dev=$dev semi_test=${dev/#dev/test}
  . "$utils/semisup.sh"
fi
