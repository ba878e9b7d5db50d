#!/usr/bin/env bash
# FSDD (Free Spoken Digit Dataset: 3000 isolated digits of 6 speakers, 8 kHz): from audio to a word error rate. The
# official test part has the same speakers as training; dev is taken from training. Takes 5 minutes on 2 cores.
#   recipes/fsdd/run.sh --corpus-dir CORPORA/fsdd     (without --corpus-dir, the release is downloaded)
corpus_dir="" seeds="1 2 3" options="seeds"
source "$(dirname "$0")/../lib.sh"
parse_options "$@"

prepare() { asr-kd corpus prepare fsdd "$work/data" ${corpus_dir:+--corpus-dir "$corpus_dir"} --downloads "$downloads"; }
run_stage 0 "data directories" "${corpus_dir:-the release}" "$work/data" prepare

extract() { features mfcc; features fbank; }
run_stage 1 "features" "$work/data" "$work/feats" extract

run_stage 2 "GMM-HMM training, alignment" "$work/data, $work/feats/mfcc" "$work/gmm, $work/states" train_hmm

build_graph() {
  asr-kd lm estimate "$work/data/train" "$work/bigram.arpa" --order 2
  asr-kd graph compile "$work/gmm/lda" "$work/bigram.arpa" "$work/graph/lda"
}
run_stage 3 "language model, decoding graph" "$work/data/train, $work/gmm" "$work/graph" build_graph

test_gmms() { test_gmm lda; }
run_stage 4 "GMM system: tuned on dev, scored on test" "$work/gmm, $work/graph" "$work/model" test_gmms

train_networks() { for seed in $seeds; do echo "train_network dnn $seed train dnn"; done | side_by_side; }
run_stage 5 "networks, one per seed" "$work/feats/fbank, $work/states" "$work/dnn" train_networks

test_networks() { test_systems dnn; }
run_stage 6 "networks: tuned on dev, scored on test" "$work/dnn, $work/graph" "$work/model" test_networks

results() {
  report "Free Spoken Digit Dataset" \
    --remark "300 test utterances, the official test part (index 0 to 4); its 6 speakers are also in training." \
    --table "Word error rate on test" \
    --system "GMM triphones, LDA+MLLT" "$work/model/lda/decode_test" \
    --system "DNN 3x256, hard targets" $(decoded dnn)
}
run_stage 7 "table" "$work/model" "$recipe/RESULTS.md" results
