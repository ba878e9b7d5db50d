# Shared by all recipes: options, stages that are skipped once done, and steps such as training and scoring a model.
# A recipe sets its option variables, sources this file, calls `parse_options "$@"`, then `run_stage` for each stage. If
# it has a quick form (--small), it sets `quickly` to the values of its options in that form: "seeds=1 members=2".
# Supported: Linux with bash 4.4 or later and GNU coreutils, sed and awk.
set -euo pipefail
export LC_ALL=C   # a point in decimal numbers, and the same sort order, whatever the user's locale

# check_system MAJOR MINOR TOOL...: fails, with the reason, if this bash or one of the tools will not do.
check_system() {
  local tool
  if (($1 * 100 + $2 < 404)); then
    echo "$0: bash $1.$2 is too old: recipes need Linux and bash 4.4 or later" >&2
    return 1
  fi
  for tool in "${@:3}"; do
    command -v "$tool" > /dev/null && continue
    echo "$0: the command $tool was not found; recipes need Linux with GNU tools, and python with asr_kd" >&2
    return 1
  done
  if ! sed -u p < /dev/null > /dev/null 2>&1; then
    echo "$0: this sed has no option -u; recipes need GNU sed" >&2
    return 1
  fi
}

recipe=$(cd "$(dirname "$0")" && pwd)   # recipes/NAME
root=$(cd "$recipe/../.." && pwd)
[[ ! -x $root/.venv/bin/python ]] || PATH="$root/.venv/bin:$PATH"
check_system "${BASH_VERSINFO[@]:0:2}" python nproc sha256sum awk sed seq sort || exit 1
printf -v command_line ' %q' "$0" "$@"
command_line=${command_line# }
downloads=$root/data/corpora
export OMP_WAIT_POLICY=PASSIVE          # waiting threads sleep: spinning ones would take cores from other processes

stage=0 stop_stage=99 stages=0 force=false jobs=$(nproc) work=$recipe/exp

usage() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
  cat <<END
Options (current values in parentheses; --work: folder for all outputs; --jobs: processes at a time):
  --stage N --stop-stage N   first and last stage to run ($stage, $stop_stage); a stage prints its number and title when it starts
  --force                    repeat stages that are done. Outputs made with other settings are never overwritten: after
                             a change of options or of conf/, give another --work
END
  [[ ! -v quickly ]] || printf '  --small                    %s\n' \
    "a quick run that checks that everything works${quickly:+, with $quickly}"
  local name
  for name in $options; do [[ ! -v $name ]] || printf '  --%-24s (%s)\n' "${name//_/-} VALUE" "${!name}"; done
}

# parse_options "$@": sets the variable of each --name VALUE; the known names are those in $options. Values are inserted
# into commands, so check_value refuses special characters of the shell; paths of corpora are quoted and may have them.
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
    check_value "$1" "$2"
    printf -v "$name" %s "$2"
    shift 2
  done
  check_value --work "$work"
  mkdir -p "$work/.stages"
  chain=$(
    for name in $options; do [[ $name == jobs || $name == parts ]] || echo "$name=${!name:-}"; done
    echo "small=${small:-}"
  )
  started=$SECONDS
  trap finish EXIT
}

check_value() {
  local special='[][[:space:][:cntrl:]\"'\''*?&|;<>()$`]'
  case $1 in
    --work | --exp-dir | --large-dir)
      [[ $2 =~ $special ]] || return 0
      echo "$0: $1 $2: the path has a space or a special character; choose another folder" >&2 ;;
    --*-dir) return 0 ;;   # corpora: their paths are always quoted
    --parts)
      local each
      for each in $2; do
        [[ " $parts " == *" $each "* ]] || { echo "$0: --parts $2: expected some of: $parts" >&2; exit 2; }
      done
      return 0 ;;
    --stage | --stop-stage | --jobs | --members | --specialists | --specialist-states)
      local least=1
      [[ $1 != --*stage ]] || least=0
      [[ ! $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] || (($2 < least)) || return 0
      echo "$0: $1 $2: expected a whole number from $least" >&2 ;;
    *)
      [[ ! $2 =~ ^[A-Za-z0-9\ ,.:_+-]*$ ]] || return 0
      echo "$0: $1 $2: expected letters, digits, spaces and , . : _ + - only" >&2 ;;
  esac
  exit 2
}

# go_quickly: apply --small. Options after it override its values.
go_quickly() {
  [[ -v quickly ]] || { echo "$0: this recipe has no --small; see $0 --help" >&2; exit 2; }
  local each
  small=true work=$recipe/exp_small
  for each in $quickly; do printf -v "${each%%=*}" %s "${each#*=}"; done
}

# run_stage N "what it does" "inputs" "outputs" FUNCTION: runs the stage unless it is done. A stage is done when its
# marker holds the digest of all functions defined so far, the options, the configuration files and all earlier stages.
# With left_out set, the stage does not run and only enters the digests of later ones.
run_stage() {
  local number=$1 title=$2 inputs=$3 outputs=$4 function=$5 begun=$SECONDS marker digest
  [[ -n ${left_out:-} ]] || stages=$((stages + 1))
  marker=$work/.stages/$number-$function
  chain=$({ echo "$chain $function"; declare -f; cat "$recipe"/conf/* 2>/dev/null || true; } | sha256sum)
  digest=$chain
  if [[ -n ${left_out:-} ]] || ((number < stage || number > stop_stage)); then return; fi
  if [[ $force == false && -f $marker && $(head -n 1 "$marker") == "$digest" ]]; then
    echo "== stage $number: $title: already done"
    return
  fi
  running="$number ($title)" running_number=$number
  printf '== stage %s: %s\n   from %s\n   to   %s\n' "$number" "$title" "$inputs" "$outputs"
  rm -f "$marker"
  "$function"
  printf '%s\n' "$digest" "$(commit)" > "$marker.partial" && mv "$marker.partial" "$marker"
  echo $((SECONDS - begun)) >> "$work/.seconds"   # summed over all attempts: a repetition skips what is already there
  running=
  echo "   $((SECONDS - begun)) s"
}

finish() {
  local status=$?
  if ((status)) && [[ -n ${running:-} ]]; then
    local again advice="failed with status $status. Fix the error above, then resume with:"
    ((status != 130 && status != 143)) || advice="was interrupted. Resume with:"
    again=$(sed -E 's/ --(stage|force)( [0-9]+)?//g' <<< "$command_line")
    printf '\nstage %s %s\n  %s --stage %s\n' "$running" "$advice" "$again" "$running_number" >&2
  elif ((status == 0)); then
    echo "== finished in $((SECONDS - started)) s"
  fi
}

asr-kd() { python -m asr_kd "$@"; }


# ---- Steps that recipes share. They read $work/data/{train,dev,test} and conf/, and write below $work. ----

sets="train dev test"

# features KIND: extracts $work/feats/KIND/SET of each set with conf/KIND.yaml.
features() {
  local set
  for set in $sets; do
    asr-kd feats "$work/data/$set" "$work/feats/$1/$set" --config "$recipe/conf/$1.yaml" --jobs "$jobs"
  done
}

# train_hmm [OPTION...]: trains $work/gmm/{mono,tri,lda} on train; the last aligns $work/states/SET, the state of each
# frame.
train_hmm() {
  local set
  asr-kd hmm train "$work/data/train" "$work/feats/mfcc/train" "$work/data/lexicon.txt" "$work/gmm" \
    --config "$recipe/conf/hmm.yaml" --jobs "$jobs" "$@"
  for set in $sets; do
    asr-kd hmm align "$work/gmm/lda" "$work/data/$set" "$work/feats/mfcc/$set" "$work/states/$set" --jobs "$jobs"
  done
}

# train_network NAME SEED SET CONFIG [OPTION...]: trains $work/NAME/seedN on the features and states of SET with
# conf/CONFIG.yaml, in one thread; with --small also with the options in the recipe's $quick.
train_network() {
  local name=$1 seed=$2 set=$3 config=$4
  shift 4
  asr-kd train --feats "$work/feats/fbank/$set" --states "$work/$states/$set" \
    --dev-feats "$work/feats/fbank/dev" --dev-states "$work/$states/dev" --threads 1 \
    --config "$recipe/conf/$config.yaml" --seed "$seed" --out "$work/$name/seed$seed" "$@" ${small:+${quick:-}}
}

# train_teachers SET: trains $work/teacher, an ensemble of $members networks (seed1, seed2, ...), on SET with
# conf/teacher.yaml.
train_teachers() {
  asr-kd train --feats "$work/feats/fbank/$1" --states "$work/states/$1" \
    --dev-feats "$work/feats/fbank/dev" --dev-states "$work/states/dev" --config "$recipe/conf/teacher.yaml" \
    --seed 1 --members "$members" --threads "$jobs" --out "$work/teacher" ${small:+${quick:-}}
}

# test_gmm SYSTEM, test_network NAME [NETWORK]: builds the model folder $work/model/NAME from $work/NETWORK (default:
# NAME), tunes it on dev, and decodes and scores test. Of NAME/seedN, only the first of $seeds is tuned; the others take
# its search options. A recipe may set $build_options and $tune_options, and the HMM's $hmm, $graph and $states below
# $work.
hmm=gmm/lda graph=graph/lda states=states
test_gmm() {
  asr-kd model build --gmm "$work/gmm/$1" --states-dir "$work/gmm/$1" --graph "$work/graph/$1" \
    --features "$work/feats/mfcc/train" "$work/model/$1" ${build_options:-} > /dev/null
  tune "$work/model/$1" mfcc
  test_model "$work/model/$1" mfcc
}

test_network() {
  local tested=$work/.stages/tested-${1//\//-}   # a stage that was killed does not repeat the systems it had tested
  [[ $force == false && -f $tested && $(< "$tested") == "$digest" ]] && return
  local first=${1%/seed*} like=()
  [[ $first == "$1" || $1 == "$first/seed${seeds%% *}" ]] || like=(--search-like "$work/model/$first/seed${seeds%% *}")
  asr-kd model build --network "$work/${2:-$1}" --states-dir "$work/$hmm" --graph "$work/$graph" "${like[@]}" \
    --features "$work/feats/fbank/train" "$work/model/$1" ${build_options:-} > /dev/null
  [[ -n ${like[*]} ]] || tune "$work/model/$1" fbank
  test_model "$work/model/$1" fbank --states "$work/$states/test"
  echo "$digest" > "$tested.partial" && mv "$tested.partial" "$tested"
}

# side_by_side < COMMANDS: runs the shell commands, one per line, $jobs at a time. Each line of output begins with the
# command's second and third word. If one fails, no more are started; once the running ones have ended, side_by_side
# fails.
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

# test_systems SYSTEM...: test_network for each seed of each system; the first seeds, which are tuned, come first.
test_systems() {
  local first=${seeds%% *} system seed
  for system in "$@"; do echo "test_network $system/seed$first"; done | side_by_side
  for system in "$@"; do
    for seed in ${seeds#"$first"}; do echo "test_network $system/seed$seed"; done
  done | side_by_side
}

# seeds_of SYSTEM, trained SYSTEM, decoded SYSTEM: print its seeds, its networks, and its decode folders. at X SYSTEM:
# prints the decode folders as points of a plot.
seeds_of() { if [[ $1 == teacher ]]; then seq "$members"; else tr ' ' '\n' <<< "$seeds"; fi; }
trained() { local seed; for seed in $(seeds_of "$1"); do echo "$work/$1/seed$seed"; done; }
decoded() { local seed; for seed in $(seeds_of "$1"); do echo "$work/model/$1/seed$seed/decode_test"; done; }
at() { local folder; for folder in $(decoded "$2"); do echo "$1=$folder"; done; }

# tune MODEL KIND: tunes acoustic scale, word penalty and beam on dev. test_model MODEL KIND [OPTION...]: decodes and
# scores test.
tune() {
  asr-kd decode "$1" "$work/data/dev" --tune --feats "$work/feats/$2/dev" ${tune_options:-} --jobs "$jobs" |
    sed -n '/dev WER [0-9.]* %/,$p'
}

test_model() {
  local model=$1 kind=$2
  shift 2
  asr-kd decode "$model" "$work/data/test" --feats "$work/feats/$kind/test" --jobs "$jobs" "$@" --no-times \
    --output "$model/decode_test" > /dev/null
  asr-kd score --ref "$work/data/test" --hyp "$model/decode_test" | sed -n 1,2p
}

# results_in [FOLDER]: prints the folder of tables and figures, or FOLDER in it: the recipe, or $work with --small.
results_in() {
  local folder=$recipe
  [[ -z ${small:-} ]] || folder=$work
  folder+=${1:+/$1}
  mkdir -p "$folder" && echo "$folder"
}

# commit: prints this checkout's commit. stages_at: turns lines "STAGE COMMIT" into options of asr-kd report, if any of
# the commits is not this checkout's.
commit() { git -C "$root" rev-parse --short HEAD 2> /dev/null || true; }
stages_at() {
  sort -n | awk -v now="$(commit)" 'NF == 2 {all[$2] = all[$2] (all[$2] ? "," : "") $1; other += $2 != now}
    END {if (other) for (each in all) print "--stages-at", each, all[each]}' | sort -nk 3
}

# report TITLE ARGUMENT...: writes RESULTS.md and results.json into $figures. The wall time is the sum over all attempts
# at all stages; it is left out if a stage was not timed in $work.
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
