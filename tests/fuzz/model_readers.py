"""Readers of stores, networks, Gaussians, graphs and results: what they are given and how they are called."""

from tests.fuzz.reader import Reader, build_network, load, read_store_randomly, read_url_store

_TRAIN = "train --feats mfcc --states states --dev-feats mfcc --dev-states states --config conf/train.yaml --device cpu"

MODEL_READERS = (
    Reader(
        "model-build",
        ("graph", "gmm/lda", "mfcc", "teacher", "conf", "states"),
        (
            "graph/*",
            "gmm/lda/*",
            "mfcc/*",
            "teacher/*/model.safetensors",
            "teacher/*/*.yaml",
            "teacher/ensemble.yaml",
            "conf/features.yaml",
            "teacher/*/summary.json",
        ),
        (
            "model build --gmm gmm/lda --graph graph --features mfcc out",
            "model build --network teacher/seed1 --states-dir gmm/lda --graph graph --features conf/features.yaml out",
            "model build --network teacher --states-dir gmm/lda --graph graph --features mfcc out",
            "model build --network teacher/seed1 --priors states --states-dir gmm/lda --graph graph"
            " --features mfcc out",
        ),
    ),
    Reader(
        "graph-of-a-model",
        ("model_net", "mfcc"),
        ("model_net/HCLG.fst",),
        (
            "decode model_net --feats mfcc",
            "decode model_net --feats mfcc --format json --nbest 3",
            "model info model_net",
        ),
    ),
    Reader(
        "model-folder",
        ("model_net", "mfcc", "plain", "wav"),
        ("model_net/*",),
        (
            "decode model_net --feats mfcc --format ctm",
            "decode model_net plain --output out",
            "model info model_net",
            "decode model_net wav/r0.wav --format json --nbest 2",
        ),
    ),
    Reader(
        "gmm-model-folder",
        ("model_gmm", "mfcc"),
        ("model_gmm/*",),
        ("decode model_gmm --feats mfcc --format ctm", "model info model_gmm"),
    ),
    Reader(
        "ensemble-model-folder",
        ("model_ensemble", "mfcc"),
        ("model_ensemble/*", "model_ensemble/*/*"),
        ("decode model_ensemble --feats mfcc", "model info model_ensemble"),
    ),
    Reader(
        "tuning",
        ("model_net", "mfcc", "dec_net", "plain"),
        ("model_net/model.yaml", "model_net/tune.json", "dec_net/*/*"),
        ("score --ref plain --hyp dec_net/test", "compare dec_net/test", "model info model_net"),
    ),
    Reader(
        "feature-store",
        ("mfcc", "states", "plain", "gmm/lda", "model_gmm", "teacher", "wav"),
        ("mfcc/*",),
        (
            read_store_randomly,
            "frames info mfcc",
            "frames verify mfcc",
            "frames verify mfcc --rebuild",
            "frames copy mfcc out --shard-frames 50",
            "frames export mfcc out.ark",
            "hmm align gmm/lda plain mfcc out --skip-bad",
            "decode model_gmm --feats mfcc --skip-bad",
            "feats plain out --like mfcc",
            "targets write out --teacher teacher --feats mfcc --form topk --k 2",
        ),
    ),
    Reader(
        "state-store",
        ("mfcc", "states", "conf", "teacher", "model_net"),
        ("states/*",),
        (
            "frames info states",
            "frames verify states",
            "frames export states out.ark",
            "targets write out --teacher teacher --feats mfcc --states states --form topk --k 2",
            "train --evaluate teacher --feats mfcc --states states --device cpu",
            "decode model_net --feats mfcc --states states",
        ),
    ),
    Reader("url-store", ("mfcc",), ("mfcc/*",), (read_url_store,)),
    *(
        Reader(
            f"targets-{form}",
            (form, "mfcc", "states", "conf", "teacher"),
            (f"{form}/*",),
            (
                f"targets info {form}",
                f"targets verify {form}",
                f"frames verify {form}",
                f"{_TRAIN} --targets {form} --out out",
            ),
        )
        for form in ("dense", "topk", "sampled")
    ),
    Reader(
        "network-folder",
        ("teacher", "mfcc", "states", "conf"),
        ("teacher/ensemble.yaml", "teacher/*/model.safetensors", "teacher/*/config.yaml"),
        (
            "train --evaluate teacher --feats mfcc --states states --device cpu",
            "train --evaluate teacher/seed1 --feats mfcc --states states --device cpu",
            "targets write out --teacher teacher --feats mfcc --form topk --k 2",
            "model ensemble out teacher/seed1 teacher/seed2",
            "targets compare --teacher teacher/seed2 --feats mfcc --k 2",
            "model calibrate teacher/seed1 out --classes 3 --feats mfcc --teacher teacher",
            f"{_TRAIN} --teacher teacher --out out",
        ),
    ),
    Reader(
        "gmm-folder",
        ("gmm", "plain", "mfcc", "lm.arpa"),
        ("gmm/lda/*",),
        (
            "hmm align gmm/lda plain mfcc out",
            "graph compile gmm/lda lm.arpa out",
            "hmm align gmm/lda plain mfcc out --skip-bad",
        ),
    ),
    Reader(
        "resumed-gmm-training",
        ("gmm", "plain", "mfcc", "lexicon.txt", "conf"),
        ("gmm/*", "gmm/mono/*", "gmm/tri/*"),
        ("hmm train plain mfcc lexicon.txt gmm --config conf/hmm.yaml",),
    ),
    Reader(
        "resumed-training",
        ("resumed", "mfcc", "states", "topk", "conf"),
        ("resumed/*.yaml", "resumed/*.safetensors", "resumed/*.json*"),
        (f"{_TRAIN} --targets topk --out resumed",),
    ),
    Reader(
        "members-folder",
        ("teacher", "mfcc", "states", "conf"),
        ("teacher/*.yaml", "teacher/*/*.yaml", "teacher/*/*.json*", "teacher/*/*.safetensors"),
        (f"{_TRAIN} --members 2 --seed 1 --threads 1 --out teacher",),
    ),
    Reader(
        "specialists",
        ("clusters", "special", "joint", "teacher", "mfcc", "states", "gmm/lda", "plain"),
        (
            "clusters/*",
            "special/*",
            "special/*/*.yaml",
            "special/*/*.safetensors",
            "joint/*",
            "teacher/seed1/config.yaml",
        ),
        (
            "specialists prepare out --clusters clusters --number 0 --network teacher/seed1 --states states"
            " --dev-states states",
            "specialists join out special --network teacher/seed1",
            "specialists compare joint --feats mfcc --states states --utt2spk plain/utt2spk",
        ),
    ),
    Reader(
        "scores",
        ("dec_gmm", "dec_net", "plain", "rows.jsonl"),
        ("dec_*/*/*", "rows.jsonl"),
        (
            "compare dec_gmm/test dec_net/test",
            "compare dec_gmm/test dec_net/test --format json",
            "score --ref plain --hyp dec_net/test --normaliser upper-strip-punct",
            "report --title T --output out --table a --system GMM dec_gmm/test --system DNN dec_net/test"
            " --difference GMM",
            "report --title T --output out --table t --rows rows.jsonl",
            "plot against --output out.png --title T --series a 1=dec_net/test 2=dec_net/test --x states",
        ),
    ),
    Reader(
        "curves",
        ("student",),
        ("student/*.jsonl", "student/*.json", "student/train.yaml"),
        ("plot curves --output out.png --title T --series a student",),
    ),
    Reader(
        "utterance-list",
        ("plain/utt2spk", "ids.txt", "mfcc", "states", "model_net", "teacher"),
        ("plain/utt2spk", "ids.txt"),
        (
            "decode model_net --feats mfcc --utterances ids.txt",
            "frames copy mfcc out --utterances plain/utt2spk",
            "train --evaluate teacher --feats mfcc --states states --utterances plain/utt2spk --device cpu",
            "train --evaluate teacher --feats mfcc --states states --utt2spk plain/utt2spk --out o --device cpu",
        ),
    ),
    Reader(
        "configurations",
        (
            "conf",
            "student",
            "model_net/model.yaml",
            "teacher/ensemble.yaml",
            "clusters",
            "gmm/lda/states.yaml",
            "plain",
            "wav",
        ),
        ("conf/*", "student/config.yaml", "model_net/model.yaml", "teacher/ensemble.yaml", "clusters/*"),
        (
            "feats plain out --config conf/features.yaml",
            "train --print-config --config conf/train.yaml",
            build_network,
            load("asr_kd.hmm.train:HmmConfig", "conf/hmm.yaml"),
            load("asr_kd.train:TrainConfig", "conf/train.yaml"),
            load("asr_kd.decode.model_folder:ModelConfig", "model_net/model.yaml"),
            load("asr_kd.nets.ensemble:EnsembleConfig", "teacher/ensemble.yaml"),
            load("asr_kd.specialists.cluster:Clusters", "clusters/clusters.yaml"),
        ),
    ),
)
