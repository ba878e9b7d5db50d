# Shared by all recipes: options and stages. A recipe sets its option variables, names them in $options, sources this
# file, and calls `parse_options "$@"`; each of its stages is `if run_stage N "what it does"; then ...; fi`. If it has a
# quick form (--small), $quickly holds the values of its options in that form: "hours=0.5 copies=...". A stage that is
# run again costs seconds: every asr-kd verb keeps an output that is complete and was made from the same inputs.
# Supported: Linux with bash 4.4 or later and GNU coreutils, sed and awk.
set -euo pipefail
export LC_ALL=C                         # a point in decimal numbers, and the same sort order, whatever the user's locale
export OMP_WAIT_POLICY=PASSIVE          # waiting threads sleep: spinning ones would take cores from other processes

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
}

recipe=$(cd "$(dirname "$0")" && pwd)   # recipes/NAME
root=$(cd "$recipe/../.." && pwd)
[[ ! -x $root/.venv/bin/python ]] || PATH="$root/.venv/bin:$PATH"
check_system "${BASH_VERSINFO[@]:0:2}" python nproc awk sed || exit 1
printf -v command_line ' %q' "$0" "$@"
downloads=$root/data/corpora
stage=0 stop_stage=99 jobs="" engine=local work=$recipe/exp stores="" small=() settings=() feats_options=() begun=""
asr-kd() { python -P -m asr_kd "$@"; }   # -P: never what lies in the current folder
commit() { git -C "$root" rev-parse --short HEAD 2> /dev/null || true; }

usage() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
  echo "Stages:"
  sed -n -e 's/^if .*run_stage \([0-9]*\) "\(.*\)"; then.*/  \1  \2/p' \
    -e 's/^ *measure[_bf16]* \([0-9]*\) "\(.*\)" [a-z].*/  \1  \2/p' "$0" | sort -n   # of recipes/bench
  cat <<END
Options (current values in parentheses):
  --stage N --stop-stage N   first and last stage to run ($stage, $stop_stage)
  --work DIR                 folder for all outputs ($work)
  --stores DIR               folder or URL (s3://...) for features, states and soft targets, if not --work
  --jobs N                   processes at a time, if not one for each core
  --engine local|ray         run on this machine, or on the Ray cluster at RAY_ADDRESS, which must see --work ($engine)
  --set NAME=VALUE           replace one of the values of experiment.yaml, such as seeds=[1,2]; repeatable
END
  [[ ! -v quickly ]] || echo "  --small                    a quick run that checks that everything works${quickly:+, with $quickly}"
  local name
  for name in corpus_dir $options; do [[ ! -v $name ]] || printf '  --%-24s (%s)\n' "${name//_/-} VALUE" "${!name}"; done
}

# parse_options "$@": sets the variable of each --name VALUE; the known names are those in $options and a few more.
# Also sets $spread: options of a verb that can use several processes, here or on a cluster.
parse_options() {
  local known=" corpus_dir work stores jobs engine ${options:-} "
  [[ " $* " != *" --small "* ]] || go_quickly
  while (($#)); do
    local name=${1#--}; name=${name//-/_}
    case $1 in
      --help | -h) usage; exit 0 ;;
      --small) shift; continue ;;
      --stage | --stop-stage | --set) ;;
      --*) [[ $known == *" $name "* ]] || { echo "$0: unknown option $1; see $0 --help" >&2; exit 2; } ;;
      *) echo "$0: $1 is not an option; see $0 --help" >&2; exit 2 ;;
    esac
    (($# > 1)) || { echo "$0: $1 needs a value" >&2; exit 2; }
    if [[ $1 == --*stage && ! $2 =~ ^(0|[1-9][0-9]?)$ ]]; then
      echo "$0: $1 $2: expected a whole number from 0 to 99" >&2
      exit 2
    fi
    if [[ $1 == --set ]]; then settings+=(--set "$2"); else printf -v "$name" %s "$2"; fi
    shift 2
  done
  mkdir -p "$work"
  stores=${stores:-$work}
  [[ -n $jobs || $engine == ray ]] || jobs=$(nproc)   # Ray uses every CPU of the cluster
  spread=(--engine "$engine" ${jobs:+--jobs "$jobs"})
  trap finish EXIT
  trap 'exit 143' TERM; trap 'exit 129' HUP; trap 'exit 130' INT   # else the status in finish is 0
}

# check_words OPTION WORD...: fails unless the value of --OPTION consists of such words.
check_words() {
  local word
  for word in ${!1}; do
    [[ " ${*:2} " == *" $word "* ]] || { echo "$0: --$1: unknown $word; known: ${*:2}" >&2; exit 2; }
  done
}

# go_quickly: apply --small. Options after it override its values.
go_quickly() {
  [[ -v quickly ]] || { echo "$0: this recipe has no --small; see $0 --help" >&2; exit 2; }
  local each
  small=(--small) work=$recipe/exp_small
  for each in $quickly; do printf -v "${each%%=*}" %s "${each#*=}"; done
}

# make_features SET...: MFCCs for the HMMs and filter banks for the networks, from the data directories $data/SET into
# $feats/{mfcc,fbank}/SET, with conf/{mfcc,fbank}.yaml and, where it is set, $feats_options.
make_features() {
  local kind set
  for kind in mfcc fbank; do
    for set in "$@"; do
      asr-kd feats "$data/$set" "$feats/$kind/$set" --config "$recipe/conf/$kind.yaml" "${feats_options[@]}" "${spread[@]}"
    done
  done
}

# align_states HMM STATES SET...: the HMM's state of each frame of these sets, in STATES/SET.
align_states() {
  local set
  for set in "${@:3}"; do asr-kd hmm align "$1" "$data/$set" "$feats/mfcc/$set" "$2/$set" "${spread[@]}"; done
}

# run_experiment OPTION...: the systems of experiment.yaml; the options are those of asr-kd experiment run.
run_experiment() {
  asr-kd experiment run "$recipe/experiment.yaml" "$work" --stores "$stores" "${spread[@]}" "${small[@]}" "$@" "${settings[@]}"
}

# run_stage N "what it does": whether stage N is to be run. Its time is added to $work/stages.tsv, for the report.
run_stage() {
  end_stage
  (($1 >= stage && $1 <= stop_stage)) || return
  running=$1 title=$2 begun=$SECONDS
  echo "== stage $1: $2"
}

end_stage() {
  [[ -n $begun ]] || return 0
  printf '%s\t%s\t%s\n' "$running" $((SECONDS - begun)) "$(commit)" >> "$work/stages.tsv"
  echo "   $((SECONDS - begun)) s"
  begun=""
}

finish() {
  local status=$? advice
  if ((status == 0)); then
    end_stage
    echo "== finished in $SECONDS s"
  elif [[ -n $begun ]]; then
    advice="failed with status $status. Fix the error above, then resume with:"
    ((status != 130 && status != 143)) || advice="was interrupted. Resume with:"
    printf '\nstage %s (%s) %s\n  %s --stage %s\n' "$running" "$title" "$advice" \
      "$(sed -E 's/ --stage [0-9]+//g' <<< "${command_line# }")" "$running" >&2
  fi
}
