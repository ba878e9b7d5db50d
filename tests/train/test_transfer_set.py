"""Learning from a teacher: what fits is learnt, what does not is refused before the first step."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from asr_kd.config import read_mapping
from asr_kd.errors import UserError
from asr_kd.frames import StoreContent, write_arrays
from asr_kd.nets import load_model, log_posteriors, open_model, save_ensemble
from asr_kd.targets import TargetConfig, TargetStore, Teacher, write_targets
from asr_kd.train import TrainingData, loop, probabilities, train
from asr_kd.train.distillation import distillation_loss
from asr_kd.train.objective import LiveTeacher, StoredTargets
from asr_kd.train.reader import Batch, Reader
from asr_kd.train.transfer_set import Sources, TrainingTask, read_priors
from tests.killing import Killed
from tests.targets.conftest import network
from tests.train.conftest import BINS, CONFIG, STATES, MakeData, without_labels, write_features, write_states

TEMPERATURE = 2.0
SOFT = dataclasses.replace(CONFIG, temperature=TEMPERATURE, hard_weight=0.0, checkpoint_steps=5)
MIXED = dataclasses.replace(SOFT, hard_weight=0.5)
FORMS = {
    "dense": TargetConfig("dense"),
    "topk": TargetConfig("topk", k=3, temperatures=(1.0, TEMPERATURE)),
    "sampled": TargetConfig("sampled", k=3, temperatures=(TEMPERATURE,)),
}


@dataclasses.dataclass(frozen=True)
class School:
    """Labelled ``data`` and ``dev``, and a ``teacher``: an ensemble of two networks with random weights."""

    data: TrainingData
    dev: TrainingData
    teacher: Path
    folder: Path

    def targets(self, form: str = "dense") -> TargetStore:
        return write_targets(Teacher(self.teacher, self.data.features), self.folder / form, FORMS[form])

    def with_targets(self, form: str = "dense", labels: bool = True) -> TrainingData:
        states = self.data.states if labels else None
        return TrainingData(self.data.features, states, targets=self.targets(form))

    @property
    def unlabelled(self) -> TrainingData:
        return TrainingData(self.data.features)

    def divergence(self, folder: Path) -> float:
        """KL(teacher || student) at the temperature, in nats, mean over the frames it learnt."""
        student, teacher, found = load_model(folder), open_model(self.teacher), []
        for utterance in self.data.utterances:
            features = self.data.read(utterance).features
            q, p = (
                torch.from_numpy(log_posteriors(model, features) / TEMPERATURE).log_softmax(1)
                for model in (student, teacher)
            )
            found.append(functional.kl_div(q, p, log_target=True, reduction="batchmean"))
        return float(torch.stack(found).mean())


@pytest.fixture
def school(make_data: MakeData, tmp_path: Path) -> School:
    wide = {"states": STATES, "bins": BINS, "left_context": 5, "right_context": 2}  # wider than the student
    members = [network(tmp_path / f"m{seed}", seed, **wide) for seed in (1, 2)]
    save_ensemble(tmp_path / "teacher", members)
    return School(make_data([50] * 12), make_data([50] * 4, seed=1), tmp_path / "teacher", tmp_path)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("form", [*FORMS, "live"])
def test_a_student_comes_close_to_its_teacher_without_a_label(school: School, tmp_path: Path, form: str) -> None:
    data, teacher = (school.unlabelled, school.teacher) if form == "live" else (school.with_targets(form, False), None)
    divergences = []
    for epochs in (1, 40):
        out = tmp_path / f"student{epochs}"
        train(dataclasses.replace(SOFT, epochs=epochs), data, school.dev, out, sources=Sources(teacher, school.teacher))
        divergences.append(school.divergence(out))
    assert divergences[1] < 0.5 * divergences[0]


def test_the_priors_are_those_asked_for(school: School, tmp_path: Path) -> None:
    assert school.data.states is not None
    for name, priors in (("model", school.teacher), ("states", school.data.states.path)):
        config = dataclasses.replace(SOFT, epochs=1)
        train(config, school.unlabelled, school.dev, tmp_path / name, sources=Sources(school.teacher, priors))
    assert torch.equal(load_model(tmp_path / "model").log_prior, open_model(school.teacher).log_prior)
    counted = school.data.statistics(STATES).log_prior
    assert np.array_equal(load_model(tmp_path / "states").log_prior.numpy(), counted)


def test_the_last_model_is_kept_of_soft_targets_and_the_best_of_labels(school: School) -> None:
    assert TrainingTask.plan(MIXED, school.with_targets()).config.keep == "last"
    assert TrainingTask.plan(CONFIG, school.data).config.keep == "best"
    assert TrainingTask.plan(dataclasses.replace(MIXED, keep="best"), school.with_targets()).config.keep == "best"


def test_the_network_s_size_comes_from_whatever_knows_it(school: School) -> None:
    for data, teacher in ((school.unlabelled, school.teacher), (school.with_targets(labels=False), None)):
        found = TrainingTask.plan(SOFT, data, Sources(teacher, school.teacher)).config.net
        assert (found.states, found.bins) == (STATES, BINS)


CHANGES = {"frequency_masks": 1, "time_masks": 2, "channel": 0.5, "scale": 0.1}


def test_a_state_of_a_target_that_the_student_lacks_is_an_error_where_it_is_read(school: School) -> None:
    arrays = {
        u: {"target_state": np.full((n, 3), 2, np.uint16), "weight": np.ones((n, 3), np.float16)}
        for u, n in school.data.frame_counts.items()
    }
    arrays["u2"]["target_state"][5, 1] = STATES
    config = {**dataclasses.asdict(FORMS["sampled"]), "num_states": STATES}
    content = StoreContent("targets", FORMS["sampled"].tensors(STATES), config)
    targets = TargetStore(write_arrays(school.folder / "wrong", content, arrays))
    data = TrainingData(school.data.features, targets=targets)
    with pytest.raises(
        UserError, match=rf"wrong: utterance u2, frame 5: .* state {STATES}; .* states 0 to {STATES - 1}"
    ):
        data.read("u2")
    with pytest.raises(UserError, match="utterance u2, frame 5"):
        list(data.runs(data.utterances))
    data.read("u1")


@pytest.mark.parametrize("key", CHANGES)
def test_stored_targets_of_other_features_than_the_student_sees_are_refused(school: School, key: str) -> None:
    config = dataclasses.replace(MIXED, **{key: CHANGES[key]})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"these targets belong to the stored features, but {key} .*--teacher"):
        TrainingTask.plan(config, school.with_targets())
    assert TrainingTask.plan(config, school.data, Sources(school.teacher)).teacher is not None


def test_spliced_examples_are_for_a_live_teacher_alone(school: School) -> None:
    config = dataclasses.replace(CONFIG, splices=1)
    for hard_weight, teacher in ((0.0, None), (0.5, school.teacher)):
        with pytest.raises(UserError, match="splices is 1, but labels and stored targets do not match"):
            TrainingTask.plan(dataclasses.replace(config, hard_weight=hard_weight), school.data, Sources(teacher))
    assert (
        TrainingTask.plan(
            dataclasses.replace(config, hard_weight=0.0), school.data, Sources(school.teacher)
        ).config.splices
        == 1
    )


def test_labels_of_spliced_speech_are_neither_learnt_nor_counted(school: School, tmp_path: Path) -> None:
    config = dataclasses.replace(SOFT, epochs=1, hard_weight=0.0)
    for splices in (0, 2):
        out = tmp_path / f"{splices}"
        train(
            dataclasses.replace(config, splices=splices), school.data, school.dev, out, sources=Sources(school.teacher)
        )
        entry = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
        assert ("accuracy" in entry) == (splices == 0)
        assert 0 < entry["dev_accuracy"] <= 1


def other_data(school: School) -> TrainingData:
    """The same utterances with other features, and the targets of the first ones."""
    arrays = {u: school.data.read(u).features + 1 for u in school.data.utterances}
    features = write_features(school.folder / "other", arrays)
    return TrainingData(features, school.data.states, targets=school.targets("topk"))


def test_what_does_not_fit_is_refused_before_the_first_step(
    school: School, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "training_step", lambda *_: pytest.fail("a step was made"))
    assert school.data.states is not None
    wide = network(tmp_path / "wide", 3, states=STATES, bins=BINS + 1)
    more = network(tmp_path / "more", 3, states=STATES + 1, bins=BINS)
    gone = without_labels({u: school.data.states.read(u)["state"] for u in school.data.utterances})
    silent = TrainingData(school.data.features, write_states(tmp_path / "gone", gone))
    cases: list[tuple[dict[str, Any], TrainingData, dict[str, Any], str]] = [
        ({}, school.with_targets(), {"teacher": school.teacher}, "a live teacher or on stored targets, not on both"),
        ({}, school.unlabelled, {}, "nothing to train on: .*; give --states, --targets or --teacher"),
        ({}, silent, {}, f"gone: nothing to train on: no frame of {len(gone)} utterances has a label; give"),
        ({"hard_weight": 0.5}, school.with_targets(labels=False), {}, "hard_weight is 0.5, but no frame has a label"),
        ({"hard_weight": 0.5}, silent, {"teacher": school.teacher}, "gone: hard_weight is 0.5, but no frame has"),
        ({"hard_weight": None}, school.with_targets("sampled", labels=False), {}, "sampled targets do not say .* give"),
        ({"label_smoothing": 0.1}, school.with_targets(), {}, "label_smoothing is for training on labels"),
        ({"label_smoothing": 0.1}, school.data, {"teacher": school.teacher}, "label_smoothing is for training on"),
        ({"soft_weight": 0.0}, school.with_targets(), {}, "soft_weight is 0, so the soft targets would have no effect"),
        ({"temperature": 3.0}, school.with_targets("topk"), {}, "temperature is 3, these topk targets are for 1, 2"),
        ({"match": "logits"}, school.with_targets("topk"), {}, "topk targets have no logits to match"),
        ({}, other_data(school), {}, "these targets do not belong to the features"),
        ({}, school.data, {"teacher": wide}, f"{BINS} fbank coefficients per frame; {wide} expects {BINS + 1}"),
        ({}, school.data, {"teacher": more}, f"{more}: {STATES + 1} states, but the student's labels"),
        ({}, school.data, {"teacher": school.teacher, "priors": more}, f"priors of {STATES + 1} states"),
        ({}, school.data, {"teacher": tmp_path / "absent"}, "absent: no such folder; expected a trained network"),
    ]
    for number, (changes, data, options, message) in enumerate(cases):
        out = tmp_path / f"out{number}"
        with pytest.raises(UserError, match=message):
            train(dataclasses.replace(MIXED, **changes), data, school.dev, out, sources=Sources(**options))
        assert not out.exists(), message


def test_targets_of_other_states_than_the_labels_are_refused(school: School, tmp_path: Path) -> None:
    more = network(tmp_path / "more", 3, states=STATES + 1, bins=BINS)
    targets = write_targets(Teacher(more, school.data.features), tmp_path / "t", FORMS["dense"])
    data = TrainingData(school.data.features, school.data.states, targets=targets)
    with pytest.raises(UserError, match=f"/t: {STATES + 1} states, but the student's labels or net.states have 6"):
        TrainingTask.plan(MIXED, data)


def batch_of(school: School, data: TrainingData, task: TrainingTask) -> tuple[Reader, Batch]:
    """A reader and its first batch; of chunks of 8 frames, so that some are no frames of an utterance."""
    model = loop.new_model(task.config, data, task.log_prior)
    config = dataclasses.replace(task.config, chunk=8, batch_frames=10_000)
    reader = loop.make_reader(data, config, model, torch.device("cpu"), task.context)
    return reader, next(iter(reader.epoch(0)))


def live(school: School, config: Any = MIXED) -> tuple[Reader, Batch, LiveTeacher]:
    task = TrainingTask.plan(config, school.data, Sources(school.teacher))
    reader, batch = batch_of(school, school.data, task)
    objective = task.objective(reader, torch.device("cpu"))
    assert isinstance(objective, LiveTeacher)
    return reader, batch, objective


@pytest.mark.parametrize("match", ["distribution", "logits"])
def test_a_live_teacher_is_what_it_stored_of_every_state(school: School, match: Any) -> None:
    config = dataclasses.replace(MIXED, match=match)
    _, batch, teacher = live(school, config)
    data = school.with_targets("dense")
    task = TrainingTask.plan(config, data)
    # The teacher looks further than the student: where it lays out the frames, both read the same batch.
    _, stored = batch_of(school, data, dataclasses.replace(task, teacher=teacher.teacher))  # type: ignore[arg-type]
    objective = StoredTargets(data.targets, config)  # type: ignore[arg-type]
    assert torch.equal(batch.labels, stored.labels)
    assert not batch.valid.all()
    logits = torch.randn(batch.labels.numel(), STATES, generator=torch.Generator().manual_seed(0))
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    losses = teacher(ours, batch), objective(theirs, stored)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-4)  # float16
    gradients = [torch.autograd.grad(loss, leaf)[0] for loss, leaf in zip(losses, (ours, theirs), strict=True)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_frames_without_a_label_count_in_the_soft_term(school: School, form: str) -> None:
    data = school.with_targets(form)
    task = TrainingTask.plan(MIXED, data)
    reader, batch = batch_of(school, data, task)
    objective = task.objective(reader, torch.device("cpu"))
    labels, valid = batch.labels.flatten(), batch.valid.flatten()
    some = torch.where(torch.arange(len(labels)) % 3 == 0, labels, -1).view_as(batch.labels)
    logits = torch.randn(len(labels), STATES, generator=torch.Generator().manual_seed(0))
    mixed = objective(logits, dataclasses.replace(batch, labels=some))
    soft = objective(logits, dataclasses.replace(batch, labels=torch.full_like(some, -1)))
    hard = functional.cross_entropy(logits, some.flatten(), ignore_index=-1)
    torch.testing.assert_close(mixed, soft + 0.5 * hard)
    assert data.targets is not None
    rows = data.targets.soft(batch.targets, TEMPERATURE)
    own = type(rows)(**{f.name: getattr(rows, f.name)[valid] for f in dataclasses.fields(rows)})
    none = torch.full((int(valid.sum()),), -1)
    torch.testing.assert_close(soft, distillation_loss(logits[valid], own, none, TEMPERATURE, 1.0, 0.0))
    assert not valid.all()


def test_a_live_teacher_scores_the_frames_that_the_student_sees(school: School) -> None:
    _, batch, objective = live(school)
    logits = torch.zeros(batch.labels.numel(), STATES)
    changed = dataclasses.replace(batch, features=batch.features + 1)
    assert not math.isclose(float(objective(logits, batch)), float(objective(logits, changed)), rel_tol=1e-3)


@pytest.mark.parametrize("form", ["topk", "sampled", "live"])
def test_killed_at_any_step_it_ends_with_the_same_weights(
    school: School, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = school.data if form == "live" else school.with_targets(form)
    sources = Sources(school.teacher) if form == "live" else Sources()
    masks = {"frequency_masks": 1, "frequency_width": 2} if form == "live" else {}
    config = dataclasses.replace(MIXED, **masks)  # type: ignore[arg-type]
    train(config, data, school.dev, tmp_path / "whole", sources=sources)
    real = loop.training_step
    for step in (0, 5, 19, 41):

        def die(*arguments: Any, step: int = step) -> None:
            if arguments[-1].step == step:
                raise Killed
            real(*arguments)

        killed = tmp_path / f"killed{step}"
        with monkeypatch.context() as patch:
            patch.setattr(loop, "training_step", die)
            with pytest.raises(Killed):
                train(config, data, school.dev, killed, sources=sources)
        train(config, data, school.dev, killed, sources=sources)
        assert weights(killed) == weights(tmp_path / "whole")


def test_a_folder_of_other_targets_or_another_teacher_is_refused(school: School, tmp_path: Path) -> None:
    config = dataclasses.replace(MIXED, epochs=1)
    train(config, school.with_targets("topk"), school.dev, tmp_path / "stored")
    with pytest.raises(UserError, match="train.targets"):
        train(config, school.with_targets("dense"), school.dev, tmp_path / "stored")
    train(config, school.data, school.dev, tmp_path / "live", sources=Sources(school.teacher))
    with pytest.raises(UserError, match="teacher is '"):
        train(config, school.data, school.dev, tmp_path / "live", sources=Sources(tmp_path / "m1"))


def test_priors_of_states_beyond_the_network_are_refused(school: School, tmp_path: Path) -> None:
    states = write_states(tmp_path / "s", {"x": np.array([0, STATES], np.uint16)}, STATES + 1)
    with pytest.raises(UserError, match=f"has state {STATES}, but the network has {STATES} outputs"):
        TrainingTask.plan(SOFT, school.unlabelled, Sources(school.teacher, states.path))
    with pytest.raises(UserError, match="holds features; expected states, soft targets or a model for priors"):
        TrainingTask.plan(SOFT, school.unlabelled, Sources(school.teacher, school.data.features.path))


def test_priors_are_of_the_labelled_frames(school: School, tmp_path: Path) -> None:
    store = write_states(tmp_path / "s", {"x": np.array([0, -1, 2, 2, -1], np.int32)})
    prior, _ = read_priors(store.path, STATES)
    np.testing.assert_allclose(np.exp(prior), np.array([2, 1, 3, 1, 1, 1]) / 9, rtol=1e-6)


def test_a_student_whose_labels_are_all_none_is_not_judged_on_what_it_learns(school: School, tmp_path: Path) -> None:
    assert school.data.states is not None
    labels = {utterance: school.data.states.read(utterance)["state"] for utterance in school.data.utterances}
    data = TrainingData(school.data.features, write_states(tmp_path / "none", without_labels(labels)))
    summary = train(
        dataclasses.replace(MIXED, epochs=1, hard_weight=None),
        data,
        school.dev,
        tmp_path / "out",
        sources=Sources(school.teacher),
    )
    assert "train_accuracy" not in summary
    assert 0 < summary["dev_accuracy"] <= 1


@pytest.mark.parametrize("config", [TargetConfig("dense"), TargetConfig("topk", k=STATES, temperatures=(1.0,))])
def test_priors_of_targets_are_what_the_teacher_believed(tmp_path: Path, school: School, config: TargetConfig) -> None:
    store = write_targets(Teacher(school.teacher, school.data.features), tmp_path / "targets", config).store
    prior, _ = read_priors(store.path, STATES)
    believed = np.concatenate(list(probabilities(open_model(school.teacher), school.data)))
    np.testing.assert_allclose(np.exp(prior), believed.mean(0), atol=2e-3)
    with pytest.raises(UserError, match=f"targets of {STATES} states; priors come from .* of 9 states"):
        read_priors(store.path, 9)


def test_a_student_without_labels_needs_neither_a_hard_weight_nor_priors(school: School, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, temperature=TEMPERATURE, epochs=1)
    for form in ("dense", "topk"):
        data = school.with_targets(form, labels=False)
        train(config, data, school.dev, tmp_path / form)
        prior = load_model(tmp_path / form).log_prior.exp()
        posterior = np.concatenate(
            [log_posteriors(open_model(school.teacher), data.read(u).features) for u in data.utterances]
        )
        mean = np.exp(posterior).sum(0) + 1
        np.testing.assert_allclose(prior, mean / mean.sum(), atol=0.02 if form == "topk" else 1e-3)
        recorded = read_mapping(tmp_path / form / "train.yaml")
        assert recorded["hard_weight"] == 0
    train(config, school.unlabelled, school.dev, tmp_path / "live", sources=Sources(school.teacher))
    assert torch.equal(load_model(tmp_path / "live").log_prior, open_model(school.teacher).log_prior)


def test_a_student_with_labels_has_a_hard_weight_of_a_half(school: School) -> None:
    assert TrainingTask.plan(CONFIG, school.data, Sources(school.teacher)).config.hard_weight == 0.5
    gone = without_labels({u: school.data.states.read(u)["state"] for u in school.data.utterances})  # type: ignore[union-attr]
    silent = TrainingData(school.data.features, write_states(school.folder / "gone", gone))
    task = TrainingTask.plan(CONFIG, silent, Sources(school.teacher))
    assert task.config.hard_weight == 0
    assert task.log_prior is not None


def test_only_the_targets_of_the_transfer_set_decide_the_priors(school: School) -> None:
    targets = school.targets("dense")
    half = TrainingData(school.data.features, None, school.data.utterances[:3], targets)
    whole = TrainingData(school.data.features, None, None, targets)
    config = dataclasses.replace(SOFT, hard_weight=None)
    first, second = (TrainingTask.plan(config, data).log_prior for data in (half, whole))
    assert first is not None
    assert second is not None
    assert not np.array_equal(first, second)
