# The paper's experiments, shared by an4 and mini_librispeech. Sourced after lib.sh. Systems are folders in $work; the name
# of one that is trained on 3 % of the speech is PREFIX followed by a key of of_three.

# The parts of a recipe: tables 1 and 5 (tables), table 5 with an HMM of the 3 % (own), and specialists.
parts="tables own specialists"
part() { [[ " $parts " == *" $1 "* ]]; }                                          # part NAME: whether it is requested
run_part() { local left_out=; part "$1" || left_out=true; run_stage "${@:2}"; }   # run_part NAME ...: run_stage if so

declare -A of_three=(
  [hard]="labels, 3 %, early-stopped" [augmented]="labels, 3 %, augmented, early-stopped"
  [stored]="soft, 3 %, stored" [copies]="soft, 3 %, stored, of copies" [live]="soft, 3 %, live teachers")
three="hard augmented stored copies live"   # a recipe may drop some of them

# train_on_three PREFIX TEACHER TARGETS [OPTION...]: trains the systems on 3 % of the speech. $work/data/three lists its
# utterances; the set three_pool also holds copies of them at other speeds and shifts.
train_on_three() {
  local prefix=$1 teacher="--teacher '$work/$2'" targets="--targets '$work/$3'" seed
  local alone="--utterances '$work/data/three'" each
  shift 3
  declare -A options_of=([hard]=$alone [augmented]="" [stored]="$alone $targets" [copies]=$targets [live]=$teacher)
  for seed in $seeds; do
    for each in $three; do
      echo "train_network $prefix$each $seed three_pool three_$each ${options_of[$each]} $*"
    done
  done | side_by_side
}

# target_temperatures: prints the temperatures of table 1's students, and that of all others, 5, for asr-kd targets write.
target_temperatures() { tr ' ' '\n' <<< "$temperatures 5" | sort -gu | paste -sd , ; }

# train_on_own_states EPOCHS: trains teachers, and students on 3 %, on the states $work/own/states of an HMM of the 3 %.
train_on_own_states() {
  local seed states=own/states
  for seed in $seeds; do
    echo "train_network own/teacher $seed train_speeds teacher --set epochs=$1"
  done | side_by_side
  asr-kd model ensemble "$work/own/teacher" $(trained own/teacher)
  asr-kd targets write "$work/own/targets" --teacher "$work/own/teacher" --form dense --precision auto --jobs "$jobs" \
    --feats "$work/feats/fbank/three_pool" --states "$work/own/states/three_pool"
  train_on_three own/ own/teacher own/targets
}

# train_specialists SET: trains $specialists networks on SET, each for $specialist_states states that the first teacher, the
# generalist, confuses. $work/special/joint combines them all. $work/whole/joint combines specialists that keep the
# generalist's soft targets for all other states (section 6.1).
train_specialists() {
  local set=$1 general=$work/teacher/seed1 kind number
  asr-kd specialists cluster "$work/clusters" --network "$general" --feats "$work/feats/fbank/train" \
    --k "$specialists" --size "$specialist_states" --states-dir "$work/$hmm"
  for kind in special whole; do
    for ((number = 0; number < specialists; number++)); do echo "train_specialist $kind $number $set"; done
  done | side_by_side
  for kind in special whole; do
    asr-kd specialists join "$work/$kind/joint" $(seq -f "$work/$kind/%g" 0 $((specialists - 1))) --network "$general"
  done
}

# train_specialist KIND NUMBER SET: trains $work/KIND/NUMBER/net with conf/KIND.yaml.
train_specialist() {
  local folder=$work/$1/$2 general=$work/teacher/seed1 labels=$work/$states
  local kind=(--dev-states "$labels/dev") begin=(--begin "$folder/begin" --dev-states "$folder/dev")
  if [[ $1 == whole ]]; then
    kind=(--whole) begin=(--begin "$general" --teacher "$general" --dev-states "$labels/dev")
  fi
  asr-kd specialists prepare "$folder" --clusters "$work/clusters" --network "$general" --number "$2" \
    --states "$labels/$3" "${kind[@]}"
  asr-kd train --feats "$work/feats/fbank/$3" --states "$folder/states" --dev-feats "$work/feats/fbank/dev" \
    "${begin[@]}" --config "$recipe/conf/$1.yaml" --threads 1 --out "$folder/net" ${small:+${quick:-}}
}

# distil_back SET: trains students on the outputs for SET of three teachers: the generalist with its specialists, the
# generalist alone, and the ensemble of teachers, whose training cost about as much as the specialists'. The specialists
# are those that keep soft targets: on dev they add more than those with a dustbin.
distil_back() {
  local set=$1 seed each
  write_of_specialists "$set" back_joint whole/joint
  write_of_specialists "$set" back_general teacher/seed1
  write_of_specialists "$set" back_ensemble teacher
  for seed in $seeds; do
    for each in back_joint back_general back_ensemble; do
      echo "train_network $each $seed $set student --targets '$work/targets/$each'"
    done
  done | side_by_side
}

write_of_specialists() {
  asr-kd targets write "$work/targets/$2" --teacher "$work/$3" --form topk --k 20 --jobs "$jobs" --precision auto \
    --feats "$work/feats/fbank/$1" --states "$work/$states/$1"
}

test_specialists() {
  printf 'test_network %s\n' teacher/seed1 special/joint whole/joint "ensemble teacher" | side_by_side
  test_systems back_joint back_general back_ensemble
}

# test_experiments SYSTEM...: tests the ensemble, its members, the systems on 3 %, and each SYSTEM. test_own_states: tests
# the systems on states of the 3 %.
test_experiments() {
  test_network ensemble teacher
  (seeds=$(seq -s " " "$members") && test_systems teacher)
  test_systems $(printf 'three_%s ' $three) "$@"
}

test_own_states() {
  local each labels=() soft=() hmm=own/gmm/lda graph=own/graph states=own/states
  for each in $three; do
    case $each in hard | augmented) labels+=("own/$each") ;; *) soft+=("own/$each") ;; esac
  done
  test_systems own/teacher "${labels[@]}"
  # The labels of these 3 % lack states that the teachers know; priors from labels would make them nearly impossible.
  local build_options="${build_options:-} --priors $work/own/targets"
  test_systems "${soft[@]}"
}

# draw_curves and draw_temperatures: draw figures into $figures.
draw_curves() {
  local each series=()
  for each in $three; do series+=(--series "${of_three[$each]}" $(trained "three_$each")); done
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

# table_1, and table_5 TITLE PREFIX TEACHER: add arguments of report to the array $lines.
table_1() {
  local t
  lines+=(--table "Table 1: an ensemble and its students" --system "labels: teachers" $(decoded teacher)
    --system "ensemble of $members" "$work/model/ensemble/decode_test")
  for t in $temperatures; do lines+=(--system "distilled, T = $t" $(decoded "student_T$t")); done
  lines+=(--recovery "labels: teachers" "ensemble of $members" --rows "$root/recipes/paper_table1.jsonl"
    --picture "$figures/temperature.png" "Frame accuracy and WER on test against the temperature of the students.")
}

# specialist_results TITLE REMARK: reports tables 3 and 4, and distillation back into one network, in a folder of their own.
specialist_results() {
  local models=$work/model figures lines=() paper=$root/recipes
  local both="with $specialists specialists that keep soft targets (section 6.1)" alone="student of the generalist"
  figures=$(results_in specialists)
  lines+=(--table "Table 3: specialists" --system "generalist" "$models/teacher/seed1/decode_test"
    --system "with $specialists specialists" "$models/special/joint/decode_test"
    --system "$both" "$models/whole/joint/decode_test"
    --system "ensemble of $members" "$models/ensemble/decode_test"
    --rows "$paper/paper_table3.jsonl" --difference "generalist")
  gains_of_specialists special "Table 4: where specialists with a dustbin help"
  gains_of_specialists whole "Table 4: where specialists that keep soft targets help"
  lines+=(--table "Specialists distilled back into one network" --system "$alone" $(decoded back_general)
    --system "student of generalist and specialists" $(decoded back_joint)
    --system "student of the ensemble of $members" $(decoded back_ensemble)
    --system "generalist" "$models/teacher/seed1/decode_test" --system "$both" "$models/whole/joint/decode_test"
    --difference "$alone")
  report "$1" --remark "$2" --remark "Clusters: a normalised cut of the correlation matrix of the generalist's predictions;
    each cluster has the $specialist_states states most correlated with it (asr-kd specialists cluster --scale spectral
    --size). The paper's k-means on the covariance matrix (--scale none) puts nearly all states into one cluster, since a
    few frequent states lie far from all others: on AN4 489 of 500, with 11 clusters of one state." "${lines[@]}"
}

# gains_of_specialists KIND TITLE: measures the gain on test of the specialists in $work/KIND; adds its rows and picture to
# the array $lines.
gains_of_specialists() {
  local caption=${2#*: }
  asr-kd specialists compare "$work/$1/joint" --feats "$work/feats/fbank/test" --states "$work/$states/test" \
    --utt2spk "$work/data/test/utt2spk" --title "$2" --rows "$work/$1/gains.jsonl" --picture "$figures/$1.png"
  lines+=(--table "$2" --rows "$work/$1/gains.jsonl" --rows "$paper/paper_table4.jsonl"
    --picture "$figures/$1.png" "${caption^}, by the number that cover the frame's state.")
}

table_5() {
  local title=$1 prefix=$2 teacher=$3 each
  lines+=(--table "$title" --system "labels, 100 %" $(decoded "$teacher"))
  for each in $three; do lines+=(--system "${of_three[$each]}" $(decoded "$prefix$each")); done
  lines+=(--recovery "${of_three[augmented]}" "labels, 100 %")
}

# own_results TITLE TABLE REMARK: reports table 5 on the states of the 3 %, in a folder of its own.
own_results() {
  local figures lines=()
  figures=$(results_in own)
  table_5 "$2" own/ own/teacher
  report "$1" --remark "$3" "${lines[@]}" --rows "$root/recipes/paper_table5.jsonl"
}
