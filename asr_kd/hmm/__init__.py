"""HMM states: lexicon, topology, GMM training, phonetic decision tree, alignment."""
