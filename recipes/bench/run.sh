#!/usr/bin/env bash
# Speed and memory: each row compares asr_kd with a peer or a physical limit, measured in the same run, on the files of a
# finished AN4 system. Run it on an otherwise idle machine. Takes about 30 minutes on 2 cores.
#   recipes/an4/run.sh --corpus-dir CORPORA/an4
#   recipes/mini_librispeech/run.sh --corpus-dir CORPORA/LibriSpeech --lm-dir CORPORA/lm
#   recipes/bench/run.sh --libri-dir CORPORA/LibriSpeech
# --exp-dir and --large-dir are the --work folders of the first two commands. Without --libri-dir, the rows on Opus files
# are left out; so are those on a large vocabulary if --large-dir holds no finished system. On a GPU: gpu.sh.
exp_dir="" libri_dir="" large_dir="" options="exp_dir libri_dir large_dir" quickly=""
source "$(dirname "$0")/../lib.sh"
exp_dir=$root/recipes/an4/exp large_dir=$root/recipes/mini_librispeech/exp
parse_options "$@"
for part in data/train feats/mfcc/train feats/fbank/train states/train trigram.arpa model/teacher/seed1/model.yaml; do
  [[ -e $exp_dir/$part ]] && continue
  echo "$0: no $exp_dir/$part; --exp-dir must be a finished AN4 system: recipes/an4/run.sh --work $exp_dir" >&2
  exit 1
done
export PYTHONPATH=$root   # measures this checkout, whatever is installed
rounds=$(((${#small[@]})) && echo 1 || echo 8)
rows=$work/rows log=$work/log failed=""
mkdir -p "$rows"

# measure N "what" SCRIPT ARGUMENT...: stores the rows that SCRIPT prints. A failure is reported, and the next stage runs.
measure() {
  local number=$1 title=$2 script=$3
  ((number < stage || number > stop_stage)) && return
  echo "== stage $number: $title"
  rm -f "$rows/$number".*
  commit > "$rows/$number.commit"
  if ! python "$recipe/$script.py" "${@:4}" 2>&1 > "$rows/$number.jsonl" | tee "$log" >&2; then
    echo "Not measured: $title. $(tail -n 1 "$log")" > "$rows/$number.remark"
    failed+=" $number"
  fi
}

# skip N "what" "why": stores a remark in place of the rows.
skip() {
  ((${1} < stage || ${1} > stop_stage)) && return
  echo "== stage $1: $2: left out: $3"
  rm -f "$rows/$1".*
  echo "Left out: $2. $3" > "$rows/$1.remark"
}

# measure_bf16 N "what" SCRIPT ARGUMENT...: as measure, if the processor or a GPU multiplies in bfloat16.
measure_bf16() {
  (($1 < stage || $1 > stop_stage)) && return
  local settle='import torch; from asr_kd.nets import settle_precision
print(settle_precision("auto", "cuda" if torch.cuda.is_available() else "cpu"))'
  if [[ $(python -c "$settle") == bf16 ]]; then
    measure "$1" "$2 in bf16" "${@:3}" --precision bf16
  else
    skip "$1" "$2 in bf16" "This processor cannot multiply in bfloat16."
  fi
}

measure 1 "features from FLAC" features "AN4 (FLAC)" "$exp_dir/data/train" "$work/features"

if [[ -n $libri_dir ]]; then
  measure 2 "features from Opus" features "LibriSpeech (Opus)" "$libri_dir" "$work/features" --librispeech
else
  skip 2 "features from Opus" "It needs --libri-dir."
fi

corpus=("$exp_dir/data/train" "$exp_dir/feats/mfcc/train" "$exp_dir/data/lexicon.txt")
measure 3 "GMM-HMM training" hmm "${corpus[@]}" "$work/hmm" --jobs "$jobs"

peer=$work/peer   # kaldi-hmm-gmm needs other versions of the Kaldi wheels than asr_kd
install_peer() {
  [[ -e $peer/ready ]] && return
  uv venv --quiet --clear "$peer" --python "$(command -v python)" &&
    uv pip install --quiet --python "$peer/bin/python" kaldi-hmm-gmm==1.1.4 kaldifst==1.7.17 kaldi-decoder==0.2.11 \
      $(grep -E '^(torch|numpy)==' "$root/constraints.txt") && touch "$peer/ready"
}
if ((stage > 4 || stop_stage < 4)) || install_peer; then
  measure 4 "monophone training" monophones "${corpus[@]}" "$work/monophones" --peer "$peer/bin/python"
else
  skip 4 "monophone training against kaldi-hmm-gmm" "kaldi-hmm-gmm could not be installed here."
fi

network=("$exp_dir/feats/fbank/train" "$exp_dir/states/train" --threads "$jobs" --rounds "$rounds")
measure 5 "network training in fp32" training "${network[@]}" --precision fp32
measure_bf16 6 "network training" training "${network[@]}"

model=$exp_dir/model/teacher/seed1
measure 7 "search" search "$model" "$exp_dir/feats/fbank/test" --rounds "$rounds"
measure 8 "from audio to words" recognisers "$model" "$exp_dir/data/test" "$exp_dir/trigram.arpa" \
  "$exp_dir/data/lexicon.txt" "$work/words"

large=$large_dir/model/teacher/seed1
if [[ -e $large/tune.json ]]; then
  measure 9 "graph of a large vocabulary" graph "$large_dir/gmm/lda" "$large_dir/data/lm.arpa.gz" "$work/graph"
  measure 10 "large vocabulary" large "$large" "$large_dir/data/test" "$work/large"
else
  skip 9 "large vocabulary" "It needs a finished mini_librispeech system in --large-dir; there is no $large."
fi

measure 11 "distillation loss" loss --threads "$jobs" --rounds "$rounds"
measure 12 "training steps on soft targets, reading" distilling "$work/made" --threads "$jobs" --rounds "$rounds"
measure 13 "writing soft targets" writing "$work/made" --rounds "$rounds"
measure 14 "the paper's network in fp32" paper "$work/paper" --threads "$jobs" --precision fp32
measure_bf16 15 "the paper's network" paper "$work/paper" --threads "$jobs" --rounds 12   # short rounds
measure 16 "memory" growth "$work/growth"
measure 17 "specialists" joint --threads "$jobs" --rounds "$rounds"
measure 18 "opening a lexicon and a language model" opening "$work/opening" --rounds "$rounds"
measure 19 "decoding long audio" lengths "$model" "$exp_dir/data/test" "$work/lengths"
measure 20 "opening a large graph" graph_opening "$work/graph_opening" --rounds "$rounds"
measure 21 "opening frame stores, reading Kaldi archives" stores "$work/stores" --rounds "$rounds"
measure 23 "training from object storage" object_storage "$work/object_storage" --threads "$jobs"
sizes=10000,100000,$([[ -n ${small:-} ]] && echo 200000 || echo 1000000)
measure 24 "operations on a million utterances" utterances "$work/utterances" --sizes "$sizes"
if python -c "import ray" 2> /dev/null; then
  measure 22 "engines" engines "$work/engines" --rounds "$rounds"
else
  skip 22 "Ray against processes" "Ray is not installed (pip install 'asr-kd[ray]')."
fi

arguments=()
declare -A others   # commit -> the stages that were measured at it, if it is not this one
for number in {1..24}; do
  at=$(cat "$rows/$number.commit" 2> /dev/null || true)
  [[ -z $at || $at == "$(commit)" ]] || others[$at]+=" $number"
done
for at in "${!others[@]}"; do arguments+=(--made-at "$at" "stages${others[$at]}"); done
for remark in "$rows"/*.remark; do [[ -e $remark ]] && arguments+=(--remark "$(< "$remark")"); done
for group in "Features:1 2" "Stores and archives:21 23 24" "Engines:22" "GMM-HMM:3 4 18" "Training:5 6" "Distillation:11 12 13 14 15 16 17" "Decoding:7 8 19" \
  "A large vocabulary:9 10 20"; do
  arguments+=(--table "${group%:*}")
  for number in ${group#*:}; do [[ -s $rows/$number.jsonl ]] && arguments+=(--rows "$rows/$number.jsonl"); done
done
results=$(((${#small[@]})) && echo "$work" || echo "$recipe")
((stage > 0 || stop_stage < 99)) || arguments+=(--seconds "$SECONDS")   # of all rows, or none
asr-kd report --title "Speed and memory" --output "$results" \
  --remark "Each value is measured in the same run as what it is compared with. On one core: CPU time of one thread." \
  --remark "The paper's network: 8 layers of 2560 units, 14,000 states. 4x512: four layers of 512 units. n: how many of the
generalist's most probable states choose the specialists." \
  "${arguments[@]}"
[[ -z $failed ]] || { echo "$0: these stages failed:$failed; see above" >&2; exit 1; }
