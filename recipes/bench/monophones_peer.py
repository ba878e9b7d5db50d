"""Kaldi's monophone training (steps/train_mono.sh) with kaldi-hmm-gmm, on the files that monophones.py exports.

It runs in an environment of its own, without asr_kd: kaldi-hmm-gmm is incompatible with the current Kaldi wheels.
Alignment takes one call per utterance. Statistics take one call per frame; the interface offers no other.
"""

import json
import math
import sys
import time
from pathlib import Path

import kaldi_hmm_gmm as khg
import kaldifst
import numpy as np
import torch

SCALE, BEAM = 0.1, 10.0  # acoustic scale and beam of Kaldi's alignments; a retry has four times the beam


class Peer:
    """Topology, tree, graphs and frames of the task."""

    def __init__(self, folder: Path) -> None:
        self.task = json.loads((folder / "task.json").read_text())
        data = np.load(folder / "data.npz")
        self.frames = [torch.from_numpy(part) for part in np.split(data["frames"], data["bounds"][1:-1])]
        self.phones = {phone: number for number, phone in enumerate(sorted(self.task["states"]), 1)}
        self.words = {word: number for number, word in enumerate(sorted(self.task["lexicon"]), 1)}
        self.began, self.aligning = time.process_time(), 0.0
        self.topology = khg.HmmTopology()
        self.topology.read(self._topology())
        counts = self.topology.get_phone_to_num_pdf_classes()
        self.tree = khg.monophone_context_dependency(phones=self.topology.phones, phone2num_pdf_classes=counts)
        self.transitions = khg.TransitionModel(ctx_dep=self.tree, hmm_topo=self.topology)
        self.graphs = self._graphs()

    def _topology(self) -> str:
        entries = []
        for phone, length in self.task["states"].items():
            states = [
                f"<State> {i} <PdfClass> {i} <Transition> {i} 0.75 <Transition> {i + 1} 0.25 </State>"
                for i in range(length)
            ]
            body = " ".join([*states, f"<State> {length} </State>"])
            entries.append(f"<TopologyEntry> <ForPhones> {self.phones[phone]} </ForPhones> {body} </TopologyEntry>")
        return " ".join(["<Topology>", *entries, "</Topology> "])

    def _graphs(self) -> list[kaldifst.StdVectorFst]:
        options = khg.TrainingGraphCompilerOptions()
        options.transition_scale = options.self_loop_scale = 0.0  # added again for each alignment
        self.lexicon = self._lexicon()  # kept alive: the compiler does not own its arguments
        compiler = khg.TrainingGraphCompiler(
            trans_model=self.transitions, ctx_dep=self.tree, lex_fst=self.lexicon, disambig_syms=[], opts=options
        )
        return [compiler.compile_graph_from_text([self.words[word] for word in words]) for words in self.task["words"]]

    def _lexicon(self) -> kaldifst.StdVectorFst:
        """Pronunciations, with optional silence of probability one half before, between and after words."""
        fst = kaldifst.StdVectorFst()
        start, loop, silence = (fst.add_state() for _ in range(3))
        fst.start = start
        fst.set_final(state=loop, weight=0)
        half = math.log(2)

        def arc(source: int, phone: int, word: int, cost: float, target: int) -> None:
            fst.add_arc(state=source, arc=kaldifst.StdArc(ilabel=phone, olabel=word, weight=cost, nextstate=target))

        arc(start, 0, 0, half, loop)
        arc(start, 0, 0, half, silence)
        arc(silence, self.phones[self.task["silence"]], 0, 0, loop)
        for word, pronunciations in sorted(self.task["lexicon"].items()):
            for phones in pronunciations:
                at, output = loop, self.words[word]
                for phone in phones[:-1]:
                    after = fst.add_state()
                    arc(at, self.phones[phone], output, 0, after)
                    at, output = after, 0
                arc(at, self.phones[phones[-1]], output, half, loop)
                arc(at, self.phones[phones[-1]], output, half, silence)
        kaldifst.arcsort(fst, sort_type="olabel")
        return fst

    def flat_model(self) -> khg.AmDiagGmm:
        """One Gaussian, estimated on all frames, for every state."""
        frames = torch.cat(self.frames)
        gmm = khg.DiagGmm(nmix=1, dim=frames.shape[1])
        gmm.set_weights(torch.ones(1))
        gmm.set_invvars_and_means(1 / frames.var(0, keepdim=True), frames.mean(0, keepdim=True))
        gmm.compute_gconsts()
        model = khg.AmDiagGmm()
        for _ in range(self.tree.num_pdfs):
            model.add_pdf(gmm)
        return model

    def flat_paths(self) -> list[list[int]]:
        """Transition-ids of each utterance, with equally long states."""
        paths = []
        for graph, frames in zip(self.graphs, self.frames, strict=True):
            found, path = kaldifst.equal_align(ifst=graph, length=len(frames), rand_seed=3, num_retries=10)
            paths.append(kaldifst.get_linear_symbol_sequence(path)[1] if found else [])
        return paths

    def align(self, model: khg.AmDiagGmm, paths: list[list[int]]) -> list[list[int]]:
        """The best path of each utterance; its previous path where none is found."""
        began = time.process_time()
        config = khg.AlignConfig()
        config.beam, config.retry_beam, config.careful = BEAM, 4 * BEAM, False
        counters = {"num_done": 0, "num_error": 0, "num_retried": 0, "tot_like": 0, "frame_count": 0}
        found = []
        for graph, frames, path in zip(self.graphs, self.frames, paths, strict=True):
            graph = graph.copy()
            khg.add_transition_probs(
                trans_model=self.transitions, transition_scale=1.0, self_loop_scale=SCALE, fst=graph
            )
            scores = khg.DecodableAmDiagGmmScaled(am=model, tm=self.transitions, feats=frames, scale=SCALE)
            done, *_, best, _ = khg.align_utterance_wrapper(
                config=config, utt="", acoustic_scale=SCALE, fst=graph, decodable=scores, **counters
            )
            found.append(best if done else path)
        self.aligning += time.process_time() - began
        return found

    def estimate(self, model: khg.AmDiagGmm, paths: list[list[int]], first: bool) -> tuple[np.ndarray, float]:
        """Re-estimate ``model`` and the transitions; return the frames of each state, and the log-likelihood per frame
        before the update."""
        sums = khg.AccumAmDiagGmm()
        sums.init(model=model, flags=khg.GmmUpdateFlags.kGmmAll)
        ids = range(1, self.transitions.num_transition_ids + 1)
        pdf = np.array([0, *(self.transitions.transition_id_to_pdf(i) for i in ids)])
        total = 0.0
        for path, frames in zip(paths, self.frames, strict=True):
            if path:
                add = sums.accumulate_for_gmm
                for state, frame in zip(pdf[path].tolist(), frames.numpy(), strict=True):
                    total += add(model=model, data=frame, gmm_index=state, weight=1)
        flat = np.concatenate([path for path in paths if path]).astype(np.int64)
        counts = np.bincount(flat, minlength=len(pdf)).astype(np.float64)
        self.transitions.mle_update(counts, khg.MleTransitionUpdateConfig())
        options = khg.MleDiagGmmOptions()
        if first:
            options.min_gaussian_occupancy = 3
        flags = khg.str_to_gmm_flags("mvwt")
        khg.mle_am_diag_gmm_update(config=options, amdiag_gmm_acc=sums, flags=flags, am_gmm=model)
        return np.bincount(pdf[flat], minlength=self.tree.num_pdfs).astype(np.float32), total / len(flat)


def main() -> None:
    """Train, and write ``result.json``."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    peer = Peer(folder)
    task = peer.task
    model, paths = peer.flat_model(), peer.flat_paths()
    grow = (task["gaussians"] - model.num_pdfs) / task["grow_until"]
    for number in range(1, task["iterations"] + 1):
        if number in task["realign"]:
            paths = peer.align(model, paths)
        counts, likelihood = peer.estimate(model, paths, number == 1)
        if number <= task["grow_until"]:
            target = model_size(number, task["grow_until"], grow, model.num_pdfs)
            model.split_by_count(
                state_occs=torch.from_numpy(counts), target_components=target, perturb_factor=0.01,
                power=task["power"], min_count=20.0,
            )  # fmt: skip
        print(f"{number}: log-likelihood {likelihood:.3f}, {model.num_gauss} Gaussians", file=sys.stderr, flush=True)
    result = {
        "seconds": time.process_time() - peer.began,
        "aligning": peer.aligning,
        "gaussians": model.num_gauss,
        "log_likelihood": likelihood,
    }
    (folder / "result.json").write_text(json.dumps(result))


def model_size(number: int, last: int, grow: float, states: int) -> int:
    """The number of Gaussians after iteration ``number``: linear up to iteration ``last``."""
    return states + round(grow * min(number, last))


if __name__ == "__main__":
    main()
