#!/usr/bin/env bash
# The built-in corpus: digit strings and commands from a speech synthesiser, with noise and reverberation; train, dev and
# test have different voices. From audio to the paper's tables 1 and 5: an ensemble teaches students of two sizes, and
# students trained on 3 % of the speech. The networks and tables are listed in experiment.yaml. Needs no data and no
# internet access. `make demo` runs --small in about 5 minutes on 2 cores; the whole recipe takes about half an hour.
#   recipes/digits/run.sh --hours 2
# --hours is the duration of the training set.
hours=2 options="hours" quickly="hours=0.5"
source "$(dirname "$0")/../lib.sh"
parse_options "$@"
data=$work/data feats=$stores/feats

if run_stage 0 "synthesised speech; copies of 3 % of it at other speeds"; then
  asr-kd corpus prepare digits "$data" --hours "$hours" "${spread[@]}"
  awk 'NR % 3 == 1 {print $1}' "$data/dev/text" > "$data/dev_part"   # the utterances on which --small tunes
  asr-kd corpus subset "$data/train" "$data/three" --fraction 0.03
  asr-kd corpus perturb "$data/three" "$data/three_copies" --speeds 0.85,0.92,1,1.08,1.17 --shifts 0,0.5 "${spread[@]}"
  asr-kd corpus combine "$data/three_pool" "$data/three" "$data/three_copies"
fi

if run_stage 1 "features"; then
  make_features train three_pool dev test
fi

if run_stage 2 "GMM-HMM training, alignment"; then
  asr-kd hmm train "$data/train" "$feats/mfcc/train" "$data/lexicon.txt" "$work/gmm" --config "$recipe/conf/hmm.yaml" "${spread[@]}"
  align_states "$work/gmm/lda" "$stores/states" train three_pool dev test
fi

if run_stage 3 "language model, decoding graph"; then
  asr-kd lm estimate "$data/train" "$work/bigram.arpa" --order 2
  asr-kd graph compile "$work/gmm/lda" "$work/bigram.arpa" "$work/graph/lda"
fi

if run_stage 4 "networks: trained, tuned on dev, scored on test, reported"; then
  run_experiment --set hours="$hours"
fi
