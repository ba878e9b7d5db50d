#!/usr/bin/env bash
# FSDD (Free Spoken Digit Dataset: 3000 isolated digits of 6 speakers, 8 kHz): from audio to a word error rate. The
# official test part has the same speakers as training; dev is taken from training. The networks and the table are listed
# in experiment.yaml. Takes 5 minutes on 2 cores.
#   recipes/fsdd/run.sh --corpus-dir CORPORA/fsdd     (without --corpus-dir, the release is downloaded)
corpus_dir="" options=""
source "$(dirname "$0")/../lib.sh"
parse_options "$@"
data=$work/data feats=$stores/feats

if run_stage 0 "data directories"; then
  asr-kd corpus prepare fsdd "$data" ${corpus_dir:+--corpus-dir "$corpus_dir"} --downloads "$downloads"
fi

if run_stage 1 "features"; then
  make_features train dev test
fi

if run_stage 2 "GMM-HMM training, alignment"; then
  asr-kd hmm train "$data/train" "$feats/mfcc/train" "$data/lexicon.txt" "$work/gmm" --config "$recipe/conf/hmm.yaml" "${spread[@]}"
  align_states "$work/gmm/lda" "$stores/states" train dev test
fi

if run_stage 3 "language model, decoding graph"; then
  asr-kd lm estimate "$data/train" "$work/bigram.arpa" --order 2
  asr-kd graph compile "$work/gmm/lda" "$work/bigram.arpa" "$work/graph/lda"
fi

if run_stage 4 "networks: trained, tuned on dev, scored on test, reported"; then
  run_experiment
fi
