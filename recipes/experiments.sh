# The paper's experiments as an4 and mini_librispeech make them, besides what each recipe's stages say. Sourced after
# lib.sh. Systems are folders of $work; those from 3 % of the speech are PREFIX followed by one of the keys of of_three.

declare -A of_three=(
  [hard]="labels, 3 %, early-stopped" [augmented]="labels, 3 %, augmented, early-stopped"
  [stored]="soft, 3 %, stored" [copies]="soft, 3 %, stored, of copies" [live]="soft, 3 %, live teachers")
three="hard augmented stored copies live"   # a recipe may leave some out

# train_on_three PREFIX TEACHER TARGETS [OPTION...]: the systems that hear 3 % of the speech. Their utterances are
# $work/data/three, in the set three_pool together with copies at other speeds and shifts.
train_on_three() {
  local prefix=$1 teacher="--teacher '$work/$2'" targets="--targets '$work/$3'" seed
  local alone="--utterances '$work/data/three'" each
  shift 3
  declare -A lesson=([hard]=$alone [augmented]="" [stored]="$alone $targets" [copies]=$targets [live]=$teacher)
  for seed in $seeds; do
    for each in $three; do
      echo "train_network $prefix$each $seed three_pool three_$each ${lesson[$each]} $*"
    done
  done | side_by_side
}

# train_on_own_states EPOCHS: teachers, and students from 3 %, of the states $work/own/states of an HMM of the 3 %.
train_on_own_states() {
  local seed states=own/states
  for seed in $seeds; do
    echo "train_network own/teacher $seed train_speeds teacher --set epochs=$1"
  done | side_by_side
  asr-kd model ensemble "$work/own/teacher" "$work/own/teacher"/seed*
  asr-kd targets write "$work/own/targets" --teacher "$work/own/teacher" --form dense --precision auto --jobs "$jobs" \
    --feats "$work/feats/fbank/three_pool" --states "$work/own/states/three_pool"
  train_on_three own/ own/teacher own/targets
}

# test_experiments SYSTEM...: the ensemble, its members, the systems, and those from 3 %; test_own_states: those on the
# states of the 3 %.
test_experiments() {
  test_network ensemble teacher
  (seeds=$(seq -s " " "$members") && test_systems teacher)
  test_systems "$@" $(printf 'three_%s ' $three)
}

test_own_states() {
  local each labels=() soft=() hmm=own/gmm/lda graph=own/graph states=own/states
  for each in $three; do
    case $each in hard | augmented) labels+=("own/$each") ;; *) soft+=("own/$each") ;; esac
  done
  test_systems own/teacher "${labels[@]}"
  # The labels of these 3 % lack states that the teachers know; as priors they would make these all but impossible.
  local build_options="${build_options:-} --priors $work/own/targets"
  test_systems "${soft[@]}"
}

# draw_curves and draw_temperatures: figures in $figures.
draw_curves() {
  local each series=()
  for each in $three; do series+=(--series "${of_three[$each]}" "$work/three_$each"/seed*); done
  asr-kd plot curves --output "$figures/curves.png" --title "Training on 3 % of the speech" --axis step --log \
    "${series[@]}"
}

draw_temperatures() {
  local t points=()
  for t in $temperatures; do points+=($(at "$t" "student_T$t")); done
  asr-kd plot against --output "$figures/temperature.png" --title "Students at each temperature" --log \
    --x "temperature" --series "student" "${points[@]}" \
    --level "ensemble" "$work/model/ensemble/decode_test" --level "labels" $(decoded teacher)
}

# table_1, and table_5 TITLE PREFIX TEACHER: arguments of report, added to the array $lines.
table_1() {
  local t
  lines+=(--table "Table 1: an ensemble and its students" --system "labels: teachers" $(decoded teacher)
    --system "ensemble of $members" "$work/model/ensemble/decode_test")
  for t in $temperatures; do lines+=(--system "distilled, T = $t" $(decoded "student_T$t")); done
  lines+=(--recovery "labels: teachers" "ensemble of $members" --rows "$root/recipes/paper_table1.jsonl"
    --picture "$figures/temperature.png" "Frame accuracy and WER on test against the temperature of the students.")
}

table_5() {
  local title=$1 prefix=$2 teacher=$3 each
  lines+=(--table "$title" --system "labels, 100 %" $(decoded "$teacher"))
  for each in $three; do lines+=(--system "${of_three[$each]}" $(decoded "$prefix$each")); done
  lines+=(--recovery "${of_three[augmented]}" "labels, 100 %")
}
