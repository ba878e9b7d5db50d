#!/usr/bin/env bash
# The built-in corpus: digit strings and commands spoken by a synthesiser, with noise and echo; voices of train, dev and
# test are disjoint. It needs neither data nor network. About 10 minutes on 2 cores; --small is what `make demo` runs.
#   recipes/digits/run.sh --hours 2 --seeds "1 2 3"
hours="" seeds="" options="hours seeds" network=dnn
source "$(dirname "$0")/../lib.sh"
parse_options "$@"
hours=${hours:-$([[ -n ${small:-} ]] && echo 0.5 || echo 2)}
seeds=${seeds:-$([[ -n ${small:-} ]] && echo 1 || echo "1 2 3")}

prepare() { asr-kd corpus prepare digits "$work/data" --hours "$hours" --jobs "$jobs"; }
run_stage 0 "speech is synthesised" "espeak-ng" "$work/data" prepare

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

train_networks() { for seed in $seeds; do train_network "$seed"; done; }
run_stage 5 "network training, one for each seed" "$work/feats/fbank, $work/states" "$work/$network" train_networks

test_networks() { for seed in $seeds; do test_network "$seed"; done; }
run_stage 6 "networks: tuned on dev, scored on test" "$work/$network, $work/graph" "$work/model" test_networks

results() {
  report "Built-in digits" \
    --remark "$hours hours of synthesised training speech; the voices of test are in neither train nor dev." \
    --table "Word error rate on test" \
    --system "GMM triphones, LDA+MLLT" "$work/model/lda/decode_test" \
    --system "DNN 3x256, hard targets" "$work/model/$network"/seed*/decode_test
}
run_stage 7 "table" "$work/model" "$recipe/RESULTS.md" results
