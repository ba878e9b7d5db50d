# What the recipes share: options, stages that are skipped when done, and the word error rate of a trained model.
# A recipe sets its option variables, sources this file, calls `parse_options "$@"`, then `run_stage` for each stage. One
# that has a quick form sets quickly to what its options then are: "seeds=1 members=2".
set -euo pipefail

recipe=$(cd "$(dirname "$0")" && pwd)   # recipes/NAME
root=$(cd "$recipe/../.." && pwd)
printf -v command_line ' %q' "$0" "$@"
command_line=${command_line# }
downloads=$root/data/corpora
export OMP_WAIT_POLICY=PASSIVE          # threads that spin take the cores from the other processes
[[ -x $root/.venv/bin/python ]] && PATH="$root/.venv/bin:$PATH"

stage=0 stop_stage=99 stages=0 force=false jobs=$(nproc) work=$recipe/exp

usage() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
  cat <<END
Options (with their values now):
  --stage N --stop-stage N   first and last stage ($stage, $stop_stage)
  --force                    repeat stages that are done; to begin anew, with other options or another conf/, name
                             another --work, since nothing that was made otherwise is replaced
END
  [[ ! -v quickly ]] || printf '  --small                    %s\n' \
    "a quick run that shows that all works${quickly:+, with $quickly}"
  local name
  for name in $options; do [[ ! -v $name ]] || printf '  --%-24s (%s)\n' "${name//_/-} VALUE" "${!name}"; done
}

# parse_options "$@": sets the variable of each --name VALUE; only names in $options are known.
parse_options() {
  options="corpus_dir jobs work ${options:-}"
  [[ " $* " != *" --small "* ]] || go_quickly
  while (($#)); do
    local name=${1#--}; name=${name//-/_}
    case $1 in
      --help | -h) usage; exit 0 ;;
      --force) force=true; shift; continue ;;
      --small) shift; continue ;;
      --stage | --stop-stage) ;;
      --*) [[ " $options " == *" $name "* ]] || { echo "$0: unknown option $1; see $0 --help" >&2; exit 2; } ;;
      *) echo "$0: $1 is not an option; see $0 --help" >&2; exit 2 ;;
    esac
    (($# > 1)) || { echo "$0: $1 needs a value" >&2; exit 2; }
    printf -v "$name" %s "$2"
    shift 2
  done
  [[ $work != *[[:space:]\'\"]* ]] || { echo "$0: --work $work: its name has a space or a quote; name another" >&2; exit 2; }
  mkdir -p "$work/.stages"
  chain=$(for name in $options; do [[ $name == jobs || $name == parts ]] || echo "$name=${!name:-}"; done; echo "small=${small:-}")
  started=$SECONDS
  trap finish EXIT
}

# go_quickly: what --small means. Options after it still count.
go_quickly() {
  [[ -v quickly ]] || { echo "$0: it has no --small; see $0 --help" >&2; exit 2; }
  local each
  small=true work=$recipe/exp_small
  for each in $quickly; do printf -v "${each%%=*}" %s "${each#*=}"; done
}

# run_stage N "what it does" "inputs" "outputs" FUNCTION: a stage is done when its marker holds the digest of all
# functions defined so far, the options, the configuration files and all stages before it. One that is left_out counts
# for the digests only.
run_stage() {
  local number=$1 title=$2 inputs=$3 outputs=$4 function=$5 begun=$SECONDS marker digest
  [[ -n ${left_out:-} ]] || stages=$((stages + 1))
  marker=$work/.stages/$number-$function
  chain=$({ echo "$chain $function"; declare -f; cat "$recipe"/conf/* 2>/dev/null || true; } | sha256sum)
  digest=$chain
  if [[ -n ${left_out:-} ]] || ((number < stage || number > stop_stage)); then return; fi
  if [[ $force == false && -f $marker && $(head -n 1 "$marker") == "$digest" ]]; then
    echo "== stage $number: $title: done before"
    return
  fi
  running="$number ($title)" running_number=$number
  printf '== stage %s: %s\n   from %s\n   to   %s\n' "$number" "$title" "$inputs" "$outputs"
  rm -f "$marker"
  "$function"
  printf '%s\n' "$digest" "$(commit)" > "$marker.partial" && mv "$marker.partial" "$marker"
  echo $((SECONDS - begun)) >> "$work/.seconds"   # adds up over repetitions, in which the verbs skip what is done
  running=
  echo "   $((SECONDS - begun)) s"
}

finish() {
  local status=$?
  if ((status)) && [[ -n ${running:-} ]]; then
    local again
    again=$(sed -E 's/ --(stage|force)( [0-9]+)?//g' <<< "$command_line")
    printf '\nstage %s failed with status %s. Mend what the message above says, then go on with:\n  %s --stage %s\n' \
      "$running" $status "$again" "$running_number" >&2
  elif ((status == 0)); then
    echo "== finished in $((SECONDS - started)) s"
  fi
}

asr-kd() { python -m asr_kd "$@"; }


# ---- stages that recipes share: they read $work/data/{train,dev,test} and conf/, and write below $work ----

sets="train dev test"

# features KIND: $work/feats/KIND/SET of each set, as conf/KIND.yaml says.
features() {
  local set
  for set in $sets; do
    asr-kd feats "$work/data/$set" "$work/feats/$1/$set" --config "$recipe/conf/$1.yaml" --jobs "$jobs"
  done
}

# train_hmm [OPTION...]: $work/gmm/{mono,tri,lda} from train; $work/states/SET, the state of each frame, by the last.
train_hmm() {
  local set
  asr-kd hmm train "$work/data/train" "$work/feats/mfcc/train" "$work/data/lexicon.txt" "$work/gmm" \
    --config "$recipe/conf/hmm.yaml" --jobs "$jobs" "$@"
  for set in $sets; do
    asr-kd hmm align "$work/gmm/lda" "$work/data/$set" "$work/feats/mfcc/$set" "$work/states/$set" --jobs "$jobs"
  done
}

# train_network NAME SEED SET CONFIG [OPTION...]: $work/NAME/seedN, trained by one thread on the features of SET and their
# states, as conf/CONFIG.yaml says; with --small also as the recipe's $quick says.
train_network() {
  local name=$1 seed=$2 set=$3 config=$4
  shift 4
  asr-kd train --feats "$work/feats/fbank/$set" --states "$work/$states/$set" \
    --dev-feats "$work/feats/fbank/dev" --dev-states "$work/$states/dev" --threads 1 \
    --config "$recipe/conf/$config.yaml" --seed "$seed" --out "$work/$name/seed$seed" "$@" ${small:+${quick:-}}
}

# train_teachers SET: $work/teacher, an ensemble of $members networks of the seeds 1, 2, ... in seedN, trained on SET as
# conf/teacher.yaml says.
train_teachers() {
  asr-kd train --feats "$work/feats/fbank/$1" --states "$work/states/$1" \
    --dev-feats "$work/feats/fbank/dev" --dev-states "$work/states/dev" --config "$recipe/conf/teacher.yaml" \
    --seed 1 --members "$members" --threads "$jobs" --out "$work/teacher" ${small:+${quick:-}}
}

# test_gmm SYSTEM, test_network NAME [NETWORK]: a deployable folder $work/model/NAME of $work/NETWORK (NAME), tuned on
# dev, and its words on test. NAME/seedN is tuned only where N is the first of $seeds: other seeds search as it does. A
# recipe may set $build_options and $tune_options, and the HMM's $hmm, $graph and $states below $work.
hmm=gmm/lda graph=graph/lda states=states
test_gmm() {
  asr-kd model build --gmm "$work/gmm/$1" --states-dir "$work/gmm/$1" --graph "$work/graph/$1" \
    --features "$work/feats/mfcc/train" "$work/model/$1" ${build_options:-} > /dev/null
  tune "$work/model/$1" mfcc
  test_model "$work/model/$1" mfcc
}

test_network() {
  local tested=$work/.stages/tested-${1//\//-}   # of a stage that was killed, what is done need not be repeated
  [[ $force == false && -f $tested && $(< "$tested") == "$digest" ]] && return
  local first=${1%/seed*} like=()
  [[ $first == "$1" || $1 == "$first/seed${seeds%% *}" ]] || like=(--search-like "$work/model/$first/seed${seeds%% *}")
  asr-kd model build --network "$work/${2:-$1}" --states-dir "$work/$hmm" --graph "$work/$graph" "${like[@]}" \
    --features "$work/feats/fbank/train" "$work/model/$1" ${build_options:-} > /dev/null
  [[ -n ${like[*]} ]] || tune "$work/model/$1" fbank
  test_model "$work/model/$1" fbank --states "$work/$states/test"
  echo "$digest" > "$tested.partial" && mv "$tested.partial" "$tested"
}

# side_by_side < COMMANDS: one shell command a line, $jobs of them at once; what each prints is headed by its second and
# third word. Fails where one fails, once all that run have ended.
side_by_side() {
  local line begun=0 failed=0
  while read -r line; do
    if ((begun == jobs)); then wait -n || failed=1; else begun=$((begun + 1)); fi
    ((failed == 0)) || break
    (jobs=1; eval "$line" 2>&1 | sed -u "s|^|$(cut -d ' ' -f 2-3 <<< "$line"): |") < /dev/null &
  done
  while ((begun > 0)); do begun=$((begun - 1)); wait -n || failed=1; done
  return $failed
}

# test_systems SYSTEM...: test_network of each seed of $seeds of each system, the first seeds first, which are tuned.
test_systems() {
  local first=${seeds%% *} system seed
  for system in "$@"; do echo "test_network $system/seed$first"; done | side_by_side
  for system in "$@"; do
    for seed in ${seeds#"$first"}; do echo "test_network $system/seed$seed"; done
  done | side_by_side
}

# seeds_of SYSTEM: those that it was trained with. trained SYSTEM: its networks; decoded SYSTEM: their decode folders;
# at X SYSTEM: these as points of a plot.
seeds_of() { if [[ $1 == teacher ]]; then seq "$members"; else tr ' ' '\n' <<< "$seeds"; fi; }
trained() { local seed; for seed in $(seeds_of "$1"); do echo "$work/$1/seed$seed"; done; }
decoded() { local seed; for seed in $(seeds_of "$1"); do echo "$work/model/$1/seed$seed/decode_test"; done; }
at() { local folder; for folder in $(decoded "$2"); do echo "$1=$folder"; done; }

# tune MODEL KIND: acoustic scale, word penalty and beam on dev. test_model MODEL KIND [OPTION...]: the words and error
# rate of test.
tune() {
  asr-kd decode "$1" "$work/data/dev" --tune --feats "$work/feats/$2/dev" ${tune_options:-} --jobs "$jobs" | tail -n 1
}

test_model() {
  local model=$1 kind=$2
  shift 2
  asr-kd decode "$model" "$work/data/test" --feats "$work/feats/$kind/test" --jobs "$jobs" "$@" --no-times \
    --output "$model/decode_test" > /dev/null
  asr-kd score --ref "$work/data/test" --hyp "$model/decode_test" | sed -n 1,2p
}

# results_in [FOLDER]: where tables and figures go: the recipe's folder, $work for a --small run, or FOLDER in it.
results_in() {
  local folder=$recipe
  [[ -z ${small:-} ]] || folder=$work
  folder+=${1:+/$1}
  mkdir -p "$folder" && echo "$folder"
}

# commit: this checkout's. stages_at: of lines "STAGE COMMIT", arguments of asr-kd report where one is not this checkout's.
commit() { git -C "$root" rev-parse --short HEAD 2> /dev/null || true; }
stages_at() {
  sort -n | awk -v now="$(commit)" 'NF == 2 {all[$2] = all[$2] (all[$2] ? "," : "") $1; other += $2 != now}
    END {if (other) for (each in all) print "--stages-at", each, all[each]}' | sort -nk 3
}

# report TITLE ARGUMENT...: RESULTS.md and results.json in $figures. The wall time is that of all attempts at all stages;
# it is left out where a stage was not timed in $work.
report() {
  local title=$1 seconds="" marker
  shift
  if [[ -f $work/.seconds ]] && (($(wc -l < "$work/.seconds") >= stages - 1)); then
    seconds="--seconds $(awk '{sum += $1} END {print sum + 0}' "$work/.seconds")"
  fi
  asr-kd report --title "$title" --output "${figures:-$(results_in)}" $seconds "$@" \
    $(for marker in "$work"/.stages/[0-9]*; do
        [[ -f $marker ]] && echo "$(basename "$marker" | cut -d - -f 1) $(sed -n 2p "$marker")"
      done | stages_at)
}
