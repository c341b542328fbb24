from collections.abc import Iterator

import pytest
import toys
from torchvision.models.video.resnet import VideoResNet


@pytest.fixture(scope="module")
def narrow_video_resnets() -> Iterator[None]:
    """Build the video ResNets of torchvision with an eighth of their channels."""
    make_layer = VideoResNet._make_layer

    def make_narrow_layer(self, block, conv_builder, planes, *rest, **settings):
        return make_layer(self, block, conv_builder, planes // 8, *rest, **settings)

    toys._built_once.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VideoResNet, "_make_layer", make_narrow_layer)
        yield
    toys._built_once.cache_clear()
