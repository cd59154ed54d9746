#!/usr/bin/env bash
# speechocean762: English read by Mandarin speakers, half of them children; 2,500 training and 2,500 test utterances of 125 speakers each.
#
# Usage: ./run.sh [--stage N] [--stop-stage N] [--list] [--corpus-root DIR] [--models LIST] [--parts LIST]
#                 [--ali gmm|nhmm|both|none|hybrid] [--e2e LIST] [--ways LIST] [--overwrite] [--jobs N]
#                 [--backend B]
#   --corpus-root DIR     folder with train/, test/, resource/ and WAVE/, a Kaldi corpus; else ../shared/corpora/speechocean762 beside
#                         the checkout. The archive is at https://www.openslr.org/101
#   --models LIST         GMMs that are decoded, by default "mono tri1 tri2 tri3"; tri3 needs tri2 before it; none: none
#   --parts LIST          parts that are decoded, by default "dev test"; test needs dev's weights
#   --ali gmm|nhmm|both   alignments that the networks of stages 6 and 7 are trained on, and by which the end-to-end models of
#                         stage 8 are supervised; none: no such networks, and end-to-end models without supervision
#         hybrid          networks on the GMM's alignments, and end-to-end models supervised by what the hybrid of stage 6 aligns anew
#   --e2e LIST            end-to-end models of stage 8 among "ctc attention transducer", or none; by default ctc
#   --ways LIST           teachers of stage 11 among "fixed ema cache rounds decoded decoded_again by_hybrid",
#                         by default "ema decoded decoded_again by_hybrid"
#   --overwrite           remake outputs whose options or inputs have changed
#   --jobs N              parts into which features, alignments and decodings are divided; the results are the same
#   --backend B           what runs the parts: local, slurm or dask; conf/cluster.yaml describes the cluster
#
# The split into train and test is the publisher's; dev has every eighth speaker of train, and models and language model are trained on
# the others. The weights of language model and word penalty are tuned on dev and used on test, which is decoded once. 52 sentences
# stand in both official parts, so each result on test is also given without them, as part "test_new".
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
corpus_root=
models="mono tri1 tri2 tri3"
parts="dev test"
ali=both
e2e=ctc
ways="ema decoded decoded_again by_hybrid"
overwrite=false
jobs=1
backend=local
. ../../utils/stage.sh
. ../../utils/parse_options.sh
more_teachers=hybrid
. ../../utils/recipe.sh
corpus_root=${corpus_root:-$FULLSUM_ROOT/../shared/corpora/speechocean762}
if [[ $models == none ]]; then models=; fi
if [[ " $models " == *" tri3 "* && " ${models%%tri3*}" != *" tri2 "* ]]; then
  echo "$0: --models: the first pass of tri3 takes the weights of tri2, which has to stand before it" >&2 && exit 2
fi
lang=data/lang_phone
lm=data/lm_ngram
feats=fbank
aux_layers=3
among "--parts is" "$parts" dev test
decoded=$parts parts="train dev test"

# Networks learn tied states of either alignment: those of the last GMM, or of a tree built on the neural HMM's alignment.
ali_of() {
  case $1 in
    nhmm) echo nhmm_tied_ali ;;
    hybrid) echo hybrid_ali ;;
    *) echo tri3_ali ;;
  esac
}
. ../../utils/asr.sh

tuned() { if [[ $2 == test ]]; then echo --weights-from $1_dev; fi; } # DIR PART: options with weights chosen on dev

split_train() { # PART: the Kaldi tables of the speakers of train or dev
  mkdir -p data/kaldi/$1
  for table in wav.scp text utt2spk; do
    awk -v part=$1 'NR == FNR { if (!($2 in at)) at[$2] = n++; kept[$1] = (at[$2] % 8 == 0) == (part == "dev"); next } $1 in kept && kept[$1]' \
      "$corpus_root/train/utt2spk" "$corpus_root/train/$table" >data/kaldi/$1/$table
  done
  cp -f "$corpus_root/train/spk2gender" data/kaldi/$1/spk2gender
}

score_new() { # DIR ID: the result on test without the sentences of train
  python local/new_sentences.py $1 data/local/train data/local/dev $1/new "${force[@]}"
  python "$steps/score.py" $1/new $1/score_new --id $2 --part test_new "${force[@]}"
}

decode() { # MODEL FEATURES PART CONF [OPTION..]: tunes the weights on dev, uses them on test
  local out=exp/$1/decode_ngram
  python "$steps/make_graph.py" $lang $lm exp/$1 exp/$1/graph_ngram "${force[@]}"
  python "$steps/decode.py" exp/$1 exp/$1/graph_ngram data/$2/$3 ${out}_$3 --id $1 --part $3 --config conf/$4.yaml \
    $(tuned $out $3) "${@:5}" "${force[@]}"
  if [[ $3 == test ]]; then score_new ${out}_$3 $1; fi
}

decode_gmm() { # MODEL PART; tri3 adapts to the words of a first pass, with the weights of tri2 since they are only adapted to
  local first=exp/$1/decode_ngram_si_$2 adapted=()
  if [[ $1 == tri3 ]]; then
    python "$steps/make_graph.py" $lang $lm exp/$1 exp/$1/graph_ngram "${force[@]}"
    python "$steps/decode.py" exp/$1 exp/$1/graph_ngram data/mfcc/$2 $first --id ${1}_si --part $2 --config conf/decode_mfcc.yaml \
      --weights-from exp/tri2/decode_ngram_dev "${force[@]}"
    python "$steps/estimate_fmllr.py" data/mfcc/$2 $lang exp/$1 $first exp/$1/fmllr_$2 "${force[@]}"
    adapted=(--transforms exp/$1/fmllr_$2)
  fi
  decode $1 mfcc $2 decode_mfcc "${adapted[@]}"
}

decode_e2e() { # MODEL SOURCE PART: its own search, and its CTC output with the lexicon and the n-gram
  local exp=exp/e2e_$1_$2
  python "$steps/decode_e2e.py" $exp data/tokens data/fbank/$3 $exp/decode_$3 --id e2e_$1_$2 --part $3 \
    --config conf/decode_e2e.yaml $(tuned $exp/decode $3) "${force[@]}"
  python "$steps/make_graph.py" data/lang_tokens $lm $exp/hmm $exp/graph_ngram "${force[@]}"
  python "$steps/decode.py" $exp/hmm $exp/graph_ngram data/fbank/$3 $exp/decode_ngram_$3 --id e2e_$1_$2_ctc_ngram --part $3 \
    --config conf/decode_ctc.yaml $(tuned $exp/decode_ngram $3) "${force[@]}"
  if [[ $3 == test ]]; then
    score_new $exp/decode_$3 e2e_$1_$2
    score_new $exp/decode_ngram_$3 e2e_$1_$2_ctc_ngram
  fi
}

if stage 0 "data: the Kaldi directories as they are, dev from train by speakers, the corpus's lexicon without stress"; then
  [[ -f $corpus_root/train/wav.scp ]] || { echo "$0: no speechocean762 in $corpus_root; --corpus-root names its folder" >&2; exit 2; }
  mkdir -p data/local
  sed -E 's/([A-Z])[012]( |$)/\1\2/g' "$corpus_root/resource/lexicon.txt" | sort -u >data/local/lexicon.txt
  for part in train dev; do
    split_train $part
    python "$steps/import_data.py" data/kaldi/$part data/local/$part --root "$corpus_root" --lexicon data/local/lexicon.txt "${force[@]}"
  done
  python "$steps/import_data.py" "$corpus_root/test" data/local/test --root "$corpus_root" --lexicon data/local/lexicon.txt "${force[@]}"
  for part in train dev test; do python "$utils/validate_data.py" data/local/$part; done
fi

if stage 1 "lang: phones of the lexicon, n-gram of the training transcripts, unigram for sequence training, tokens"; then
  language data/local/lexicon.txt data/local/train
fi

if stage 2 "features: MFCC for the GMM, log-mel for the networks"; then features; fi

if stage 3 "GMM: monophones, triphones, LDA and MLLT, speaker-adaptive training, alignments"; then gmm_chain; fi

if stage 5 "neural HMM: full-sum training with learned transitions, alignment, tied states"; then
  python "$steps/train_nhmm.py" data/fbank/train $lang exp/nhmm_speech_silence --config conf/nhmm.yaml "${force[@]}"
  python "$steps/align.py" data/fbank/train $lang exp/nhmm_speech_silence exp/nhmm_ali "${force[@]}"
  python "$steps/tie_states.py" data/mfcc/train $lang exp/nhmm_ali exp/nhmm_tied_ali --config conf/tie.yaml "${force[@]}"
  if [[ " $sources " == *" gmm "* ]]; then
    python "$steps/score_ali.py" exp/nhmm_ali exp/tri3_ali exp/nhmm_ali/score_train --id nhmm_speech_silence --part train "${force[@]}"
  fi
fi

if stage 6 "Viterbi training of a network on each alignment ($sources)"; then hybrids; fi

if stage 7 "sequence training of these networks: MMI against a unigram"; then sequence_training; fi

if stage 8 "end to end ($e2e) over subword tokens, supervised by alignments (${teachers:-none})"; then
  if [[ $teachers == hybrid ]]; then
    python "$steps/align.py" data/fbank/train $lang exp/hybrid_gmm exp/hybrid_ali "${force[@]}"
  fi
  end_to_end
fi

if stage 9 "decoding: weights tuned on dev, reported on test"; then
  for model in $models; do
    for part in $decoded; do decode_gmm $model $part; done
  done
  for source in $sources; do
    for part in $decoded; do
      decode hybrid_$source fbank $part decode_fbank
      decode mmi_$source fbank $part decode_fbank
    done
  done
  for model in $e2e; do
    for source in ${teachers:-none}; do
      for part in $decoded; do decode_e2e $model $source $part; done
    done
  done
fi

if stage 10 "report: RESULTS.md, results.json and the pages of exp/report"; then
  python "$utils/results.py" .
  report
fi

if stage 11 "semi-supervised: transcripts of some speakers, pseudo-labels of the others ($ways)"; then
  semi_lang=$lang semi_lm= semi_lexicon=data/local/lexicon.txt semi_dev=dev semi_test=test
  . "$utils/semisup.sh"
fi
