"""Archives to blended predictions of three members: wbdc and public solutions, compared.

Run with `pytest benchmarks/test_serving.py --benchmark-enable -n 0`. WBDC_FULL=1 uses BERT-base and
ViT-B/32 with random weights instead of models of a sixteenth of that size.
"""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms as T
from PIL import Image
from safetensors.torch import save_file
from scenes import photo
from sizes import choose_size
from torch.utils.data import DataLoader, Dataset

from wbdc.competitions import Source, Video
from wbdc.core.batch import Batch
from wbdc.core.files import publish_json
from wbdc.data.archive import natural_order
from wbdc.data.frame_sampling import sample_frames
from wbdc.data.text import learn_tokenizer
from wbdc.nets.model import build_model
from wbdc.serve.engine import InferenceEngine
from wbdc.serve.members import load_member

VIDEOS = choose_size(4, 32, 32)
FRAMES, LENGTH, BATCH, CLASSES = 14, 256, 16, 200
WIDTH, LAYERS = choose_size(64, 192, 768), choose_size(1, 4, 12)
BERT = {
    "model_type": "bert",
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": WIDTH // 64,
    "intermediate_size": 4 * WIDTH,
}
TRANSFORM = {
    "size": 224,
    "mean": [0.48145466, 0.4578275, 0.40821073],
    "std": [0.26862954, 0.26130258, 0.27577711],
}
VIT = {
    "embed_dim": WIDTH,
    "vision_cfg": {
        "layers": LAYERS,
        "width": WIDTH,
        "head_width": 64,
        "patch_size": 32,
        "image_size": 224,
    },
}
FUSIONS = {
    "single_stream": {},
    "dual_stream": {"heads": WIDTH // 64},
    "cross_attention": {"heads": WIDTH // 64},
}
CHARACTERS = (
    "今天大家一起看这个真的就是我们你可以没有知道觉得时候"
    "现在然后因为所以什么怎么非常喜欢关注点赞视频推荐"
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> list[Video]:
    """Videos with 3 to 20 frames and 20 to 400 characters, as in the contest."""
    home, rng = tmp_path_factory.mktemp("videos"), np.random.default_rng(0)
    result = []
    for i in range(VIDEOS):
        path = home / f"{i:020}.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(int(rng.choice([3, 8, 11, 14, 14, 14, 20]))):
                archive.writestr(f"{number}.jpg", photo(rng))
        text = "".join(rng.choice(list(CHARACTERS), int(rng.integers(20, 400))))
        fields = {"title": text[:30], "asr": text[30:250], "ocr": text[250:]}
        result.append(Video(path.stem, fields, None, Source(path)))
    return result


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, list[Path]]:
    """The folders of three members that share one tower, and of three with different towers."""
    home, tokenizer = tmp_path_factory.mktemp("members"), learn_tokenizer([CHARACTERS] * 3)
    special = {w: tokenizer.token_to_id(w) for w in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")}
    result: dict[str, list[Path]] = {"one tower": [], "three towers": []}
    towers: list[dict] = []
    for seed, (use, settings) in enumerate(FUSIONS.items()):
        torch.manual_seed(seed)
        tables = {
            "vision": {"use": "clip", "architecture": VIT, "image": TRANSFORM, "frames": FRAMES},
            "fusion": {"use": use, **settings},
            "pooling": {"use": "concatenate" if use == "cross_attention" else "mean"},
        }
        model = build_model(
            {
                "trunk": BERT | {"vocab_size": tokenizer.get_vocab_size()},
                **tables,
                "classes": CLASSES,
                "special": special,
            }
        )
        towers.append({name: t.clone() for name, t in model.vision.state_dict().items()})
        for kind, folders in result.items():
            model.vision.load_state_dict(towers[0 if kind == "one tower" else -1])
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
                {
                    "blueprint": model.blueprint(tables["fusion"], tables["pooling"]),
                    "text": text,
                    **facts,
                },
            )
            folders.append(folder)
    return result


class SolutionDataset(Dataset):
    """Reads videos as public solutions do, for each member again: open the archive, Pillow, Compose
    to float32, tokenize one text at a time, pad to the maximum.
    """

    def __init__(self, videos: list[Video], member):
        self.videos, self.member = videos, member
        self.compose = T.Compose(
            [
                T.Resize(224, T.InterpolationMode.BICUBIC),
                T.CenterCrop(224),
                T.ToTensor(),
                T.Normalize(TRANSFORM["mean"], TRANSFORM["std"]),
            ]
        )

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, index: int) -> tuple:
        with zipfile.ZipFile(self.videos[index].source.path) as archive:
            names = sorted(archive.namelist(), key=natural_order)
            images = [
                self.compose(Image.open(io.BytesIO(archive.read(names[i]))).convert("RGB"))
                for i in sample_frames(len(names), FRAMES)
            ]
        ids = torch.tensor(self.member.text([self.videos[index].fields])[0])
        frames, text = torch.zeros(FRAMES, 3, 224, 224), torch.zeros(LENGTH, dtype=torch.int64)
        frames[: len(images)], text[: len(ids)] = torch.stack(images), ids
        return frames, torch.arange(FRAMES) < len(images), text, torch.arange(LENGTH) < len(ids)


@torch.inference_mode()
def predict_as_solutions(folders: list[Path], videos: list[Video]) -> np.ndarray:
    """Predict with one member after the other, with padded frames and tokens, and average."""
    predictions = []
    for folder in folders:
        member, batches = load_member(folder), []
        for frames, frame_mask, text, text_mask in DataLoader(
            SolutionDataset(videos, member), BATCH, num_workers=2
        ):
            features = member.model.vision.encode(frames.flatten(0, 1))
            features = features.unflatten(0, frames.shape[:2])
            batch = Batch((), text, text_mask, frames, frame_mask)
            pooled = member.model.fuse(member.model.with_features(batch, features)).pooled
            batches.append(member.model.head(pooled).softmax(-1))
        predictions.append(torch.cat(batches).numpy())
    return np.mean(predictions, 0)


def predict_with_wbdc(folders: list[Path], videos: list[Video]) -> np.ndarray:
    engine = InferenceEngine(folders, [1.0] * 3, torch.device("cpu"), torch.float32, 2)
    return engine.predict(videos).probabilities


@pytest.mark.parametrize("towers", ["one tower", "three towers"])
def test_both_ways_give_equal_predictions(folders, videos, towers):
    actual = predict_with_wbdc(folders[towers], videos)
    expected = predict_as_solutions(folders[towers], videos)
    assert np.abs(actual - expected).max() < 1e-4
    assert (actual.argmax(1) == expected.argmax(1)).mean() > 0.98


@pytest.mark.parametrize(
    "predict", [predict_with_wbdc, predict_as_solutions], ids=["wbdc", "solution"]
)
@pytest.mark.parametrize("towers", ["one tower", "three towers"])
def test_serving(benchmark, folders, videos, towers, predict):
    benchmark.group = f"archives to predictions, three members, {towers}"
    benchmark.pedantic(predict, (folders[towers], videos), rounds=choose_size(1, 2, 1))
