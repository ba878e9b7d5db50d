#!/usr/bin/env bash
# mini_librispeech: five hours of read books (train-clean-5), 20,000 words; 6 speakers of test-clean form dev, the others
# test. GMM systems align the states. An ensemble of factored TDNNs teaches students of two sizes (table 1) and students
# trained on 3 % of the speech (table 5). The latter are trained again with the tree and priors of these 3 %.
# Specialists for confusable states are added to one of the teachers (tables 3 and 4), and their ensemble is distilled.
# The networks and tables are listed in experiment.yaml.
# Takes 15 GB of disk and, on 2 cores, about 5 hours for the tables and 7 more for the specialists.
#   recipes/mini_librispeech/run.sh --corpus-dir CORPORA/LibriSpeech --lm-dir CORPORA/lm
# --lm-dir holds lexicon.txt and a *.arpa.gz. Without it, or without --corpus-dir, the official files are downloaded.
# --parts selects experiments, separated by spaces: tables (1 and 5), own (table 5 with an HMM from the 3 %), specialists.
corpus_dir="" lm_dir="" parts="tables own specialists" options="lm_dir parts"
source "$(dirname "$0")/../lib.sh"
parse_options "$@"
check_words parts tables own specialists
data=$work/data feats=$stores/feats own=$work/own

if run_stage 0 "data directories; copies at other speeds and shifts"; then
  asr-kd corpus prepare librispeech "$data" ${corpus_dir:+--corpus-dir "$corpus_dir"} ${lm_dir:+--lm-dir "$lm_dir"} \
    --downloads "$downloads"
  awk 'NR % 6 == 1 {print $1}' "$data/dev/text" > "$data/dev_sixth"   # of all dev speakers: enough for tuning
  asr-kd corpus perturb "$data/train" "$data/speeds" --speeds 0.9,1.1 "${spread[@]}"
  asr-kd corpus combine "$data/train_speeds" "$data/train" "$data/speeds"
  asr-kd corpus subset "$data/train" "$data/three" --fraction 0.03
  asr-kd corpus perturb "$data/three" "$data/three_copies" --speeds 0.85,0.92,1,1.08,1.17 --shifts 0,0.5 "${spread[@]}"
  asr-kd corpus combine "$data/three_pool" "$data/three" "$data/three_copies"
fi

if run_stage 1 "features"; then
  make_features train train_speeds three_pool dev test
fi

if run_stage 2 "GMM-HMM training, alignment"; then   # 1 % of the training words have no pronunciation
  asr-kd hmm train "$data/train" "$feats/mfcc/train" "$data/lexicon.txt" "$work/gmm" --config "$recipe/conf/hmm.yaml" \
    --unknown spn --skip-bad "${spread[@]}"
  align_states "$work/gmm/lda" "$stores/states" train train_speeds three_pool dev test
fi

if run_stage 3 "decoding graph"; then
  asr-kd graph compile "$work/gmm/lda" "$data/lm.arpa.gz" "$work/graph/lda"
fi

if [[ " $parts " == *" own "* ]] && run_stage 4 "HMM from the 3 %"; then
  asr-kd feats "$data/three" "$feats/mfcc/three" --config "$recipe/conf/mfcc.yaml"
  asr-kd hmm train "$data/three" "$feats/mfcc/three" "$data/lexicon.txt" "$own/gmm" --config "$recipe/conf/own_hmm.yaml" \
    --unknown spn --skip-bad "${spread[@]}"
  align_states "$own/gmm/lda" "$stores/own/states" train_speeds three_pool dev test
  asr-kd graph compile "$own/gmm/lda" "$data/lm.arpa.gz" "$own/graph"
fi

if run_stage 5 "networks: trained, tuned on dev, scored on test, reported"; then
  run_experiment $(printf -- '--only %s ' $parts)
fi
