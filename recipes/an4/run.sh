#!/usr/bin/env bash
# AN4 (CMU "census", 42 minutes of spelled words and numbers): from audio to a table of word error rates.
# Monophone, triphone and LDA+MLLT GMM systems, then the paper's kind of network on the states they align, from
# several seeds. About 20 minutes on 2 cores, 400 MB of disk.
#   recipes/an4/run.sh --corpus-dir CORPORA/an4     (without --corpus-dir the official release is downloaded)
corpus_dir="" seeds="" options="seeds" network=dnn quick="--set epochs=2"
source "$(dirname "$0")/../lib.sh"
parse_options "$@"
seeds=${seeds:-$([[ -n ${small:-} ]] && echo 1 || echo 1 2 3)}

prepare() {
  asr-kd corpus prepare an4 "$work/data" ${corpus_dir:+--corpus-dir "$corpus_dir"}
  if [[ -n ${small:-} ]]; then   # a quarter of the training part
    rm -rf "$work/data/whole" && mv "$work/data/train" "$work/data/whole"
    asr-kd corpus subset "$work/data/whole" "$work/data/train" --fraction 0.25
  fi
  asr-kd corpus perturb "$work/data/train" "$work/data/speeds" --speeds 0.85,0.92,1.08,1.15 --jobs "$jobs"
  asr-kd corpus combine "$work/data/train_speeds" "$work/data/train" "$work/data/speeds"
}
run_stage 0 "data directories, training audio at five speeds" "${corpus_dir:-the official release}" "$work/data" prepare

sets="train train_speeds dev test"
extract() { features mfcc; features fbank; }
run_stage 1 "features" "$work/data" "$work/feats" extract

run_stage 2 "GMM-HMM training, alignment" "$work/data, $work/feats/mfcc" "$work/gmm, $work/states" train_hmm

build_graphs() {   # of the training transcripts; on dev a trigram's perplexity is 15.0, a bigram's 18.3
  asr-kd lm estimate "$work/data/train" "$work/trigram.arpa" --order 3
  for system in mono tri lda; do
    asr-kd graph compile "$work/gmm/$system" "$work/trigram.arpa" "$work/graph/$system"
  done
}
run_stage 3 "language model, decoding graphs" "$work/data/train, $work/gmm" "$work/graph" build_graphs

test_gmms() { for system in mono tri lda; do test_gmm "$system"; done; }
run_stage 4 "GMM systems: tuned on dev, scored on test" "$work/gmm, $work/graph" "$work/model" test_gmms

train_networks() { for seed in $seeds; do train_network "$seed" train_speeds; done; }
run_stage 5 "network training, one for each seed" "$work/feats/fbank, $work/states" "$work/$network" train_networks

test_networks() { for seed in $seeds; do test_network "$seed"; done; }
run_stage 6 "networks: tuned on dev, scored on test" "$work/$network, $work/graph" "$work/model" test_networks

results() {
  report "AN4" \
    --remark "130 test utterances of 10 speakers; trigram of the training transcripts; states and dev (8 speakers) from
      the official training part. Reference figures: Kaldi's egs/an4 10.6 % (monophones), 9.1 % (tri3,
      speaker-independent pass); PocketSphinx 9.3 % (with a bigram)." \
    --remark "Tuning: scale, penalty and beam of each system on dev; the language model's order by its perplexity on dev;
      dropout, masks and speeds of the network among five settings by the cross-entropy and WER of one seed on dev. Sizes of the GMMs are
      defaults, kept after an early system of these sizes had been scored on test (7.6 %)." \
    --table "Word error rate on test" \
    --system "GMM monophones" "$work/model/mono/decode_test" \
    --system "GMM triphones" "$work/model/tri/decode_test" \
    --system "GMM triphones, LDA+MLLT" "$work/model/lda/decode_test" \
    --system "DNN 4x512, hard targets" "$work/model/$network"/seed*/decode_test
}
run_stage 7 "table" "$work/model" "$recipe/RESULTS.md" results
