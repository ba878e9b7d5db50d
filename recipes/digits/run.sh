#!/usr/bin/env bash
# The built-in corpus: digit strings and commands from a speech synthesiser, with noise and reverberation; train, dev and
# test have different voices. From audio to the paper's tables 1 and 5: an ensemble teaches students of two sizes, and
# students trained on 3 % of the speech. Needs no data and no internet access. `make demo` runs --small in about 5 minutes
# on 2 cores; the whole recipe takes about half an hour.
#   recipes/digits/run.sh --hours 2 --seeds "1 2 3"
# --hours is the duration of the training set, --seeds lists the seeds of the students, --members is the number of teachers.
hours=2 seeds="1 2 3" members=4 options="hours seeds members" quickly="hours=0.5 seeds=1 members=2"
source "$(dirname "$0")/../lib.sh"
parse_options "$@"
[[ -z ${small:-} ]] || tune_options="--utterances $work/data/dev_part"

prepare() {
  asr-kd corpus prepare digits "$work/data" --hours "$hours" --jobs "$jobs"
  awk 'NR % 3 == 1 {print $1}' "$work/data/dev/text" > "$work/data/dev_part"   # the utterances on which --small tunes
  asr-kd corpus subset "$work/data/train" "$work/data/three" --fraction 0.03
  asr-kd corpus perturb "$work/data/three" "$work/data/three_copies" --jobs "$jobs" \
    --speeds 0.85,0.92,1,1.08,1.17 --shifts 0,0.5
  asr-kd corpus combine "$work/data/three_pool" "$work/data/three" "$work/data/three_copies"
}
run_stage 0 "synthesised speech; copies of 3 % of it at other speeds" "espeak-ng" "$work/data" prepare

sets="train three_pool dev test"
extract() { features mfcc; features fbank; }
run_stage 1 "features" "$work/data" "$work/feats" extract

run_stage 2 "GMM-HMM training, alignment" "$work/data, $work/feats/mfcc" "$work/gmm, $work/states" train_hmm

build_graph() {
  asr-kd lm estimate "$work/data/train" "$work/bigram.arpa" --order 2
  asr-kd graph compile "$work/gmm/lda" "$work/bigram.arpa" "$work/graph/lda"
}
run_stage 3 "language model, decoding graph" "$work/data/train, $work/gmm" "$work/graph" build_graph

teach() { train_teachers train; }
run_stage 4 "teachers, which differ only in their seed" "$work/feats/fbank, $work/states" "$work/teacher" teach

write_targets() {
  local set
  for set in train three_pool; do
    asr-kd targets write "$work/targets/$set" --teacher "$work/teacher" --feats "$work/feats/fbank/$set" \
      --states "$work/states/$set" --form topk --k 20 --temperatures 1,2,5,8 --precision auto --jobs "$jobs"
  done
}
run_stage 5 "soft targets" "$work/teacher, $work/feats/fbank" "$work/targets" write_targets

# Table 1: students of the teachers' size and of a quarter of it. Table 5: students trained on 3 % of the speech.
train_students() {
  local priors="--priors '$work/states/train'"
  for seed in $seeds; do
    echo "train_network student $seed train student --targets '$work/targets/train'"
    echo "train_network small_hard $seed train small_hard"
    echo "train_network small_soft $seed train small_student --targets '$work/targets/train'"
    echo "train_network three_hard $seed three_pool three_hard $priors"
    echo "train_network three_stored $seed three_pool three_stored $priors --targets '$work/targets/three_pool'"
    echo "train_network three_live $seed three_pool three_live $priors --teacher '$work/teacher'"
  done | side_by_side
}
run_stage 6 "students" "$work/targets" "$work/{student,small_*,three_*}" train_students

test_all() {
  printf '%s\n' "test_gmm lda" "test_network ensemble teacher" | side_by_side
  (seeds=$(seq -s " " "$members") && test_systems teacher)
  test_systems student small_hard small_soft three_hard three_stored three_live
}
run_stage 7 "all systems, tuned on dev and scored on test" "$work/*/seed*, $work/graph" "$work/model" test_all

results() {
  local figures
  figures=$(results_in)
  asr-kd plot curves --output "$figures/curves.png" --title "Training on 3 % of the speech" --axis step \
    --series "labels" $(trained three_hard) --series "soft, stored" $(trained three_stored) \
    --series "soft, live" $(trained three_live)
  report "Built-in digits" \
    --remark "$hours hours of synthesised training speech; the test voices occur in neither train nor dev. Acoustic scale,
      word penalty and beam of each system are tuned on dev with its first seed. Also tuned on dev, with one seed: the
      student's dropout (0 or 0.1) and temperature (2 or 5), and the epochs of the networks of table 1 (now 10; a first
      run with 6 for teachers and 4 for others had been scored on test: frame accuracy 79.4 % of teachers, 78.7 % of
      students). No other setting was tuned." \
    --table "Table 1: an ensemble and its students" \
    --system "GMM triphones, LDA+MLLT" "$work/model/lda/decode_test" \
    --system "labels, 3x256: teachers" $(decoded teacher) \
    --system "ensemble of $members" "$work/model/ensemble/decode_test" \
    --system "distilled, 3x256" $(decoded student) \
    --system "labels, 2x96" $(decoded small_hard) \
    --system "distilled, 2x96" $(decoded small_soft) \
    --table "Table 5: soft targets as regularisers" \
    --system "labels, 100 %" $(decoded teacher) \
    --system "labels, 3 %, augmented, early-stopped" $(decoded three_hard) \
    --system "soft, 3 %, stored" $(decoded three_stored) \
    --system "soft, 3 %, live teachers" $(decoded three_live) \
    --recovery "labels, 3 %, augmented, early-stopped" "labels, 100 %" \
    --picture "$figures/curves.png" "Learning curves of the systems trained on 3 % of the speech."
}
run_stage 8 "tables" "$work/model" "$recipe/RESULTS.md" results
