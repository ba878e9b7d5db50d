"""``asr-kd graph``: language model, lexicon and states -> decoding graph."""

import argparse
import sys
import time
from pathlib import Path

from asr_kd.cli.hmm import add_lexicon_format, add_silence_probability
from asr_kd.errors import counted


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their options."""
    parser.description = (
        "Compile the decoding graph (HCLG) that a decoder searches, or import one from Kaldi.\n"
        "Each action explains its options: asr-kd graph ACTION --help"
    )
    parser.epilog = "example:\n  asr-kd graph compile exp/hmm/lda data/lm.arpa.gz exp/graph"
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    make = actions.add_parser(
        "compile",
        help="states, lexicon and language model -> HCLG.fst and words.txt",
        description="Write OUT/HCLG.fst (input label: state + 1), words.txt, lexicon.txt and graph.yaml.\n"
        "Words that the lexicon or the language model lacks are left out, counted and listed in graph.yaml.\n"
        "Probabilities of the lexicon (of pronunciations, and of silences around a word) become costs, as in Kaldi.",
        epilog="example:\n  asr-kd graph compile exp/hmm/lda data/lm.arpa.gz exp/graph",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    make.add_argument(
        "model", type=Path, metavar="HMM_DIR", help="HMM folder from asr-kd hmm train, such as exp/hmm/lda"
    )
    make.add_argument("arpa", type=Path, metavar="ARPA", help="language model, also compressed with gzip or bzip2")
    make.add_argument("out", type=Path, metavar="OUT", help="folder to write; a graph in it is replaced")
    make.add_argument("--lexicon", type=Path, metavar="FILE", help="lexicon (default: that of HMM_DIR)")
    add_lexicon_format(make)
    add_silence_probability(make, "that of the lexicon")
    make.set_defaults(run=_compile)
    take = actions.add_parser(
        "import",
        help="Kaldi's HCLG.fst and words.txt -> the same with tied states as input labels",
        description="Write OUT/HCLG.fst and OUT/words.txt from a Kaldi graph. The input labels of Kaldi's graph are\n"
        "read as transition-ids if --model is given, else as pdf-ids + 1.",
        epilog="example:\n  asr-kd graph import graph/HCLG.fst graph/words.txt exp/kaldi/graph --model final.mdl",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    take.add_argument("graph", type=Path, metavar="HCLG.fst", help="Kaldi's graph")
    take.add_argument("words", type=Path, metavar="words.txt", help="the graph's words: lines of WORD ID")
    take.add_argument("out", type=Path, metavar="OUT", help="folder to write; a graph in it is replaced")
    take.add_argument(
        "--model", type=Path, metavar="FILE", help="final.mdl, or a text file with lines TRANSITION-ID PDF"
    )
    take.set_defaults(run=_import)


def _compile(options: argparse.Namespace) -> None:
    from asr_kd.graph.compile import compile_graph
    from asr_kd.hmm.lexicon_reader import load_lexicon, read_lexicon
    from asr_kd.hmm.states import StateSpace

    space = StateSpace.load(options.model)
    lexicon = read_lexicon(options.lexicon, options.lexicon_format) if options.lexicon else load_lexicon(options.model)
    began = time.monotonic()
    info = compile_graph(
        space,
        lexicon,
        options.arpa,
        options.out,
        options.silence_probability,
        lambda step: print(step, file=sys.stderr),
    )
    if info.not_in_lexicon:
        shown = " ".join(info.not_in_lexicon[:10])
        print(
            f"warning: no pronunciation, so never recognised: {counted(len(info.not_in_lexicon), 'word')} of the"
            f" language model: {shown}{' ...' if len(info.not_in_lexicon) > 10 else ''} (all in graph.yaml)",
            file=sys.stderr,
        )
    if info.not_in_language_model:
        print(
            f"not in the language model: {counted(info.not_in_language_model, 'word')} of the lexicon", file=sys.stderr
        )
    seconds = time.monotonic() - began
    print(
        f"{options.out}: {counted(info.words, 'word')}, {counted(info.states, 'state')}, {counted(info.arcs, 'arc')},"
        f" {seconds:.1f} s"
    )


def _import(options: argparse.Namespace) -> None:
    from asr_kd.graph.kaldi_graph import import_graph
    from asr_kd.hmm.kaldi_transitions import read_transitions

    transitions = read_transitions(options.model) if options.model else None
    fst = import_graph(options.graph, options.words, options.out, transitions)
    print(
        f"{options.out}: {counted(fst.num_states, 'state')}, {counted(fst.num_arcs, 'arc')}, {fst.ilabel.max():,} tied"
        " states in use"
    )
