#!/usr/bin/env bash
# AN4 (CMU "census", 42 minutes of spelled words and numbers): from audio to the paper's tables, with word error rates.
# GMM systems align the states. An ensemble of networks teaches students of two sizes (table 1) and students trained on
# 3 % of the speech (table 5). The latter are trained again with the language model, tree and priors of these 3 %.
# Specialists for confusable states are added to one of the teachers (tables 3 and 4), and their ensemble is distilled.
# The networks and tables are listed in experiment.yaml.
# Takes 2 GB of disk and, on 2 cores, four hours for the tables and three more for the specialists.
#   recipes/an4/run.sh --corpus-dir CORPORA/an4     (without --corpus-dir, the official release is downloaded)
# --parts selects experiments, separated by spaces: tables (1 and 5), own (table 5 with an HMM and a language model
# from the 3 %), specialists. --speeds lists the speeds of the copies of all speech, --three-speeds and --three-shifts those of the
# copies of the 3 %.
corpus_dir="" parts="tables own specialists" speeds=0.85,0.92,1.08,1.15
three_speeds=0.8,0.85,0.9,0.95,1,1.05,1.1,1.17,1.25 three_shifts=0,0.25,0.5,0.75
options="parts speeds three_speeds three_shifts" quickly="speeds=1.1 three_speeds=0.9,1.1 three_shifts=0.5"
source "$(dirname "$0")/../lib.sh"
parse_options "$@"
check_words parts tables own specialists
data=$work/data feats=$stores/feats own=$work/own

if run_stage 0 "data directories; copies at other speeds and shifts"; then
  asr-kd corpus prepare an4 "$data" ${corpus_dir:+--corpus-dir "$corpus_dir"} --downloads "$downloads"
  if ((${#small[@]})); then   # a quarter of each part, and fewer utterances for tuning
    for set in train dev test; do
      rm -rf "$data/whole" && mv "$data/$set" "$data/whole"
      asr-kd corpus subset "$data/whole" "$data/$set" --fraction 0.25
    done
    awk 'NR % 3 == 1 {print $1}' "$data/dev/text" > "$data/dev_part"
  fi
  asr-kd corpus perturb "$data/train" "$data/speeds" --speeds "$speeds" "${spread[@]}"
  asr-kd corpus combine "$data/train_speeds" "$data/train" "$data/speeds"
  asr-kd corpus subset "$data/train" "$data/three" --fraction 0.03
  asr-kd corpus perturb "$data/three" "$data/three_copies" --speeds "$three_speeds" --shifts "$three_shifts" "${spread[@]}"
  asr-kd corpus combine "$data/three_pool" "$data/three" "$data/three_copies"
  for percent in 1 10 30; do   # other fractions, with all copies of their utterances
    asr-kd corpus subset "$data/train" "$data/percent$percent" --fraction "${percent}e-2"
    awk 'NR == FNR {chosen[$1]; next} {id = $1; sub(/^(sp[0-9.]+-)?(sh[0-9.]+-)?/, "", id)} id in chosen {print $1}' \
      "$data/percent$percent/utt2spk" "$data/$([[ $percent == 1 ]] && echo three_pool || echo train_speeds)/utt2spk" \
      > "$data/list$percent"
  done
fi

if run_stage 1 "features"; then
  make_features train train_speeds three_pool dev test
fi

if run_stage 2 "GMM-HMM training, alignment"; then
  asr-kd hmm train "$data/train" "$feats/mfcc/train" "$data/lexicon.txt" "$work/gmm" --config "$recipe/conf/hmm.yaml" "${spread[@]}"
  align_states "$work/gmm/lda" "$stores/states" train train_speeds three_pool dev test
fi

if run_stage 3 "language model, decoding graphs"; then   # the dev perplexity of a trigram is 15.0, of a bigram 18.3
  asr-kd lm estimate "$data/train" "$work/trigram.arpa" --order 3
  for system in mono tri lda; do asr-kd graph compile "$work/gmm/$system" "$work/trigram.arpa" "$work/graph/$system"; done
fi

if [[ " $parts " == *" own "* ]] && run_stage 4 "HMM and language model from the 3 %"; then
  asr-kd feats "$data/three" "$feats/mfcc/three" --config "$recipe/conf/mfcc.yaml"
  asr-kd hmm train "$data/three" "$feats/mfcc/three" "$data/lexicon.txt" "$own/gmm" --config "$recipe/conf/own_hmm.yaml" "${spread[@]}"
  align_states "$own/gmm/lda" "$stores/own/states" train_speeds three_pool dev test
  asr-kd lm estimate "$data/three" "$own/bigram.arpa" --order 2 --vocabulary "$data/lexicon.txt"
  asr-kd graph compile "$own/gmm/lda" "$own/bigram.arpa" "$own/graph"
fi

if run_stage 5 "networks: trained, tuned on dev, scored on test, reported"; then
  run_experiment $(printf -- '--only %s ' $parts)
fi
