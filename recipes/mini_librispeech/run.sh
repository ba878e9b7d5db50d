#!/usr/bin/env bash
# mini_librispeech: five hours of read books (train-clean-5), a vocabulary of 20,000 words, 14 test speakers.
# Of the 20 speakers of the test part, 6 are dev and 14 test. GMM systems give the states; the network sees the
# training audio at three speeds. About 90 minutes on 2 cores, 3 GB of disk.
#   recipes/mini_librispeech/run.sh --corpus-dir CORPORA/LibriSpeech --lm-dir CORPORA/lm
# --lm-dir holds a trigram (tg_small.arpa.gz) and a lexicon (lexicon.txt); without it the official ones are downloaded.
corpus_dir="" lm_dir="" seeds="1" options="lm_dir seeds"
source "$(dirname "$0")/../lib.sh"
sets="train dev test"
parse_options "$@"

prepare() {
  asr-kd corpus prepare librispeech "$work/data" ${corpus_dir:+--corpus-dir "$corpus_dir"} ${lm_dir:+--lm-dir "$lm_dir"}
  asr-kd corpus perturb "$work/data/train" "$work/data/train_speeds" --speeds 0.9,1.1 --jobs "$jobs"
  asr-kd corpus combine "$work/data/train_all" "$work/data/train" "$work/data/train_speeds"
}
run_stage 0 "data directories" "${corpus_dir:-the official release}" "$work/data" prepare
