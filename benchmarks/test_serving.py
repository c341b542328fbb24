"""From archives to blended answers with three members: ours beside the solutions' way, in one run,
answers compared.

`pytest benchmarks/test_serving.py --benchmark-enable -n 0`; WBDC_FULL=1: BERT-base and ViT-B/32
(random weights), else a sixteenth of that.
"""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from PIL import Image
from safetensors.torch import save_file
from scenes import photo
from torch.utils.data import DataLoader, Dataset

from wbdc.competitions import Source, Video
from wbdc.core.batch import Batch
from wbdc.core.files import publish_json
from wbdc.data.archive import natural_order
from wbdc.data.frame_sampling import sample_frames
from wbdc.data.text import learn_tokenizer
from wbdc.nets.model import build_model
from wbdc.serve.engine import Engine
from wbdc.serve.predict import load_member

FULL = os.environ.get("WBDC_FULL") == "1"
VIDEOS, FRAMES, LENGTH, BATCH, CLASSES = (32 if FULL else 96), 14, 256, 16, 200
WIDE, LAYERS = (768, 12) if FULL else (192, 4)
BERT = {
    "model_type": "bert",
    "hidden_size": WIDE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": WIDE // 64,
    "intermediate_size": 4 * WIDE,
}
LOOK = {
    "size": 224,
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
}
VIT = {
    "embed_dim": WIDE,
    "vision_cfg": {
        "layers": LAYERS,
        "width": WIDE,
        "head_width": 64,
        "patch_size": 32,
        "image_size": 224,
    },
}
FUSIONS = {
    "single_stream": {},
    "dual_stream": {"heads": WIDE // 64},
    "cross_attention": {"heads": WIDE // 64},
}
WORDS = "今天大家一起看这个真的就是我们你可以没有知道觉得时候现在然后因为所以什么怎么非常喜欢关注点赞视频推荐"


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Video]:
    """Videos as the contest's: 3 to 14 frames, 20 to 400 characters."""
    home, rng, made = tmp_path_factory.mktemp("videos"), np.random.default_rng(0), []
    for i in range(VIDEOS):
        path = home / f"{i:020}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(int(rng.choice([3, 8, 11, 14, 14, 14, 20]))):
                archive.writestr(f"{number}.jpg", photo(rng))
        text = "".join(rng.choice(list(WORDS), int(rng.integers(20, 400))))
        made.append(
            Video(
                path.stem,
                {"title": text[:30], "asr": text[30:250], "ocr": text[250:]},
                None,
                Source(path),
            )
        )
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, list[Path]]:
    """Three members that share one tower, and three with one each."""
    home, tokenizer = tmp_path_factory.mktemp("members"), learn_tokenizer([WORDS] * 3)
    special = {w: tokenizer.token_to_id(w) for w in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")}
    made: dict[str, list[Path]] = {"one tower": [], "three towers": []}
    towers: list[dict] = []
    for seed, (use, settings) in enumerate(FUSIONS.items()):
        torch.manual_seed(seed)
        tables = {
            "vision": {"use": "clip", "architecture": VIT, "look": LOOK, "frames": FRAMES},
            "fusion": {"use": use, **settings},
        }
        model = build_model(
            {
                "trunk": BERT | {"vocab_size": tokenizer.get_vocab_size()},
                **tables,
                "classes": CLASSES,
                "special": special,
            }
        )
        own = {name: tensor.clone() for name, tensor in model.vision.state_dict().items()}
        towers.append(own)
        for kind, folders in made.items():
            model.vision.load_state_dict(towers[0] if kind == "one tower" else own)
            folder = home / kind / use
            folder.mkdir(parents=True)
            save_file(model.state_dict(), folder / "model.safetensors")
            (folder / "tokenizer.json").write_text(tokenizer.to_str())
            facts = {
                "classes": [f"{c:04}" for c in range(CLASSES)],
                "without": None,
                "serve": {"batch": BATCH, "precision": "fp32"},
            }
            text = {"fields": [["title", 96], ["asr", 80], ["ocr", 76]], "length": LENGTH}
            publish_json(
                folder / "model.json",
                {"blueprint": model.blueprint(tables["fusion"]), "text": text, **facts},
            )
            folders.append(folder)
    return made


class Solution(Dataset):
    """What public solutions do for every member anew: open, decode with Pillow, Compose to float32;
    tokenise one by one, pad to the most.
    """

    def __init__(self, videos: list[Video], member):
        self.videos, self.member = videos, member
        self.compose = T.Compose(
            [
                T.Resize(224, T.InterpolationMode.BICUBIC),
                T.CenterCrop(224),
                T.ToTensor(),
                T.Normalize(LOOK["mean"], LOOK["std"]),
            ]
        )

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, at: int) -> tuple:
        with zipfile.ZipFile(self.videos[at].source.path) as archive:
            names = sorted(archive.namelist(), key=natural_order)
            shown = [
                self.compose(Image.open(io.BytesIO(archive.read(names[i]))).convert("RGB"))
                for i in sample_frames(len(names), FRAMES)
            ]
        ids = torch.tensor(self.member.text([self.videos[at].fields])[0])
        frames, text = torch.zeros(FRAMES, 3, 224, 224), torch.zeros(LENGTH, dtype=torch.int64)
        frames[: len(shown)], text[: len(ids)] = torch.stack(shown), ids
        return frames, torch.arange(FRAMES) < len(shown), text, torch.arange(LENGTH) < len(ids)


@torch.inference_mode()
def theirs(folders: list[Path], videos: list[Video]) -> np.ndarray:
    """Score with each member on its own, padding frames and words through all networks, and
    average.
    """
    answers = []
    for folder in folders:
        member, said = load_member(folder), []
        for frames, frame_mask, text, text_mask in DataLoader(
            Solution(videos, member), BATCH, num_workers=2
        ):
            seen = member.model.vision.encode(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
            said.append(
                member.model.head(
                    member.model.fuse(Batch((), text, text_mask, frames, frame_mask), seen).pooled
                ).softmax(-1)
            )
        answers.append(torch.cat(said).numpy())
    return np.mean(answers, 0)


def ours(folders: list[Path], videos: list[Video]) -> np.ndarray:
    return (
        Engine(folders, [1.0] * 3, torch.device("cpu"), torch.float32, 2)
        .predict(videos)
        .probabilities
    )


@pytest.mark.parametrize("towers", ["one tower", "three towers"])
def test_both_ways_give_the_same_answers(folders, videos, towers):
    mine, other = ours(folders[towers], videos), theirs(folders[towers], videos)
    assert np.abs(mine - other).max() < 1e-4
    assert (mine.argmax(1) == other.argmax(1)).mean() > 0.98


@pytest.mark.parametrize("way", [ours, theirs], ids=["ours", "the solutions' way"])
@pytest.mark.parametrize("towers", ["one tower", "three towers"])
def test_serving(benchmark, folders, videos, towers, way):
    benchmark.group = f"archives to answers, three members, {towers}"
    benchmark.pedantic(way, (folders[towers], videos), rounds=1 if FULL else 2)
