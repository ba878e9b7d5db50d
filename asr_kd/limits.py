"""How large an input may be. Whatever lies above a limit is refused by name before memory is taken for it.

Each limit is far above what real data needs, and far below what would exhaust a machine.
"""

TEXT_BYTES = 1 << 30  # one text file: the transcripts of ten million utterances
CONFIG_BYTES = 1 << 22  # a YAML file that people write
WEIGHTS = 1 << 30  # of one network: 4 GB in float32, ten times a large acoustic model
LAYERS = 1000  # of one network
CONTEXT_FRAMES = 10_000  # that one output of a network sees on each side: 100 seconds
CHUNK_FRAMES = 100_000  # of one training example: 1,000 seconds
MEMBERS = 1000  # networks of one ensemble
PATH_LENGTH = 4096  # characters of a path in a configuration; file systems allow no more
AUGMENTATIONS = 1000  # masks or splices of one training example, or pixels that an image is moved by
THREADS = 4096  # of one process; more than any machine has cores
JSON_BYTES = 1 << 28  # the index of a store of a million shards
NAME_BYTES = 200  # a file name made from an id; file systems allow 255
EXPANSION = 50  # how many times larger than its file decompressed text may be; language models reach 10
EXPANSION_OF_LABELS = 200  # the same for alignments, where a label repeats over many frames
EXPANDED_BYTES = 1 << 26  # what any compressed file may expand to
LINE_BYTES = 1 << 20  # one line of a language model
NGRAM_ORDER = 100  # words in an n-gram
GRAPH_BYTES = 1 << 34  # a decoding graph of a billion arcs
TRANSITION_IDS = 1 << 24  # of a Kaldi model; large ones have 100,000
TRANSITION_BYTES = 1 << 28  # the TransitionModel that a Kaldi model begins with
FOLDER_FILES = 10_000  # of a data directory, a network or a model at a URL; an ensemble has two for each member
STATES = 1 << 24  # tied states; large systems have 20,000
PHONES = 511  # of a state space, whose table has PHONES ** 3 rows
WORD_ID = 1 << 24  # the highest id in words.txt; the largest vocabularies have a few million words
AUDIO_RATES = (1_000, 768_000)  # hertz; one second at 1 Hz would become 16,000 samples
AUDIO_CHANNELS = 256  # of one recording: large microphone arrays have about as many
AUDIO_SAMPLES = 400_000_000  # of one utterance, before and after resampling together: 7 hours at 16 kHz, 1.6 GB
PIPED_AUDIO_BYTES = 1 << 32  # from one command in wav.scp: the longest possible wav, 37 hours at 16 kHz
BINS = 4096  # mel filters of one frame; recognisers use 23 to 128
STORE_JSON_BYTES = 1 << 26  # the index of a store of 300,000 shards, or the header of a shard of 500,000 utterances
ARCHIVE_OBJECT_BYTES = 1 << 30  # one matrix of a Kaldi archive, decoded: 18 hours of 40-bin features
ARCHIVE_LINE_BYTES = 1 << 25  # one line of a text archive: an alignment of 8 million frames
ARCHIVE_ID_BYTES = 1 << 12  # an utterance id in an archive
