#!/usr/bin/env bash
# MNIST (section 3 of the paper): a network of 2 x 1200 units with dropout, a limit on weight norms and jittered images
# teaches one of 2 x 800. Students learn from transfer sets without any "3" or with only 7s and 8s; others have several
# widths and temperatures. Each seed repeats everything, including the teacher. The networks and tables are listed in
# experiment.yaml. Takes 75 minutes on 2 cores, --small a minute.
#   recipes/mnist/run.sh --corpus-dir CORPORA/mnist     (without --corpus-dir, the files are downloaded)
# --images is the number of training images that are used, from the first.
corpus_dir="" images=60000 options="images" quickly="images=5000"
source "$(dirname "$0")/../lib.sh"
parse_options "$@"

# ids FILE CLASSES: prints the ids of the images of these classes, one per line.
ids() {
  awk -v classes="$2" 'BEGIN {split(classes, list, " "); for (i in list) wanted[list[i]]} $2 in wanted {print $1}' "$1"
}

if run_stage 0 "images as one-frame utterances; transfer sets"; then
  asr-kd corpus prepare mnist "$work/data" ${corpus_dir:+--corpus-dir "$corpus_dir"} --downloads "$downloads"
  if [[ $stores != "$work" ]]; then
    for store in {train,dev,test}/{feats,states}; do asr-kd frames copy "$work/data/$store" "$stores/data/$store"; done
  fi
  mkdir -p "$work/lists"
  head -n "$images" "$work/data/train/text" > "$work/lists/all"
  ids "$work/lists/all" "0 1 2 4 5 6 7 8 9" > "$work/lists/without3"
  ids "$work/lists/all" "7 8" > "$work/lists/only78"
  ids "$work/data/test/text" 3 > "$work/lists/test3"
fi

if run_stage 1 "networks: trained, tested and reported"; then
  run_experiment
fi
