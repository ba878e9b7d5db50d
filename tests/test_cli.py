import argparse
import errno
import importlib
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from asr_kd import __version__, cli
from asr_kd.errors import UserError


def _raise(error: BaseException) -> int:
    """The exit status of a verb whose ``run`` raises ``error``."""

    def run(_: argparse.Namespace) -> None:
        raise error

    class Verb:
        @staticmethod
        def configure(parser: argparse.ArgumentParser) -> None:
            parser.set_defaults(run=run)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib, "import_module", lambda _: Verb)
        return cli.main(["score"])


def _caused_by(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


def _parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """A verb's parser and those of its own verbs."""
    children = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [parser, *(inner for action in children for child in action.choices.values() for inner in _parsers(child))]


def _examples(text: str) -> list[list[str]]:
    """The words of each ``asr-kd ...`` command of a help text; lines ending in a backslash are joined."""
    joined = re.sub(r"\\\n\s*", "", text)
    commands = re.findall(r"^(?:example: )?\s*(?:[^'\n]*\| )?asr-kd (.+)$", joined, re.MULTILINE)
    return [shlex.split(command.split(" > ")[0]) for command in commands]


def test_help_lists_every_verb_and_loads_no_heavy_library() -> None:
    program = (
        "import sys; from asr_kd.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(sorted({'torch', 'numba', 'scipy', 'jiwer'} & set(sys.modules)))\n"
    )
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert output.splitlines()[-1] == "[]"
    assert all(re.search(rf"^ +{verb}\b", output, re.MULTILINE) for verb in cli.VERBS)


def test_the_help_of_all_teaches_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    commands = _examples(capsys.readouterr().out)
    assert commands
    assert all(command[0] in cli.VERBS for command in commands)


@pytest.mark.parametrize("verb", cli.VERBS)
def test_each_verb_and_action_has_an_example_that_its_parser_takes(verb: str) -> None:
    parser = argparse.ArgumentParser(prog=f"asr-kd {verb}")
    importlib.import_module(f"asr_kd.cli.{verb}").configure(parser)
    assert parser.description
    for part in _parsers(parser):
        assert part.format_help()  # a stray % in a help text would raise
        commands = [words for words in _examples(part.epilog or "") if words[0] == verb]
        own = part.prog.split()[1:]
        assert any(words[: len(own)] == own for words in commands), f"{part.prog} --help has no example"
        for words in commands:
            parser.parse_args(words[1:])  # ends the test where it does not parse


@pytest.mark.parametrize("verb", cli.VERBS)
def test_a_verb_s_help_does_not_wait_for_torch(verb: str) -> None:
    program = (
        "import sys; from asr_kd.cli import main\n"
        "try: main([sys.argv[1], '--help'])\n"
        "except SystemExit: print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, verb], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_every_verb_that_runs_a_network_over_data_takes_the_same_device_by_default() -> None:
    found = {}
    for verb in cli.VERBS:
        parser = argparse.ArgumentParser(prog=verb)
        importlib.import_module(f"asr_kd.cli.{verb}").configure(parser)
        for part in _parsers(parser):
            for action in part._actions:
                if "--device" in action.option_strings:
                    found[part.prog] = action.default
    expected = ("decode", "hmm align", "specialists cluster", "specialists compare", "targets compare", "targets write")
    assert found == dict.fromkeys((*expected, "train"), "auto")


def _options() -> list[tuple[str, argparse.Action]]:
    """Each option and argument of each verb and action, with the name of its command."""
    found = []
    for verb in cli.VERBS:
        parser = argparse.ArgumentParser(prog=verb)
        importlib.import_module(f"asr_kd.cli.{verb}").configure(parser)
        commands = (argparse._SubParsersAction, argparse._HelpAction)
        found += [(p.prog, a) for p in _parsers(parser) for a in p._actions if not isinstance(a, commands)]
    return found


def test_every_option_is_explained_with_its_default() -> None:
    for command, action in _options():
        assert action.help, f"{command} {action.option_strings or action.metavar}"
        if action.option_strings and action.nargs != 0 and action.default not in (None, [], ""):
            assert "default" in action.help or action.required, f"{command} {action.option_strings}: {action.help}"


def test_an_option_s_value_has_one_name_in_all_verbs() -> None:
    names: dict[str, set[object]] = {}
    for _, action in _options():
        if action.nargs != 0 and action.help != argparse.SUPPRESS:
            for option in action.option_strings:
                names.setdefault(option, set()).add(action.metavar)
    differ = {"--k", "--output", "--picture", "--series"}  # other kinds of values
    assert {option for option, found in names.items() if len(found) > 1} <= differ


@pytest.mark.parametrize(
    ("command", "old", "new"),
    [
        ("lm estimate text lm.arpa", "--unknown", "--unk"),
        ("hmm import-alignment states ali.ark", "--features x", "--feats x"),
        ("model build --graph g --features f --network n out", "--states x", "--states-dir x"),
    ],
)
def test_the_former_name_of_an_option_still_works_but_is_not_in_the_help(command: str, old: str, new: str) -> None:
    verb, *words = command.split()
    parser = argparse.ArgumentParser(prog=verb)
    importlib.import_module(f"asr_kd.cli.{verb}").configure(parser)
    assert parser.parse_args([*words, *old.split()]) == parser.parse_args([*words, *new.split()])
    shown = next(part.format_help() for part in _parsers(parser) if part.prog == f"{verb} {words[0]}")
    assert new.split()[0] in shown
    assert f"{old.split()[0]} " not in shown


def test_an_error_begins_with_the_command_and_its_action(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["frames", "info", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("asr-kd frames info: error: ")


@pytest.mark.parametrize("device", ["tpu", "meta", "cpu:x", "cuda:", "cuda:-1"])
def test_an_unknown_device_is_refused_with_the_three_that_exist(device: str) -> None:
    with pytest.raises(UserError, match=f"--device {device}: unknown; expected cpu, cuda or cuda:NUMBER"):
        cli.torch_device(device)


def test_a_missing_gpu_is_refused_with_advice() -> None:
    with pytest.raises(UserError, match=r"--device cuda:999: (no usable GPU here; give --device cpu|this machine has)"):
        cli.torch_device("cuda:999")


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.strip() == f"asr-kd {__version__}"


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (UserError("f.wav: empty"), 1, "asr-kd score: error: f.wav: empty\n"),
        (KeyboardInterrupt(), 130, "asr-kd score: interrupted\n"),
        (_caused_by(SystemError("returned a result with an exception set"), KeyboardInterrupt()), 130, "interrupted\n"),
        (MemoryError(), 1, "not enough memory"),
        (PermissionError(errno.EACCES, "Permission denied", "out/wer.json"), 1, "out/wer.json: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left"),
    ],
)
def test_a_mistake_is_one_line_without_a_traceback(
    error: BaseException, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _raise(error) == status
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1


def test_the_project_s_own_mistake_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        _raise(ZeroDivisionError())


def test_wrong_options_end_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["transcribe"])
    assert ended.value.code == 2
    assert "invalid choice: 'transcribe'" in capsys.readouterr().err


@pytest.mark.parametrize(("resumes", "hint"), [(True, "; run the same command again to resume"), (False, "")])
def test_only_a_verb_that_resumes_says_so(resumes: bool, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    def run(_: argparse.Namespace) -> None:
        raise KeyboardInterrupt

    class Verb:
        @staticmethod
        def configure(parser: argparse.ArgumentParser) -> None:
            parser.set_defaults(run=run, resumes=resumes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib, "import_module", lambda _: Verb)
        assert cli.main(["score"]) == 130
    assert capsys.readouterr().err == f"asr-kd score: interrupted{hint}\n"


def test_output_is_utf_8_in_any_locale(tmp_path: Path) -> None:
    (tmp_path / "ref").write_text("u1 हिन्दी\n")
    (tmp_path / "hyp").write_text("u1 हिन्दी\n")
    command = [sys.executable, "-m", "asr_kd", "score", "--ref", "ref", "--hyp", "ठीक"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, env=environment)
    assert done.returncode == 1
    assert "ठीक: no such file" in done.stderr.decode()


def test_a_full_output_is_named_and_fails() -> None:
    command = [sys.executable, "-m", "asr_kd", "train", "--print-config"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == "asr-kd train: error: No space left on device\n"


def test_a_reader_that_leaves_early_ends_the_command_quietly_with_its_own_status(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("".join(f"u{n:05d} WORD\n" for n in range(3000)))
    (tmp_path / "utt2spk").write_text("".join(f"u{n:05d} s{n:05d}\n" for n in range(3000)))
    command = (
        f"{sys.executable} -m asr_kd score --ref {tmp_path} --hyp {tmp_path}/text | head -n 1; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("WER 0.00 %")
    assert done.stdout.splitlines()[-1] in ("0", "141")  # 0: all fitted into the pipe
    assert done.stderr == ""


def test_without_ray_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["corpus", "validate", str(tmp_path), "--engine", "ray"]) == 1
    assert "--engine ray needs Ray, which is not installed: pip install 'asr-kd[ray]'" in capsys.readouterr().err


def test_a_cluster_that_does_not_answer_is_named_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert cli.main(["corpus", "validate", str(tmp_path), "--engine", "ray"]) == 1
    assert "RAY_ADDRESS=127.0.0.1:1: no Ray cluster can be joined there" in capsys.readouterr().err
