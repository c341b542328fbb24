from collections.abc import Iterator
from functools import partial

import pytest
import toys
from torchvision.models import mobilenetv3
from torchvision.models.detection import faster_rcnn
from torchvision.models.video.resnet import VideoResNet

REGION_WIDTH = 16


@pytest.fixture(scope="module")
def narrow_torchvision() -> Iterator[None]:
    """Build the video ResNets and the detector of torchvision with an eighth of their channels."""
    make_layer = VideoResNet._make_layer

    def make_narrow_layer(self, block, conv_builder, planes, *rest, **settings):
        return make_layer(self, block, conv_builder, planes // 8, *rest, **settings)

    conf = partial(mobilenetv3._mobilenet_v3_conf, width_mult=1 / 8)
    head, predictor = faster_rcnn.TwoMLPHead, faster_rcnn.FastRCNNPredictor
    toys._build_once.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VideoResNet, "_make_layer", make_narrow_layer)
        patch.setattr(mobilenetv3, "_mobilenet_v3_conf", conf)
        patch.setattr(faster_rcnn, "TwoMLPHead", lambda width, _: head(width, REGION_WIDTH))
        patch.setattr(
            faster_rcnn, "FastRCNNPredictor", lambda _, classes: predictor(REGION_WIDTH, classes)
        )
        yield
    toys._build_once.cache_clear()
