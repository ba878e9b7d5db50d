#!/usr/bin/env bash
# mini_librispeech: five hours of read books (train-clean-5), 20,000 words, 14 test speakers. Of the 20 speakers of the
# test part 6 are dev and 14 test. GMM systems give the states; an ensemble of factored TDNNs teaches students of two
# sizes (table 1), and students that hear 3 % of the speech (table 5), a second time with tree and priors from these
# 3 % as well. About five hours on 2 cores, 15 GB of disk.
#   recipes/mini_librispeech/run.sh --corpus-dir CORPORA/LibriSpeech --lm-dir CORPORA/lm
# --lm-dir holds lexicon.txt and a *.arpa.gz; without it, as without --corpus-dir, the official ones are downloaded.
corpus_dir="" lm_dir="" seeds="1 2 3" members=3 temperatures="1 2 5 10" options="lm_dir seeds members temperatures"
source "$(dirname "$0")/../lib.sh"
parse_options "$@"
build_options="--max-active 3000" tune_options="--utterances $work/data/dev_sixth"

prepare() {
  asr-kd corpus prepare librispeech "$work/data" ${corpus_dir:+--corpus-dir "$corpus_dir"} ${lm_dir:+--lm-dir "$lm_dir"}
  awk 'NR % 6 == 1 {print $1}' "$work/data/dev/text" > "$work/data/dev_sixth"   # of all dev speakers: enough to tune on
  asr-kd corpus perturb "$work/data/train" "$work/data/speeds" --speeds 0.9,1.1 --jobs "$jobs"
  asr-kd corpus combine "$work/data/train_speeds" "$work/data/train" "$work/data/speeds"
  asr-kd corpus subset "$work/data/train" "$work/data/three" --fraction 0.03
  asr-kd corpus perturb "$work/data/three" "$work/data/three_copies" --jobs "$jobs" \
    --speeds 0.85,0.92,1,1.08,1.17 --shifts 0,0.5
  asr-kd corpus combine "$work/data/three_pool" "$work/data/three" "$work/data/three_copies"
}
run_stage 0 "data directories; audio at other speeds and shifts" "${corpus_dir:-the official release}" "$work/data" prepare

sets="train train_speeds three_pool dev test"
extract() { features mfcc; features fbank; }
run_stage 1 "features" "$work/data" "$work/feats" extract

align_all() { train_hmm --unknown spn --skip-bad; }   # 1 % of the training words have no pronunciation
run_stage 2 "GMM-HMM training, alignment" "$work/data, $work/feats/mfcc" "$work/gmm, $work/states" align_all

build_graph() { asr-kd graph compile "$work/gmm/lda" "$work/data/lm.arpa.gz" "$work/graph/lda"; }
run_stage 3 "decoding graph" "$work/data/lm.arpa.gz, $work/gmm/lda" "$work/graph" build_graph

teach() { train_teachers train_speeds; }
run_stage 4 "teachers, which differ in their seed" "$work/feats/fbank, $work/states" "$work/teacher" teach

write_targets() {
  local shared=(--teacher "$work/teacher" --jobs "$jobs" --precision bf16)
  asr-kd targets write "$work/targets/train_speeds" "${shared[@]}" --form topk --k 20 --temperatures 1,2,5,10 \
    --feats "$work/feats/fbank/train_speeds" --states "$work/states/train_speeds"
  asr-kd targets write "$work/targets/three_pool" "${shared[@]}" --form dense \
    --feats "$work/feats/fbank/three_pool" --states "$work/states/three_pool"
}
run_stage 5 "soft targets" "$work/teacher, $work/feats/fbank" "$work/targets" write_targets

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
run_stage 6 "students of two sizes" "$work/targets" "$work/student_T*, $work/small_*" train_students

# Table 5: students that hear 3 % of the speech.
train_on_three() {
  local seed priors="--priors '$work/states/train'"
  for seed in $seeds; do
    echo "train_network three_hard $seed train three_hard --utterances '$work/data/three' $priors"
    echo "train_network three_augmented $seed three_pool three_augmented $priors"
    echo "train_network three_stored $seed three_pool three_stored --utterances '$work/data/three' $priors" \
      "--targets '$work/targets/three_pool'"
    echo "train_network three_copies $seed three_pool three_copies $priors --targets '$work/targets/three_pool'"
    echo "train_network three_live $seed three_pool three_live $priors --teacher '$work/teacher'"
  done | side_by_side
}
run_stage 7 "students from 3 %" "$work/targets, $work/feats/fbank/three_pool" "$work/three_*" train_on_three

# Table 5 once more: states, tree, priors and normalisation come from the 3 % too (the language model is of other books).
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
run_stage 8 "HMM of the 3 %" "$work/data/three" "$work/own" own_hmm

own_students() {
  local seed states=own/states
  for seed in $seeds; do echo "train_network own/teacher $seed train_speeds teacher --set epochs=2"; done | side_by_side
  asr-kd model ensemble "$work/own/teacher" "$work/own/teacher"/seed*
  for seed in $seeds; do
    echo "train_network own/hard $seed three_pool three_hard --utterances '$work/data/three'"
    echo "train_network own/augmented $seed three_pool three_augmented"
    echo "train_network own/live $seed three_pool three_live --teacher '$work/own/teacher'"
  done | side_by_side
}
run_stage 9 "teachers and students on these states" "$work/own/states" "$work/own" own_students

# Every system decodes test, with the scale, penalty and beam that its first seed's tuning on dev found.
systems=""
for t in $temperatures; do systems+=" student_T$t"; done
systems+=" small_hard small_soft three_hard three_augmented three_stored three_copies three_live"

test_networks() {
  test_network ensemble teacher
  (seeds=$(seq -s " " "$members") && test_systems teacher)
  test_systems $systems
  local hmm=own/gmm/lda graph=own/graph states=own/states
  test_systems own/teacher own/hard own/augmented own/live
}
run_stage 10 "networks: tuned on dev, scored on test" "$work/*/seed*" "$work/model" test_networks

draw() {
  local t by_temperature=()
  asr-kd plot curves --output "$recipe/curves.png" --title "Training on 3 % of the speech" --axis step --log \
    --series "hard" "$work"/three_hard/seed* --series "hard, augmented" "$work"/three_augmented/seed* \
    --series "soft, stored" "$work"/three_stored/seed* --series "soft, live" "$work"/three_live/seed*
  for t in $temperatures; do by_temperature+=($(at "$t" "student_T$t")); done
  asr-kd plot against --output "$recipe/temperature.png" --title "Students at each temperature" --log \
    --x "temperature" --series "student" "${by_temperature[@]}" \
    --level "ensemble" "$work/model/ensemble/decode_test" --level "labels" $(decoded teacher)
}

results() {
  local temperature_lines=() t
  draw
  for t in $temperatures; do temperature_lines+=(--system "distilled, T = $t" $(decoded "student_T$t")); done
  report "mini_librispeech" \
    --remark "14 of the test speakers; 6 others are dev. The language model is the trigram of --lm-dir, not the official
      one, so the figures do not compare with other papers' (Kaldi on dev-clean-2: tri3b 18.1 %, TDNN 9.6 to 18.6 %)." \
    --remark "Tuning, all of it on dev: scale, penalty and beam of each system with its first seed; the networks' settings
      are those that AN4's dev speakers chose, with epochs and sizes for this corpus set by hand, the same for labels and
      soft targets of a size." \
    --table "Table 1: an ensemble and its students" \
    --system "labels: teachers" $(decoded teacher) \
    --system "ensemble of $members" "$work/model/ensemble/decode_test" \
    "${temperature_lines[@]}" \
    --recovery "labels: teachers" "ensemble of $members" \
    --rows "$recipe/conf/paper_table1.jsonl" \
    --picture "$recipe/temperature.png" "Frame accuracy and WER on test against the temperature of the students." \
    --table "A student of less than a quarter of the size" \
    --system "labels, small" $(decoded small_hard) \
    --system "distilled, small, T = 2" $(decoded small_soft) \
    --table "Table 5: soft targets as regularisers" \
    --system "labels, 100 %" $(decoded teacher) \
    --system "labels, 3 %, early-stopped" $(decoded three_hard) \
    --system "labels, 3 %, augmented, early-stopped" $(decoded three_augmented) \
    --system "soft, 3 %, stored" $(decoded three_stored) \
    --system "soft, 3 %, stored, of 10 copies" $(decoded three_copies) \
    --system "soft, 3 %, live teachers" $(decoded three_live) \
    --recovery "labels, 3 %, augmented, early-stopped" "labels, 100 %" \
    --rows "$recipe/conf/paper_table5.jsonl" \
    --picture "$recipe/curves.png" "Learning curves: labels turn over, soft targets do not." \
    --table "Table 5 with tree and priors of the 3 %" \
    --system "labels, 100 %" $(decoded own/teacher) \
    --system "labels, 3 %, early-stopped" $(decoded own/hard) \
    --system "labels, 3 %, augmented, early-stopped" $(decoded own/augmented) \
    --system "soft, 3 %, live teachers" $(decoded own/live) \
    --recovery "labels, 3 %, augmented, early-stopped" "labels, 100 %"
}
run_stage 11 "tables and figures" "$work/model" "$recipe/RESULTS.md" results
