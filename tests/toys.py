"""Toys: the smallest models, batches and kits that show a property. D = 16, two layers, images of
32 pixels.
"""

import copy
import functools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file
from torch import nn

from wbdc.cli import main
from wbdc.core import plug
from wbdc.core.batch import Batch
from wbdc.core.files import publish_json
from wbdc.core.item_random import item_seed_numbers
from wbdc.core.token_hashes import HASH_BYTES
from wbdc.data.loader import collate
from wbdc.data.text import learn_tokenizer
from wbdc.nets import fusion as fusions
from wbdc.nets import vision as visions
from wbdc.nets.default_head import DEFAULT_HEAD
from wbdc.nets.model import VideoClassifier, build_model
from wbdc.train.task import Task

torch.set_num_threads(1)

WORDS, CLASSES = 50, 5
SPECIAL = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[MASK]": 4}
TASK = Task(
    classes=tuple(f"000{i}" for i in range(CLASSES)),
    class_counts=(40, 20, 10, 5, 1),
    parents=(0, 0, 1, 1, 1),
    fields=("title", "asr", "ocr"),
    total_steps=10,
    batch_size=6,
    seed=0,
    ids=tuple(f"v{i}" for i in range(12)),
    vocabulary=(*SPECIAL, *(f"##{i}" if i % 4 == 0 else f"{i}" for i in range(5, WORDS))),
)
# of models of transformers
BERT_CONFIG = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
VIT_CONFIG = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": 32,
    "patch_size": 16,
}
CHINESE_CLIP_CONFIG = {
    "text_config": BERT_CONFIG,
    "vision_config": VIT_CONFIG,
    "projection_dim": 8,
}
VIDEO_VIT_CONFIG = {**VIT_CONFIG, "num_hidden_layers": 2, "num_frames": 4}
TRUNK = {"model_type": "bert", **BERT_CONFIG}
IMAGE_SETTINGS = {
    "size": 32,
    "mean": [0.5, 0.4, 0.3],
    "std": [0.2, 0.3, 0.4],
    "interpolation": "bilinear",
}
VIT = {
    "embed_dim": 8,
    "vision_cfg": {"layers": 1, "width": 16, "head_width": 8, "patch_size": 16, "image_size": 32},
}

# the settings with which every fusion and tower is tested; a test fails for a new plug without a
# line here
FUSIONS = {
    "single_stream": {},
    "albef": {"heads": 2, "dropout": 0.0},
    "alpro": {},
    "bottleneck": {"heads": 2, "dropout": 0.0, "tokens": 3},
    "late": {"heads": 2, "dropout": 0.0},
    "lxmert": {"heads": 2, "dropout": 0.0, "layers": 1},
    "dual_stream": {"heads": 2, "dropout": 0.0},
    "cross_attention": {"heads": 2, "dropout": 0.0},
}
# the fusions whose text reads the frames
CROSS_MODAL = [name for name in FUSIONS if name != "late"]
# the image tower of towers with temporal modules
IMAGE_TOWER = {"use": "timm", "model": "test_resnet", "pretrained": False, "size": 32}
VISIONS = {
    "clip": {"architecture": VIT, "image": IMAGE_SETTINGS},
    "timm": {"model": "test_resnet", "pretrained": False, "size": 32},
    "torchvision": {"model": "shufflenet_v2_x0_5", "size": 32},
    "linear_patches": {"dim": 8, "patch": 16, "size": 32},
    "features": {"dim": 12},
    "tsn": {"tower": IMAGE_TOWER, "frames": 4, "segments": 3},
    "tsm": {"tower": IMAGE_TOWER, "frames": 4, "segments": 3},
    "tin": {"tower": IMAGE_TOWER, "frames": 4, "segments": 3},
    "tam": {"tower": IMAGE_TOWER, "frames": 4, "segments": 3},
    "tpn": {"tower": IMAGE_TOWER, "frames": 4, "segments": 3, "width": 8},
    "c3d": {"size": 32, "channels": 2, "hidden": 8, "frames": 4, "image": IMAGE_SETTINGS},
    "i3d": {"size": 32, "channels": 4, "frames": 4, "segments": 3},
    "pytorchvideo": {
        "model": "x3d_xs",
        "pretrained": False,
        "frames": 4,
        "segments": 3,
        "size": 32,
    },
    "transformers_video": {
        "architecture": {"model_type": "videomae", **VIDEO_VIT_CONFIG},
        "image": IMAGE_SETTINGS,
        "frames": 4,
    },
    "torchvision_video": {"model": "mc3_18", "frames": 4, "segments": 3, "size": 32},
}
VISIONS["two_stream"] = {
    "rgb": {"use": "clip", **VISIONS["clip"]},
    "motion": {"use": "timm", **VISIONS["timm"]},
}
VISIONS["regions"] = {"tower": IMAGE_TOWER, "regions": 2, "side": None, "frames": 4}
# ten videos, "v0" to "v9", each with the probabilities .7, .1, .1, .05 and .05 in another order
SOFT_LABELS = Path(__file__).parent / "train" / "soft_labels.npz"
# settings of each objective that needs some, or that is tested with several
OBJECTIVES: dict[str, list[dict]] = {
    "simcse": [{}, {"source": "pooled"}],
    "clip": [{}, {"fusion": "after"}, {"fusion": "both", "field": "asr"}],
    "contrast": [{}, {"queue": 4}, {"distill": 0.4}],
    "inverse_cloze": [{}, {"query": "title"}],
    "mask_words": [{"unit": "token"}, {"unit": "word", "distill": 0.4}, {"unit": "ngram"}],
    "mask_patches": [{"share": 0.5, "width": 16, "layers": 1, "heads": 2}],
    "mask_frames": [
        {"loss": "nce", "share": 0.5},
        {"loss": "regression", "fill": "zero", "share": 0.5},
    ],
    "match": [{"negatives": "random"}, {"negatives": "hard"}],
    "pseudo_labels": [{"file": str(SOFT_LABELS)}, {"file": str(SOFT_LABELS), "temperature": 2.0}],
}
# settings of each trick that needs some
TRICKS: dict[str, dict] = {"freeze": {"on": ["fusion.trunk.encoder.layer.0", "vision"]}}
# the towers of a further modality; each reads rows of this width
MODALITY_WIDTH = 7
MODALITIES = {
    "features": {"width": MODALITY_WIDTH, "steps": 5},
    "ast": {
        "architecture": {
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 8,
            "num_mel_bins": 8,
            "patch_size": 4,
            "frequency_stride": 4,
            "time_stride": 3,
        },
        "frames": 10,
        "steps": 5,
    },
    "vggish": {
        "pretrained": False,
        "frames": 16,
        "mels": 16,
        "channels": 2,
        "hidden": 16,
        "dim": 6,
        "steps": 5,
    },
    "word2vec": {
        "dim": 6,
        "steps": 5,
        "size": 4,
    },
}
MODALITY_WIDTHS = {"features": MODALITY_WIDTH, "ast": 10 * 8, "vggish": 16 * 16, "word2vec": 4}
AUDIO = {"audio": {"use": "features", **MODALITIES["features"]}}
POOLINGS = {
    "mean": {},
    "mean_by_modality": {},
    "concatenate": {},
    "first_token": {},
    "max": {},
    "attention": {"hidden": 8},
    "four_poolings": {"hidden": 8},
    "netvlad": {"clusters": 3, "gating": True},
    "net_rvlad": {"clusters": 3, "gating": True},
    "soft_dbow": {"clusters": 6, "gating": True},
    "netfv": {"clusters": 3, "gating": True},
    "nextvlad": {"clusters": 3, "groups": 4, "gating": True},
    "frame_similarity": {},
}
# a fusion and a tower meet in a projection only, so not every fusion is tested with every tower
PAIRS = [
    *((fusion, "clip") for fusion in plug.plug_names(fusions)),
    *(("dual_stream", vision) for vision in plug.plug_names(visions) if vision != "clip"),
]


def blueprint(
    fusion: str = "dual_stream",
    vision: str = "clip",
    *,
    pooling: str = "mean",
    layers: int | None = None,
    head: dict | None = None,
    modality: dict | None = None,
    **settings: object,
) -> dict:
    """Return the blueprint of a toy model.

    layers: of the fusion, where it has any. head: its table; None: linear. modality: the tables of
    further modalities; None: none. settings: override those of the vision tower.
    """
    has_layers = "layers" in plug.plug_settings(plug.find_plug(fusions, fusion))
    depth = {"layers": layers} if layers and has_layers else {}
    tables = {
        "vision": {"use": vision, **VISIONS[vision], **settings},
        "fusion": {"use": fusion, **FUSIONS[fusion], **depth},
        "pooling": {"use": pooling, **POOLINGS[pooling]},
        "head": head or DEFAULT_HEAD,
        **({"modality": modality} if modality else {}),
    }
    facts = {"classes": CLASSES, "parents": list(TASK.parents), "special": SPECIAL}
    return {"trunk": TRUNK, **tables, **facts}


def model(
    fusion: str = "dual_stream", vision: str = "clip", seed: int = 0, **settings: object
) -> VideoClassifier:
    """Build a toy model in evaluation mode."""
    built, random_state = _build_once(json.dumps(blueprint(fusion, vision, **settings)), seed)
    torch.set_rng_state(random_state)
    return _copy_module(built, {})


def shared_model(fusion: str = "dual_stream", vision: str = "clip") -> VideoClassifier:
    """Return the toy model in evaluation mode that tests share which change neither its weights nor
    its mode.
    """
    return _build_once(json.dumps(blueprint(fusion, vision)), seed=0)[0]


@functools.cache
def _build_once(tables: str, seed: int) -> tuple[VideoClassifier, torch.Tensor]:
    """Build a toy model of a blueprint in JSON; return it and the state of the random numbers."""
    torch.manual_seed(seed)
    return build_model(json.loads(tables)).eval(), torch.get_rng_state()


def _copy_module(module: nn.Module, memo: dict[int, object]) -> nn.Module:
    """Return copy.deepcopy(module, memo), which takes three times as long: a module has a dozen
    empty dictionaries.
    """
    if id(module) in memo:
        return memo[id(module)]

    copied = memo[id(module)] = module.__new__(type(module))
    for name, value in vars(module).items():
        if isinstance(value, dict) and not value:
            vars(copied)[name] = type(value)()
        elif name == "_modules":
            vars(copied)[name] = {
                key: None if child is None else _copy_module(child, memo)
                for key, child in value.items()
            }
        else:
            vars(copied)[name] = copy.deepcopy(value, memo)
    return copied


def videos(
    frame_counts: tuple[int, ...] = (3, 0, 4, 1, 2, 4), vision: str = "clip", seed: int = 1
) -> tuple[list, list, list]:
    """Return the ids, token ids and frames of videos. The last but one video has no words."""
    random = np.random.default_rng(seed)
    count = len(frame_counts)
    text = [[2, *random.integers(5, WORDS, 3 + 2 * i).tolist(), 3] for i in range(count)]
    if count > 1:
        text[-2] = [2, 3, 3, 3]
    shape = (VISIONS["features"]["dim"],) if vision == "features" else (3, 32, 32)
    frames = [
        random.integers(0, 256, (n, *shape)).astype(
            np.float16 if vision == "features" else np.uint8
        )
        for n in frame_counts
    ]
    return [f"v{i}" for i in range(count)], text, frames


def batch(
    frame_counts: tuple[int, ...] = (3, 0, 4, 1, 2, 4), vision: str = "clip", seed: int = 1
) -> Batch:
    """Collate `videos` with random labels."""
    ids, text, frames = videos(frame_counts, vision, seed)
    labels = np.random.default_rng(seed).integers(0, CLASSES, len(ids))
    fields = [token_fields(row) for row in text]
    return collate(ids, text, frames, labels, fields=fields, seeds=item_seed_numbers(ids, seed, 0))


def with_audio(
    b: Batch,
    counts: tuple[int, ...] = (2, 0, 5, 1, 3, 0),
    seed: int = 4,
    width: int = MODALITY_WIDTH,
) -> Batch:
    """Return the batch with so many rows of sound of each video."""
    random = np.random.default_rng(seed)
    rows = [random.normal(size=(count, width)).astype(np.float16) for count in counts]
    if width == HASH_BYTES:  # hashes below 4 are the vocabulary of a new tower of tokens
        rows = [random.integers(4, size=(count, 4)) * (0, 0, 0, 1) for count in counts]
        rows = [hashes.astype(np.float16) for hashes in rows]
    empty = [np.zeros((0, 3, 1, 1), np.uint8)] * len(rows)
    collated = collate(b.ids, [[2]] * len(rows), empty, modalities={"audio": rows})
    return replace(b, modalities=collated.modalities)


def token_fields(row: list[int]) -> np.ndarray:
    """Return the field of each token of a video: the first word is the title, and the others belong
    to the next field.
    """
    is_special = np.isin(row, [SPECIAL["[CLS]"], SPECIAL["[SEP]"]])
    return np.where(is_special, 0, np.where(np.arange(len(row)) == 1, 1, 2)).astype(np.int8)


def pad(b: Batch, words: int, frames: int, seed: int = 9) -> Batch:
    """Add padding to both rows, and fill all padding with noise."""
    torch.manual_seed(seed)
    text = _widen(b.text, words)
    text_mask = _widen(b.text_mask, words)
    pixels = _widen(b.frames, frames)
    frame_mask = _widen(b.frame_mask, frames)
    noise = torch.randint(0, 255, pixels.shape).to(pixels.dtype)
    real = frame_mask.view(*frame_mask.shape, *[1] * (pixels.dim() - 2))
    return replace(
        b,
        text=torch.where(text_mask, text, torch.randint_like(text, 5, WORDS)),
        text_mask=text_mask,
        frames=torch.where(real, pixels, noise),
        frame_mask=frame_mask,
    )


def _widen(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """Append `count` columns of zeros."""
    zeros = tensor.new_zeros(len(tensor), count, *tensor.shape[2:])
    return torch.cat([tensor, zeros], 1)


TEXT = {"fields": {"title": 12, "asr": 8}, "length": 30}
LEAVES = [f"000{i}" for i in range(CLASSES)]


def member(
    folder: Path,
    model: VideoClassifier,
    fusion: str = "dual_stream",
    *,
    batch: int = 8,
    without: str | None = None,
    classes: list[str] = LEAVES,
) -> Path:
    """Write the folder of a trained model, as in a fold of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    learn_tokenizer(["标题字幕说话一二三" * 3], min_count=1, max_size=WORDS).save(
        str(folder / "tokenizer.json")
    )
    facts = {
        "classes": classes,
        "text": TEXT | {"fields": list(TEXT["fields"].items())},
        "without": without,
        "serve": {"batch": batch, "precision": "fp32"},
    }
    tables = blueprint(fusion, pooling=plug.plug_name(model.fusion.pooling))
    rebuilding = model.blueprint(tables["fusion"], tables["pooling"])
    publish_json(folder / "model.json", {"blueprint": rebuilding, **facts})
    return folder


KIT = """
about = "A toy."
competition = "wechat2022"

[text]
fields = { title = 14, asr = 8, ocr = 6 }
length = 32
vocabulary = { min_count = 2, max_size = 400 }

[trunk.architecture]
model_type = "bert"
hidden_size = 16
num_hidden_layers = 1
num_attention_heads = 2
intermediate_size = 32
max_position_embeddings = 64

[vision]
use = "clip"
frames = 2
architecture.embed_dim = 8
architecture.vision_cfg.layers = 1
architecture.vision_cfg.width = 16
architecture.vision_cfg.head_width = 8
architecture.vision_cfg.patch_size = 16
architecture.vision_cfg.image_size = 32
image = { size = 32, mean = [0.5, 0.4, 0.3], std = [0.2, 0.3, 0.4] }

[fusion]
use = "dual_stream"
heads = 2

[pretrain]
splits = ["labeled", "unlabeled"]
epochs = 2
batch = 8
precision = "fp32"
learning_rate = { rest = 3e-3 }
objective = [{ use = "mask_words", share = 0.15 }, { use = "match" }]

[train]
epochs = 4
batch = 4
precision = "fp32"
learning_rate = { "fusion.trunk" = 3e-3, vision = 3e-3, rest = 3e-3 }
objective = [{ use = "classify" }]
trick = [{ use = "fgm", epsilon = 0.5 }, { use = "ema", decay = 0.9 }]

[serve]
batch = 8
precision = "fp32"
"""

_BEFORE_VISION, _VISION = KIT.split("[vision]")
# the toy kit for processes: to import open_clip takes them 2 seconds, to compute less
QUICK_KIT = f"""{_BEFORE_VISION}[vision]
use = "linear_patches"
frames = 2
dim = 8
patch = 16
size = 32

{_VISION[_VISION.index("[fusion]") :]}"""

# options that train the toy kit in one epoch without tricks
SHORT = ("--set", "train.trick=[]", "--set", "train.epochs=1", "--threads", 1)


def wbdc(*words: object) -> Result:
    """Run a command of wbdc in this process."""
    return CliRunner().invoke(main, [str(word) for word in words])


def run_json(*words: object) -> dict:
    """Run a command with --json and return its parsed output."""
    result = wbdc(*words, "--json")
    assert result.exit_code == 0, (result.stderr, result.exception)
    return json.loads(result.stdout)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Sixty synthetic videos in the layout of the contest."""
    from wbdc.prepare.demo.synthetic_contest import generate_contest

    into = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        generate_contest(into, videos=60)
    return into / "data"


@pytest.fixture(scope="session")
def kit(tmp_path_factory) -> Path:
    """The toy kit in a folder of its own."""
    path = tmp_path_factory.mktemp("kits") / "toy.toml"
    path.write_text(KIT)
    return path


@pytest.fixture(scope="session")
def ready(data, tmp_path_factory) -> Path:
    """A work folder with prepared data. Tests that train copy it."""
    work = tmp_path_factory.mktemp("ready") / "work"
    run_json("prepare", "--data", data, "--work", work, "--folds", 3, "--threads", 1)
    return work


@pytest.fixture
def fresh(ready, tmp_path) -> Path:
    """A new work folder with prepared data and no runs."""
    shutil.copytree(ready / "prepared", tmp_path / "work" / "prepared")
    return tmp_path / "work"


def bits(run: Path) -> dict[str, bytes]:
    """Read the files of fold 0 that must not depend on interruptions of the training."""
    return {
        name: (run / "fold-0" / name).read_bytes()
        for name in ("model.safetensors", "oof.parquet", "model.json", "kit.json", "tokenizer.json")
    }
