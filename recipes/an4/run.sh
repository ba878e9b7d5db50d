#!/usr/bin/env bash
# AN4 (CMU "census", 42 minutes of spelled words and numbers): from audio to the paper's tables, with word error rates.
# GMM systems align the states. An ensemble of networks teaches students of two sizes (table 1) and students trained on
# 3 % of the speech (table 5). The latter are trained again with the language model, tree and priors of these 3 %.
# Specialists for confusable states are added to one of the teachers (tables 3 and 4), and their ensemble is distilled.
# Takes 2 GB of disk and, on 2 cores, four hours for the tables and three more for the specialists.
#   recipes/an4/run.sh --corpus-dir CORPORA/an4     (without --corpus-dir, the official release is downloaded)
# --seeds lists the seeds of the students, --members is the number of teachers, --temperatures lists those of the
# students. --speeds lists the speeds of the copies of all speech; --copies holds the options of corpus perturb for the
# copies of the 3 %. --fractions adds points to table 5: PERCENT:EPOCHS:TRAINING_SET. --parts selects experiments,
# separated by spaces: tables (1 and 5), own (table 5 with an HMM and a language model of the 3 %), specialists.
# --specialists is the number of specialists, --specialist-states the number of states of each.
corpus_dir="" seeds="1 2 3" members=4 temperatures="1 2 5 10" speeds=0.85,0.92,1.08,1.15
copies="--speeds 0.8,0.85,0.9,0.95,1,1.05,1.1,1.17,1.25 --shifts 0,0.25,0.5,0.75"   # of the 3 %
specialists=12 specialist_states=80
options="seeds members temperatures speeds copies fractions parts specialists specialist_states"
fractions="1:40:three_pool 10:30:train_speeds 30:14:train_speeds"   # besides 3 and 100: percent, epochs, training set
quick="--set epochs=2 --set evaluate_epochs=1" quickly="seeds=1 members=2 temperatures=5 fractions= speeds=1.1 specialists=2"
source "$(dirname "$0")/../lib.sh"
source "$root/recipes/experiments.sh"
parse_options "$@"
if [[ -n ${small:-} ]]; then
  copies="--speeds 0.9,1.1 --shifts 0.5" three="augmented copies live" tune_options="--utterances $work/data/dev_part"
fi

prepare() {
  asr-kd corpus prepare an4 "$work/data" ${corpus_dir:+--corpus-dir "$corpus_dir"} --downloads "$downloads"
  if [[ -n ${small:-} ]]; then   # a quarter of each part, and fewer utterances for tuning
    local set
    for set in train dev test; do
      rm -rf "$work/data/whole" && mv "$work/data/$set" "$work/data/whole"
      asr-kd corpus subset "$work/data/whole" "$work/data/$set" --fraction 0.25
    done
    awk 'NR % 3 == 1 {print $1}' "$work/data/dev/text" > "$work/data/dev_part"
  fi
  asr-kd corpus perturb "$work/data/train" "$work/data/speeds" --speeds "$speeds" --jobs "$jobs"
  asr-kd corpus combine "$work/data/train_speeds" "$work/data/train" "$work/data/speeds"
  asr-kd corpus subset "$work/data/train" "$work/data/three" --fraction 0.03
  asr-kd corpus perturb "$work/data/three" "$work/data/three_copies" --jobs "$jobs" $copies
  asr-kd corpus combine "$work/data/three_pool" "$work/data/three" "$work/data/three_copies"
}
run_stage 0 "data directories; copies at other speeds and shifts" "${corpus_dir:-the official release}" "$work/data" prepare

sets="train train_speeds three_pool dev test"
extract() { features mfcc; features fbank; }
run_stage 1 "features" "$work/data" "$work/feats" extract

run_stage 2 "GMM-HMM training, alignment" "$work/data, $work/feats/mfcc" "$work/gmm, $work/states" train_hmm

build_graphs() {   # from the training transcripts; the dev perplexity of a trigram is 15.0, of a bigram 18.3
  asr-kd lm estimate "$work/data/train" "$work/trigram.arpa" --order 3
  for system in mono tri lda; do
    asr-kd graph compile "$work/gmm/$system" "$work/trigram.arpa" "$work/graph/$system"
  done
}
run_stage 3 "language model, decoding graphs" "$work/data/train, $work/gmm" "$work/graph" build_graphs

test_gmms() { for system in mono tri lda; do test_gmm "$system"; done; }
run_stage 4 "GMM systems, tuned on dev and scored on test" "$work/gmm, $work/graph" "$work/model" test_gmms

teach() { train_teachers train_speeds; }
run_stage 5 "teachers, which differ only in their seed" "$work/feats/fbank, $work/states" "$work/teacher" teach

write_targets() {
  local shared=(--teacher "$work/teacher" --jobs "$jobs" --precision auto)
  local speeds=(--feats "$work/feats/fbank/train_speeds" --states "$work/states/train_speeds")
  asr-kd targets write "$work/targets/top20" "${shared[@]}" "${speeds[@]}" --form topk --k 20 \
    --temperatures "$(target_temperatures)"
  asr-kd targets write "$work/targets/train_speeds" "${shared[@]}" "${speeds[@]}" --form dense
  asr-kd targets write "$work/targets/sampled" "${shared[@]}" "${speeds[@]}" --form sampled --k 12 --temperatures 2
  asr-kd targets write "$work/targets/three_pool" "${shared[@]}" --form dense \
    --feats "$work/feats/fbank/three_pool" --states "$work/states/three_pool"
}
run_part tables 6 "soft targets" "$work/teacher, $work/feats/fbank" "$work/targets" write_targets

# Table 1: students of the teachers' size at each temperature, and of a quarter of it from each form of targets.
train_students() {
  for seed in $seeds; do
    for t in $temperatures; do
      echo "train_network student_T$t $seed train_speeds student --targets '$work/targets/top20' --set temperature=$t"
    done
    echo "train_network small_hard $seed train_speeds small_hard"
    echo "train_network small_top20 $seed train_speeds small_student --targets '$work/targets/top20'"
    echo "train_network small_dense $seed train_speeds small_student --targets '$work/targets/train_speeds'"
    echo "train_network small_sampled $seed train_speeds small_student --targets '$work/targets/sampled' --set temperature=2"
  done | side_by_side
}
run_part tables 7 "students of two sizes" "$work/targets" "$work/student_T*, $work/small*" train_students

# Table 5: students trained on 3 % of the speech; the remaining speech gives only the state priors.
students_of_three() { train_on_three three_ teacher targets/three_pool --priors "'$work/states/train'"; }
run_part tables 8 "students of 3 %" "$work/targets, $work/feats/fbank/three_pool" "$work/three_*" students_of_three

# Two of these systems, on labels and on stored targets of copies, at other fractions.
train_fractions() {
  local each percent epochs set seed list options
  for each in $fractions; do
    IFS=: read -r percent epochs set <<< "$each"
    list=$work/data/list$percent
    asr-kd corpus subset "$work/data/train" "$work/data/percent$percent" --fraction "${percent}e-2" >&2
    awk 'NR == FNR {chosen[$1]; next} {id = $1; sub(/^(sp[0-9.]+-)?(sh[0-9.]+-)?/, "", id)} id in chosen {print $1}' \
      "$work/data/percent$percent/utt2spk" "$work/data/$set/utt2spk" > "$list"
    options="--utterances '$list' --priors '$work/states/train' --set epochs=$epochs"
    for seed in $seeds; do
      echo "train_network hard_$percent $seed $set three_augmented $options"
      echo "train_network soft_$percent $seed $set three_copies $options --targets '$work/targets/$set'"
    done
  done > "$work/fractions"
  side_by_side < "$work/fractions"
}
run_part tables 9 "hard and soft targets at other fractions" "$work/targets" "$work/hard_*, $work/soft_*" train_fractions

# Every system decodes test with the scale, penalty and beam of its first seed, which is tuned on dev.
test_networks() {
  local t each systems=()
  for t in $temperatures; do systems+=("student_T$t"); done
  for each in $fractions; do systems+=("hard_${each%%:*}" "soft_${each%%:*}"); done
  test_experiments "${systems[@]}" small_hard small_top20 small_dense small_sampled
}
run_part tables 10 "networks, tuned on dev and scored on test" "$work/*/seed*" "$work/model" test_networks

draw() {
  local each percent hard=() soft=() whole=()
  draw_curves
  draw_temperatures
  for each in $fractions; do
    percent=${each%%:*}
    hard+=($(at $percent hard_$percent)) soft+=($(at $percent soft_$percent))
  done
  [[ " $temperatures " != *" 5 "* ]] || whole=($(at 100 student_T5))
  asr-kd plot against --output "$figures/fraction.png" --title "Labels and soft targets" --log \
    --x "percent of the training speech" \
    --series "labels" "${hard[@]}" $(at 3 three_augmented) $(at 100 teacher) \
    --series "soft targets" "${soft[@]}" $(at 3 three_copies) "${whole[@]}" \
    --level "ensemble" "$work/model/ensemble/decode_test"
  asr-kd plot against --output "$figures/bytes.png" --title "Forms of soft targets, small student" --log \
    --x "bytes per frame" --series "soft targets" $(at 48 small_sampled) $(at 88 small_top20) $(at 1000 small_dense) \
    --level "labels" $(decoded small_hard)
}

results() {
  local figures lines=()
  figures=$(results_in)
  draw
  table_1
  lines+=(--table "Forms of soft targets, and a student of a quarter of the size"
    --system "labels" $(decoded small_hard)
    --system "distilled, top 20 (88 bytes per frame)" $(decoded small_top20)
    --system "distilled, dense (1000 bytes)" $(decoded small_dense)
    --system "distilled, 12 sampled at T = 2 (48 bytes)" $(decoded small_sampled)
    --picture "$figures/bytes.png" "Frame accuracy and WER on test against the bytes per frame of the targets.")
  table_5 "Table 5: soft targets as regularisers" three_ teacher
  lines+=(--rows "$root/recipes/paper_table5.jsonl"
    --picture "$figures/curves.png" "Learning curves: networks on labels overfit, students on soft targets do not."
    --picture "$figures/fraction.png" "Frame accuracy and WER on test against the fraction of the training speech used.")
  report "AN4" \
    --remark "130 test utterances of 10 speakers, 773 words: one word is 0.13 %, so frame accuracy is more informative than
      WER. The language model is a trigram of the training transcripts; dev (8 speakers) is taken from the official
      training part. Reference WERs: Kaldi's egs/an4 10.6 % (monophones), 9.1 % (tri3, speaker-independent pass);
      PocketSphinx 9.3 % (with a bigram)." \
    --remark "Everything was tuned on dev: acoustic scale, word penalty and beam of each system with its first seed; the
      order of the language model by its perplexity; the teachers' architecture, size, dropout and masks among eleven
      settings (4x512 networks on windows of 26 frames reached 64 % frame accuracy on dev); dropout, batch and epochs of
      the small network on labels among ten settings; temperature, weight, batch and epochs among eight for the small
      students, among eight for the 3 % systems on labels, and among nine for the students of live teachers (many of
      them with 4x512 networks). The sizes
      of the GMMs are defaults, kept after an early system of these sizes had been scored on test (7.6 %)." \
    "${lines[@]}" \
    --table "Gaussian mixtures" \
    --system "monophones" "$work/model/mono/decode_test" \
    --system "triphones" "$work/model/tri/decode_test" \
    --system "triphones, LDA+MLLT" "$work/model/lda/decode_test"
}
run_part tables 11 "tables and figures" "$work/model" "$recipe/RESULTS.md" results

# Table 5 again, with nothing from the other 97 % except the teachers' outputs on these 3 %: states, tree, language model,
# priors and normalisation also come from the 3 %. The teachers are trained on the states that this HMM aligns.
own_hmm() {
  local set own=$work/own
  asr-kd feats "$work/data/three" "$work/feats/mfcc/three" --config "$recipe/conf/mfcc.yaml"
  asr-kd hmm train "$work/data/three" "$work/feats/mfcc/three" "$work/data/lexicon.txt" "$own/gmm" \
    --config "$recipe/conf/own_hmm.yaml" --jobs "$jobs"
  for set in train_speeds three_pool dev test; do
    asr-kd hmm align "$own/gmm/lda" "$work/data/$set" "$work/feats/mfcc/$set" "$own/states/$set" --jobs "$jobs"
  done
  asr-kd lm estimate "$work/data/three" "$own/bigram.arpa" --order 2 --vocabulary "$work/data/lexicon.txt"
  asr-kd graph compile "$own/gmm/lda" "$own/bigram.arpa" "$own/graph"
}
run_part own 12 "HMM and language model of the 3 %" "$work/data/three" "$work/own" own_hmm

own_students() { train_on_own_states 6; }
run_part own 13 "teachers and students on these states" "$work/own/states" "$work/own" own_students

run_part own 14 "networks on these states, tuned on dev and scored on test" "$work/own/*/seed*" "$work/model/own" test_own_states

own_tables() {
  own_results "AN4: HMM of the 3 %" \
    "Table 5 with tree, language model and priors of the 3 % (160 states, bigram of 25 sentences)" \
    "130 test utterances of 10 speakers, 773 words. Acoustic scale, word penalty and beam are tuned on dev; all other
      settings are those of the main tables."
}
run_part own 15 "table on these states" "$work/model/own" "$recipe/own" own_tables

# The specialists have as many epochs in total as the ensemble's other teachers.
specialise() { train_specialists train_speeds; distil_back train_speeds; }
run_part specialists 16 "specialists, and students of their outputs" "$work/teacher, $work/feats/fbank" "$work/special" specialise
run_part specialists 17 "specialists, tuned on dev and scored on test" "$work/special, $work/whole" "$work/model" test_specialists

specialist_tables() {
  specialist_results "AN4: specialists" "Everything was tuned on dev: acoustic scale, word penalty and beam of each system;
    the specialists' learning rate (0.0005 or 0.003, with one or four specialists); the kind that is distilled back."
}
run_part specialists 18 "tables of specialists" "$work/model" "$recipe/specialists" specialist_tables
