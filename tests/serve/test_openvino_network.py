"""Members that OpenVINO computes predict as with torch, whatever plugs they consist of."""

import numpy as np
import pytest
import torch
import toys

from wbdc.core import plug
from wbdc.core.batch import Batch
from wbdc.core.errors import ResultFault, UsageFault
from wbdc.nets import heads
from wbdc.serve import openvino_network
from wbdc.serve.engine import InferenceEngine
from wbdc.serve.openvino_function import OpenVinoFunction, is_openvino_installed
from wbdc.serve.openvino_network import convert_scores, convert_tower, use_openvino_tower
from wbdc.serve.stage_timer import StageTimer

pytestmark = pytest.mark.skipif(
    not is_openvino_installed(), reason="OpenVINO is not installed: pip install 'wbdc[openvino]'"
)
CPU = torch.device("cpu")
# towers of the operations of other ones: a network of convolutions, and one over frames
SIMILAR = {"torchvision": "timm", "torchvision_video": "pytorchvideo"}
REFUSED = ("regions", "tpn")
# every plug is in one model or more; the kinds with fewer plugs begin again with their first
NAMES = {
    "vision": [name for name in toys.VISIONS if name not in (*SIMILAR, *REFUSED)],
    "fusion": [*toys.FUSIONS],
    "pooling": [*toys.POOLINGS],
    "head": plug.plug_names(heads),
}
MODELS = [
    {kind: names[i % len(names)] for kind, names in NAMES.items()}
    for i in range(max(map(len, NAMES.values())))
]
MODELS.append({"vision": "clip", "patch_grid": 2})  # several tokens of a frame


def compute(engine: InferenceEngine, batch) -> dict[int, np.ndarray]:
    return engine.compute(dict.fromkeys(range(len(engine.members)), batch), StageTimer(), {})


@pytest.mark.slow
def test_members_predict_as_with_torch_and_share_their_tower(tmp_path, monkeypatch):
    models = [toys.model("single_stream"), toys.model("single_stream", seed=1)]
    models[1].vision.load_state_dict(models[0].vision.state_dict())
    folders = [
        toys.member(tmp_path / str(i), model, "single_stream") for i, model in enumerate(models)
    ]
    names = []

    class Counted(OpenVinoFunction):
        def __init__(self, *inputs):
            names.append(inputs[-1])
            super().__init__(*inputs)

    monkeypatch.setattr(openvino_network, "OpenVinoFunction", Counted)
    plain = InferenceEngine(folders, [1.0, 1.0], CPU, torch.float32, 1)
    fast = InferenceEngine(folders, [1.0, 1.0], CPU, torch.float32, 1, True)
    assert [name.partition(" of ")[0] for name in names] == [
        "the vision tower",
        "the network",
        "the network",
    ]
    differs = False
    for counts in ((3, 0, 4, 1, 2, 4), (20, 12, 8), (0, 0)):  # 40 frames are encoded in two parts
        batch = toys.batch(counts)
        expected, computed = compute(plain, batch), compute(fast, batch)
        for i in expected:
            np.testing.assert_allclose(computed[i], expected[i], rtol=0, atol=1e-6)
            differs |= not np.array_equal(computed[i], expected[i])
    assert differs, "another library rounds otherwise"


def test_scores_that_are_not_finite_are_an_error(tmp_path):
    model = toys.model()
    folder = toys.member(tmp_path, model)
    engine = InferenceEngine([folder], [1.0], CPU, torch.float32, 1, True)
    engine.members[0]._score = lambda *inputs: torch.full((6, toys.CLASSES), torch.nan)
    with pytest.raises(ResultFault, match="6 videos of a batch have scores that are not finite"):
        compute(engine, toys.batch())


def test_a_batch_that_overflows_leaves_the_precision_of_the_next_one(tmp_path):
    engine = InferenceEngine(
        [toys.member(tmp_path, toys.model())], [1.0], CPU, torch.float32, 1, True
    )
    (member,) = engine.members
    engine.precision = torch.bfloat16  # which this CPU may lack
    scores, precisions = [torch.full((6, toys.CLASSES), torch.inf)], []

    def score(*inputs):
        return scores.pop() if scores else torch.zeros(6, toys.CLASSES)

    member._score, member.use_precision = score, precisions.append
    compute(engine, toys.batch())
    assert precisions == [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("vision", REFUSED)
def test_a_tower_that_openvino_computes_otherwise_is_refused(vision):
    tower = toys.model(vision=vision).vision
    with pytest.raises(UsageFault, match=f"compute vision '{vision}' of a toy as torch does"):
        use_openvino_tower(tower, "key", 1, {}, "a toy")


@pytest.mark.slow
@pytest.mark.parametrize("plugs", MODELS, ids=lambda plugs: "-".join(map(str, plugs.values())))
@torch.no_grad()
def test_every_plug_is_converted(plugs):
    """Batches whose videos, tokens and frames differ in number from the examples'."""
    head = {"head": {"use": plugs["head"]}} if "head" in plugs else {}
    model = toys.model(**plugs | head)
    batches = [
        toys.batch(counts, plugs["vision"]) for counts in ((3, 0, 4, 1, 2, 4), (2, 3, 1), (0,))
    ]
    expected = [(model.encode(batch).frames, model.logits(batch)) for batch in batches]

    def score(*tensors: torch.Tensor) -> torch.Tensor:
        batch = Batch(("",) * tensors[0].shape[0], *tensors)
        return model.head(model.fuse(batch).pooled)

    scores = convert_scores(score, model, 1, "a toy")
    scores.use_precision(torch.float32)
    for part in model.vision.parts().values() if model.vision.image_settings else ():
        tower = convert_tower(part, 1, "a toy")
        tower.use_precision(torch.float32)
        part.encode_part = tower
    for batch, (features, logits) in zip(batches, expected, strict=True):
        encoded = model.encode(batch)
        tensors = (encoded.text, encoded.text_mask, encoded.frames, encoded.frame_mask)
        torch.testing.assert_close(encoded.frames, features, rtol=0, atol=1e-4)
        torch.testing.assert_close(scores(*tensors), logits, rtol=0, atol=1e-5)
