"""How large an input may be. Whatever lies above a limit is refused by name before memory is taken for it.

Each limit is far above what real data needs, and far below what would exhaust a machine.
"""

TEXT_BYTES = 1 << 30  # one text file: the transcripts of ten million utterances
CONFIG_BYTES = 1 << 22  # a YAML file that people write
JSON_BYTES = 1 << 28  # the index of a store of a million shards
NAME_BYTES = 200  # a file name made from an id; file systems allow 255
