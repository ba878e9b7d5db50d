"""Writes Kaldi's TransitionModel, binary and text, as src/hmm/transition-model.cc and hmm-topology.cc do."""

import struct
from pathlib import Path

# Two phones of three emitting states (a loop and a way on, but for a state without loop), one of one state with three
# ways on; HMM state -> (pdf class, [(target, probability)]). The last state of each entry is final.
ENTRIES = [
    [(0, [(0, 0.75), (1, 0.25)]), (1, [(1, 0.5), (2, 0.5)]), (2, [(3, 1.0)]), (-1, [])],
    [(0, [(0, 0.5), (1, 0.25), (2, 0.25)]), (1, [(2, 1.0)]), (-1, [])],
]
PHONES = {1: 1, 2: 0, 4: 0}
TRIPLES = [(1, 0, 5), (1, 1, 6), (2, 0, 0), (2, 0, 2), (2, 1, 1), (2, 2, 3), (4, 0, 0), (4, 1, 1), (4, 2, 4)]
# One transition-id for each triple and transition, in order.
PDFS = [-1, 5, 5, 5, 6, 0, 0, 2, 2, 1, 1, 3, 0, 0, 1, 1, 4]
LOOP_PDF = 100  # with separate pdfs of self-loops: pdf + LOOP_PDF
LOOP_PDFS = [-1, 105, 5, 5, 6, 100, 0, 102, 2, 101, 1, 3, 100, 0, 101, 1, 4]


def write_model(path: Path, binary: bool, separate_loops: bool = False) -> None:
    """A ``final.mdl``: the transition model, then something else."""
    if binary:
        path.write_bytes(b"\0B" + _binary(separate_loops) + b"<DIMENSION> \4\x27\0\0\0")
    else:
        path.write_text(_text(separate_loops) + "<DIMENSION> 39\n")


def _int(value: int) -> bytes:
    return b"\4" + struct.pack("<i", value)


def _float(value: float) -> bytes:
    return b"\4" + struct.pack("<f", value)


def _ints(values: list[int]) -> bytes:
    return b"\4" + struct.pack(f"<i{len(values)}i", len(values), *values)


def _binary(separate_loops: bool) -> bytes:
    highest = max(PHONES)
    out = b"<TransitionModel> <Topology> "
    out += _ints(sorted(PHONES)) + _ints([PHONES.get(phone, -1) for phone in range(highest + 1)])
    out += (_int(-1) if separate_loops else b"") + _int(len(ENTRIES))
    for entry in ENTRIES:
        out += _int(len(entry))
        for pdf_class, transitions in entry:
            out += _int(pdf_class) * (2 if separate_loops else 1) + _int(len(transitions))
            out += b"".join(_int(target) + _float(probability) for target, probability in transitions)
    kind = b"Tuples" if separate_loops else b"Triples"
    out += b"</Topology> <" + kind + b"> " + _int(len(TRIPLES))
    for phone, state, pdf in TRIPLES:
        out += _int(phone) + _int(state) + _int(pdf) + (_int(pdf + LOOP_PDF) if separate_loops else b"")
    out += b"</" + kind + b"> <LogProbs> FV " + _int(2) + struct.pack("<2f", 0.0, -0.5)
    return out + b"</LogProbs> </TransitionModel> "


def _text(separate_loops: bool) -> str:
    out = "<TransitionModel> \n<Topology> \n"
    for number, entry in enumerate(ENTRIES):
        phones = " ".join(str(phone) for phone, which in PHONES.items() if which == number)
        out += f"<TopologyEntry> \n<ForPhones> \n{phones} \n</ForPhones> \n"
        for state, (pdf_class, transitions) in enumerate(entry):
            out += f"<State> {state} "
            if pdf_class >= 0:
                names = ("ForwardPdfClass", "SelfLoopPdfClass") if separate_loops else ("PdfClass",)
                out += "".join(f"<{name}> {pdf_class} " for name in names)
            out += "".join(f"<Transition> {target} {probability} " for target, probability in transitions)
            out += "</State> \n"
        out += "</TopologyEntry> \n"
    kind = "Tuples" if separate_loops else "Triples"
    out += f"</Topology> \n<{kind}> {len(TRIPLES)} \n"
    for phone, state, pdf in TRIPLES:
        out += f"{phone} {state} {pdf} " + (f"{pdf + LOOP_PDF} " if separate_loops else "") + "\n"
    return out + f"</{kind}> \n<LogProbs> \n [ 0 -0.5 ]\n</LogProbs> \n</TransitionModel> \n"
