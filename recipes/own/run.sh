#!/usr/bin/env bash
# Your own corpus: from Kaldi data directories to the paper's tables 1 and 5, with word error rates. The sizes of all models
# depend on the amount of speech. docs/own-corpus.md is a walk-through. The networks and tables are listed in
# experiment.yaml. One hour of training speech takes about three hours on 2 cores.
#   recipes/own/run.sh --train DIR --dev DIR --test DIR --lexicon FILE --lm FILE.arpa --work exp
# Without --lexicon, words are pronounced as their letters. Without --lm, a trigram of the training transcripts is
# estimated. --fraction is the fraction of the speech used in table 5; --speeds lists the speeds of the copies of all speech.
train="" dev="" test="" lexicon="" lm="" fraction=0.03 speeds=0.9,1.1 options="train dev test lexicon lm fraction speeds"
quickly="speeds=1.1"
source "$(dirname "$0")/../lib.sh"
parse_options "$@"
for option in train dev test; do
  [[ -n ${!option} ]] || { echo "$0: --$option is missing: a data directory; see $0 --help" >&2; exit 2; }
done
data=$work/data feats=$stores/feats
# sizes_of WHAT: prints `--set NAME=VALUE` words for the amount of training speech.
sizes_of() { asr-kd experiment sizes "$data/train" --of "$1" --copies "$(tr -cd , <<< "$speeds," | wc -c)"; }

if run_stage 0 "checks; copies at other speeds and shifts"; then
  mkdir -p "$data"
  for set in train dev test; do
    ln -sfn "$(cd "${!set}" && pwd)" "$data/$set"
    asr-kd corpus validate "$data/$set" "${spread[@]}"
  done
  if [[ -n $lexicon ]]; then cp "$lexicon" "$data/lexicon.txt"; else
    asr-kd corpus lexicon "$data/lexicon.txt" "$data/train" ${lm:+--arpa "$lm"}
  fi
  awk -v n="$(wc -l < "$data/dev/text")" 'NR % (n > 300 ? int(n / 300) : 1) == 0 {print $1}' "$data/dev/text" > "$data/dev_part"
  asr-kd corpus perturb "$data/train" "$data/speeds" --speeds "$speeds" "${spread[@]}"
  asr-kd corpus combine "$data/train_speeds" "$data/train" "$data/speeds"
  asr-kd corpus subset "$data/train" "$data/three" --fraction "$fraction"
  asr-kd corpus perturb "$data/three" "$data/three_copies" --speeds 0.85,0.92,1,1.08,1.17 --shifts 0,0.5 "${spread[@]}"
  asr-kd corpus combine "$data/three_pool" "$data/three" "$data/three_copies"
fi

if run_stage 1 "features"; then
  feats_options=($(sizes_of features))   # 8 kHz, where all audio has no more
  make_features train train_speeds three_pool dev test
fi

if run_stage 2 "GMM-HMM training, alignment"; then
  asr-kd hmm train "$data/train" "$feats/mfcc/train" "$data/lexicon.txt" "$work/gmm" $(sizes_of hmm) --unknown spn \
    --skip-bad "${spread[@]}"
  align_states "$work/gmm/lda" "$stores/states" train train_speeds three_pool dev test
fi

if run_stage 3 "language model, decoding graph"; then
  [[ -n $lm ]] || asr-kd lm estimate "$data/train" "${lm:=$work/trigram.arpa}" --order 3
  asr-kd graph compile "$work/gmm/lda" "$lm" "$work/graph/lda"
fi

if run_stage 4 "networks: trained, tuned on dev, scored on test, reported"; then
  percent=$(awk -v fraction="$fraction" 'BEGIN {printf "%g", 100 * fraction}')
  run_experiment --results "$work" $(sizes_of networks) --set percent="$percent"
fi
