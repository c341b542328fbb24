"""Names in the published checkpoints of ResNets with temporal modules, as patterns that turn them
into those of a ResNet of timm or torchvision in a tower.

The layouts are those of the authors' repositories and of MMAction2. In MMAction2, a convolution
and its batch norm are one module, `conv1.conv` and `conv1.bn`.
"""

import re

# pages of the checkpoints
TSN_LINK = "https://github.com/open-mmlab/mmaction2"
TSM_LINK = "https://github.com/mit-han-lab/temporal-shift-module"
TIN_LINK = "https://github.com/deepcs233/TIN"
TAM_LINK = "https://github.com/liu-zhy/temporal-adaptive-module"
TPN_LINK = "https://github.com/open-mmlab/mmaction2/tree/main/configs/recognition/tpn"

# classifiers; their names are new_fc or fc in the repositories, and cls_head in MMAction2
TEMPORAL_CLASSIFIER = re.compile(r"^(module\.)?(base_model\.)?(new_fc|fc|cls_head)\.")
PYRAMID_UNUSED = re.compile(r"^(module\.)?(cls_head|necks?\.aux_head)\.")

RESNET_NAMES = (
    (re.compile(r"^(module\.)?(base_model|backbone)\."), ""),
    (re.compile(r"(^|\.)conv(\d)\.conv\."), r"\1conv\2."),
    (re.compile(r"(^|\.)conv(\d)\.bn\."), r"\1bn\2."),
    (re.compile(r"\.downsample\.conv\."), ".downsample.0."),
    (re.compile(r"\.downsample\.bn\."), ".downsample.1."),
)
TSM_NAMES = (*RESNET_NAMES, (re.compile(r"\.conv1\.net\."), ".conv1.conv."))
TSM_NON_LOCAL_NAMES = (
    *TSM_NAMES,
    (re.compile(r"(^|\.)(layer\d+\.\d+)\.block\."), r"\1\2.0."),
    (re.compile(r"\.(nl|non_local_block)\.(g|phi)\.0\.(conv\.)?"), r".1.\2."),
    (re.compile(r"\.(nl|non_local_block)\.theta\.(conv\.)?"), ".1.theta."),
    (re.compile(r"\.(nl\.W\.0|non_local_block\.conv_out\.conv)\."), ".1.out.0."),
    (re.compile(r"\.(nl\.W\.1|non_local_block\.conv_out\.bn)\."), ".1.out.1."),
)
TIN_NAMES = (
    *RESNET_NAMES,
    (re.compile(r"\.conv1\.net2\."), ".conv1.conv."),
    (re.compile(r"\.net1\.(biasnet\.net|offset_net)\.conv\."), ".temporal.offset_conv."),
    (re.compile(r"\.net1\.(biasnet\.net\.fc|offset_net\.fc1)\."), ".temporal.offset_fc1."),
    (re.compile(r"\.net1\.(biasnet\.net\.lastlayer|offset_net\.fc2)\."), ".temporal.offset_fc2."),
    (
        re.compile(r"\.net1\.(weightnet\.net\.lastlayer|weight_net\.conv)\."),
        ".temporal.weight_conv.",
    ),
)
# a block and its module are in one wrapper there: `net` or `block`, and `tam`
TAM_NAMES = (
    (re.compile(r"(^|\.)(layer\d+\.\d+)\.(net|block)\."), r"\1\2."),
    *RESNET_NAMES,
    (re.compile(r"(\.\d+\.conv2)\.weight$"), r"\1.conv.weight"),
    (re.compile(r"\.tam\.G\."), ".conv2.temporal.global_branch."),
    (re.compile(r"\.tam\.L\."), ".conv2.temporal.local_branch."),
)

# the pyramid, beside a ResNet whose blocks are in one of three forms
PYRAMID_NAMES = (
    (re.compile(r"^(module\.)?backbone\."), "image_tower.tower."),
    (re.compile(r"^(module\.)?necks?\."), "pyramid."),
    *RESNET_NAMES[1:],
    (re.compile(r"\.spatial_modulation\.spatial_modulation\.0\.0\."), ".spatial.0."),
    (re.compile(r"\.temporal_modulation_ops\.(\d+)\.conv\.(conv\.)?"), r".temporal.\1."),
    (re.compile(r"\.downsampl(?:e|ing)_ops\.(\d+)\.conv\.(conv\.)?"), r".downsample.\1."),
    (re.compile(r"\.level_fusion_(1|op2)\."), ".top_down."),
    (re.compile(r"\.level_fusion_(2|op)\."), ".bottom_up."),
    (re.compile(r"\.downsamples\.(\d+)\.conv\."), r".levels.\1."),
    (re.compile(r"\.ops\.(\d+)\."), r".levels.\1."),
    (re.compile(r"\.(fusion_conv|pyramid_fusion(_op)?)\."), ".fusion."),
    (re.compile(r"^(pyramid\..*)\.conv\."), r"\1.0."),
    (re.compile(r"^(pyramid\..*)\.(bn|norm)\."), r"\1.1."),
)
PYRAMID_TSM_NAMES = (*PYRAMID_NAMES, (re.compile(r"\.conv1\.net\."), ".conv1.conv."))
# the authors' blocks shift themselves, so their convolutions have no wrapper
PYRAMID_TSM_INPLACE_NAMES = (
    *PYRAMID_NAMES,
    (re.compile(r"(\.layer\d+\.\d+\.(conv1|downsample))\."), r"\1.conv."),
)
PYRAMID_SLOW_ONLY_NAMES = (
    *PYRAMID_NAMES,
    (re.compile(r"(\.layer[34]\.\d+\.conv1)\."), r"\1.conv."),
)
