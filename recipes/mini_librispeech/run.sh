#!/usr/bin/env bash
# mini_librispeech: five hours of read books (train-clean-5), 20,000 words; 6 speakers of test-clean form dev, the others
# test. GMM systems align the states. An ensemble of factored TDNNs teaches students of two sizes (table 1) and students
# trained on 3 % of the speech (table 5). The latter are trained again with the tree and priors of these 3 %.
# Specialists for confusable states are added to one of the teachers (tables 3 and 4), and their ensemble is distilled.
# Takes 15 GB of disk and, on 2 cores, about 5 hours for the tables and 7 more for the specialists.
#   recipes/mini_librispeech/run.sh --corpus-dir CORPORA/LibriSpeech --lm-dir CORPORA/lm
# --lm-dir holds lexicon.txt and a *.arpa.gz. Without it, or without --corpus-dir, the official files are downloaded.
# --seeds lists the seeds of the students, --members is the number of teachers, --temperatures lists those of the
# students. --parts selects experiments, separated by spaces: tables (1 and 5), own (table 5 with an HMM of the 3 %),
# specialists. --specialists is the number of specialists, --specialist-states the number of states of each.
corpus_dir="" lm_dir="" seeds="1 2 3" members=3 temperatures="1 2 5 10"
specialists=8 specialist_states=200 options="lm_dir seeds members temperatures parts specialists specialist_states"
source "$(dirname "$0")/../lib.sh"
source "$root/recipes/experiments.sh"
parse_options "$@"
three="hard augmented copies live"
build_options="--max-active 1200" tune_options="--utterances $work/data/dev_sixth"

prepare() {
  asr-kd corpus prepare librispeech "$work/data" ${corpus_dir:+--corpus-dir "$corpus_dir"} ${lm_dir:+--lm-dir "$lm_dir"} \
    --downloads "$downloads"
  awk 'NR % 6 == 1 {print $1}' "$work/data/dev/text" > "$work/data/dev_sixth"   # of all dev speakers: enough for tuning
  asr-kd corpus perturb "$work/data/train" "$work/data/speeds" --speeds 0.9,1.1 --jobs "$jobs"
  asr-kd corpus combine "$work/data/train_speeds" "$work/data/train" "$work/data/speeds"
  asr-kd corpus subset "$work/data/train" "$work/data/three" --fraction 0.03
  asr-kd corpus perturb "$work/data/three" "$work/data/three_copies" --jobs "$jobs" \
    --speeds 0.85,0.92,1,1.08,1.17 --shifts 0,0.5
  asr-kd corpus combine "$work/data/three_pool" "$work/data/three" "$work/data/three_copies"
}
run_stage 0 "data directories; copies at other speeds and shifts" "${corpus_dir:-the official release}" "$work/data" prepare

sets="train train_speeds three_pool dev test"
extract() { features mfcc; features fbank; }
run_stage 1 "features" "$work/data" "$work/feats" extract

align_all() { train_hmm --unknown spn --skip-bad; }   # 1 % of the training words have no pronunciation
run_stage 2 "GMM-HMM training, alignment" "$work/data, $work/feats/mfcc" "$work/gmm, $work/states" align_all

build_graph() { asr-kd graph compile "$work/gmm/lda" "$work/data/lm.arpa.gz" "$work/graph/lda"; }
run_stage 3 "decoding graph" "$work/data/lm.arpa.gz, $work/gmm/lda" "$work/graph" build_graph

teach() { train_teachers train_speeds; }
run_stage 4 "teachers, which differ only in their seed" "$work/feats/fbank, $work/states" "$work/teacher" teach

write_targets() {
  local shared=(--teacher "$work/teacher" --jobs "$jobs" --precision auto)
  asr-kd targets write "$work/targets/train_speeds" "${shared[@]}" --form topk --k 20 --temperatures "$(target_temperatures)" \
    --feats "$work/feats/fbank/train_speeds" --states "$work/states/train_speeds"
  asr-kd targets write "$work/targets/three_pool" "${shared[@]}" --form dense \
    --feats "$work/feats/fbank/three_pool" --states "$work/states/three_pool"
}
run_part tables 5 "soft targets" "$work/teacher, $work/feats/fbank" "$work/targets" write_targets

# Table 1: students of the teachers' size at each temperature, and of less than a quarter of it.
train_students() {
  local seed t
  for seed in $seeds; do
    for t in $temperatures; do
      echo "train_network student_T$t $seed train_speeds student --targets '$work/targets/train_speeds' --set temperature=$t"
    done
    echo "train_network small_hard $seed train_speeds small_hard"
    echo "train_network small_soft $seed train_speeds small_student --targets '$work/targets/train_speeds'"
  done | side_by_side
}
run_part tables 6 "students of two sizes" "$work/targets" "$work/student_T*, $work/small_*" train_students

# Table 5: students trained on 3 % of the speech; the remaining speech gives only the state priors.
students_of_three() { train_on_three three_ teacher targets/three_pool --priors "'$work/states/train'"; }
run_part tables 7 "students of 3 %" "$work/targets, $work/feats/fbank/three_pool" "$work/three_*" students_of_three

# Every system decodes test with the scale, penalty and beam of its first seed, which is tuned on dev.
test_networks() { test_experiments $(printf 'student_T%s ' $temperatures) small_hard small_soft; }
run_part tables 8 "networks, tuned on dev and scored on test" "$work/*/seed*" "$work/model" test_networks

results() {
  local figures lines=()
  figures=$(results_in)
  draw_curves
  draw_temperatures
  table_1
  lines+=(--table "A student of less than a quarter of the size"
    --system "labels" $(decoded small_hard)
    --system "distilled, T = 5" $(decoded small_soft))
  table_5 "Table 5: soft targets as regularisers" three_ teacher
  lines+=(--rows "$root/recipes/paper_table5.jsonl"
    --picture "$figures/curves.png" "Learning curves of the systems trained on 3 % of the speech.")
  report "mini_librispeech" \
    --remark "14 test speakers; 6 others of test-clean form dev. The language model is the trigram of --lm-dir,
      not the official one, so these WERs cannot be compared with published ones (Kaldi on dev-clean-2: tri3b 18.1 %,
      TDNN 9.6 to 18.6 %)." \
    --remark "Acoustic scale, word penalty and beam of each system are tuned on dev with its first seed. The networks'
      settings were chosen on AN4's dev speakers; their sizes and epochs were set by hand for this corpus: 5 epochs for
      teachers, 3 for all other networks trained on all speech." \
    "${lines[@]}"
}
run_part tables 9 "tables and figures" "$work/model" "$recipe/RESULTS.md" results

# Table 5 again, with states, tree, priors and normalisation from the 3 % too (the language model is of other books).
own_hmm() {
  local set own=$work/own
  asr-kd feats "$work/data/three" "$work/feats/mfcc/three" --config "$recipe/conf/mfcc.yaml"
  asr-kd hmm train "$work/data/three" "$work/feats/mfcc/three" "$work/data/lexicon.txt" "$own/gmm" \
    --config "$recipe/conf/own_hmm.yaml" --jobs "$jobs" --unknown spn --skip-bad
  for set in train_speeds three_pool dev test; do
    asr-kd hmm align "$own/gmm/lda" "$work/data/$set" "$work/feats/mfcc/$set" "$own/states/$set" --jobs "$jobs"
  done
  asr-kd graph compile "$own/gmm/lda" "$work/data/lm.arpa.gz" "$own/graph"
}
run_part own 10 "HMM of the 3 %" "$work/data/three" "$work/own" own_hmm

own_students() { train_on_own_states 2; }
run_part own 11 "teachers and students on these states" "$work/own/states" "$work/own" own_students

run_part own 12 "networks on these states, tuned on dev and scored on test" "$work/own/*/seed*" "$work/model/own" test_own_states

own_tables() {
  own_results "mini_librispeech: HMM of the 3 %" "Table 5 with tree and priors of the 3 %" "14 test speakers; the
    language model is of other books. Acoustic scale, word penalty and beam are tuned on dev; all other settings are those
    of the main tables."
}
run_part own 13 "table on these states" "$work/model/own" "$recipe/own" own_tables

# The specialists have 8 epochs in total, the ensemble's other teachers 10.
specialise() { train_specialists train_speeds; distil_back train_speeds; }
run_part specialists 14 "specialists, and students of their outputs" "$work/teacher, $work/feats/fbank" "$work/special" specialise
run_part specialists 15 "specialists, tuned on dev and scored on test" "$work/special, $work/whole" "$work/model" test_specialists

specialist_tables() {
  specialist_results "mini_librispeech: specialists" "Acoustic scale, word penalty and beam of each system are
    tuned on dev; the specialists' settings were chosen on AN4's dev speakers."
}
run_part specialists 16 "tables of specialists" "$work/model" "$recipe/specialists" specialist_tables
