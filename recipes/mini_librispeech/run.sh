#!/usr/bin/env bash
# mini_librispeech: five hours of read books (train-clean-5), 20,000 words, 14 test speakers. Of the 20 speakers of the
# test part 6 are dev and 14 test. GMM systems give the states; the network, a factored TDNN, hears the training audio
# at three speeds. About two hours on 2 cores, 3 GB of disk.
#   recipes/mini_librispeech/run.sh --corpus-dir CORPORA/LibriSpeech --lm-dir CORPORA/lm
# --lm-dir holds lexicon.txt and a *.arpa.gz; without it, as without --corpus-dir, the official ones are downloaded.
corpus_dir="" lm_dir="" seeds="1" options="lm_dir seeds"
source "$(dirname "$0")/../lib.sh"
parse_options "$@"
build_options="--max-active 3000" tune_options="--utterances $work/data/dev_sixth"

prepare() {
  asr-kd corpus prepare librispeech "$work/data" ${corpus_dir:+--corpus-dir "$corpus_dir"} ${lm_dir:+--lm-dir "$lm_dir"}
  asr-kd corpus perturb "$work/data/train" "$work/data/speeds" --speeds 0.9,1.1 --jobs "$jobs"
  asr-kd corpus combine "$work/data/train_speeds" "$work/data/train" "$work/data/speeds"
  awk 'NR % 6 == 1 {print $1}' "$work/data/dev/text" > "$work/data/dev_sixth"   # of all dev speakers: enough to tune on
}
run_stage 0 "data directories, training audio at three speeds" "${corpus_dir:-the official release}" "$work/data" prepare

sets="train train_speeds dev test"
extract() { features mfcc; features fbank; }
run_stage 1 "features" "$work/data" "$work/feats" extract

align_all() { train_hmm --unknown spn --skip-bad; }   # 1 % of the training words have no pronunciation
run_stage 2 "GMM-HMM training, alignment" "$work/data, $work/feats/mfcc" "$work/gmm, $work/states" align_all

build_graph() { asr-kd graph compile "$work/gmm/lda" "$work/data/lm.arpa.gz" "$work/graph/lda"; }
run_stage 3 "decoding graph" "$work/data/lm.arpa.gz, $work/gmm/lda" "$work/graph" build_graph

train_networks() { for seed in $seeds; do echo "train_network tdnn $seed train_speeds tdnn"; done | side_by_side; }
run_stage 4 "network training, one for each seed" "$work/feats/fbank, $work/states" "$work/tdnn" train_networks

test_networks() { test_systems tdnn; }
run_stage 5 "networks: tuned on dev, scored on test" "$work/tdnn, $work/graph" "$work/model" test_networks

results() {
  report "mini_librispeech" \
    --remark "14 of the test speakers; 6 others are dev. The language model is the trigram of --lm-dir, not the official
      one, so the figures do not compare with other papers' (Kaldi on dev-clean-2: tri3b 18.1 %, TDNN 9.6 to 18.6 %)." \
    --table "Word error rate on test" \
    --system "TDNN-F, hard targets" $(decoded tdnn)
}
run_stage 6 "table" "$work/model" "$recipe/RESULTS.md" results
