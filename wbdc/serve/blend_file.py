"""blend.json: the members of a blend, their weights, and how they are served."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from wbdc.core.errors import IntegrityFault
from wbdc.core.files import publish_json, read_json
from wbdc.core.gpu_switches import GPU_SWITCHES

if TYPE_CHECKING:  # what lists the members of a blend needs no arrays
    import numpy as np

BLEND_FILE = "blend.json"
MEMBER_SHAPE = {
    "folder": str,
    "weight": float,
    "class_weights?": [float],
    "serve?": {str: int},
    "run?": str,
    "fold?": str,
}
OUTSIDE_SHAPE = {
    "name": str,
    "weight": float,
    "file": str,
    "sha256": str,
    "class_weights?": [float],
}
BLEND_SHAPE = {
    "competition": str,
    "precision": str,
    "members": [MEMBER_SHAPE],
    "outside?": [OUTSIDE_SHAPE],
    "data?": str,
    "sharpness?": float,
    "class_multipliers?": [float],
    "half?": bool,
    "compiled?": bool,
    "openvino?": bool,
    "gpu?": [str],
    "settings?": dict,
}


@dataclass(frozen=True)
class BlendMember:
    """One model of a blend.

    folder: of the model, relative to the folder that the blend is opened with; weight: 0 or more;
    serve: {"frames", "length", "clips", "crops"}, where they differ from training; run, fold: which
    training run made the model, unknown inside a package; class_weights: C numbers where the blend
    weighs by class, of which `weight` is the mean over the videos that they were learned on.
    """

    folder: str
    weight: float
    serve: dict[str, int] = field(default_factory=dict)
    run: str | None = None
    fold: str | None = None
    class_weights: tuple[float, ...] = ()

    def to_dict(self) -> dict:
        """Return plain values for JSON, without the fields that are not set."""
        optional = {
            "serve": self.serve,
            "run": self.run,
            "fold": self.fold,
            "class_weights": list(self.class_weights),
        }
        set_fields = {name: value for name, value in optional.items() if value}
        return {"folder": self.folder, "weight": self.weight} | set_fields


@dataclass(frozen=True)
class OutsideEntry:
    """A member of a blend that wbdc cannot run: its probabilities come from files.

    file, sha256: the out-of-fold probabilities that its weight was learned from; class_weights: as
    in BlendMember.
    """

    name: str
    weight: float
    file: str
    sha256: str
    class_weights: tuple[float, ...] = ()

    def to_dict(self) -> dict:
        """Return plain values for JSON, without the fields that are not set."""
        values = {**asdict(self), "class_weights": list(self.class_weights)}
        return {name: value for name, value in values.items() if value != []}


@dataclass(frozen=True)
class Blend:
    """What `serve` needs to know about an ensemble, a single run or a package.

    precision: a name, for example "fp16"; competition: as kits name it; outside: members from
    outside wbdc, which no package can have; data: hash of the prepared data; sharpness: above 0
    for a geometric mean, as in `blend_probabilities`; class_multipliers: C numbers, () for none;
    half: weights are rounded to float16; compiled: networks run through torch.compile; openvino:
    OpenVINO computes them, on the CPU; gpu: of GPU_SWITCHES; settings: options that `wbdc ensemble`
    was called with; run: the only run, where the blend holds no ensemble (not written to the file).
    """

    competition: str
    precision: str
    members: tuple[BlendMember, ...]
    outside: tuple[OutsideEntry, ...] = ()
    data: str | None = None
    sharpness: float = 0.0
    class_multipliers: tuple[float, ...] = ()
    half: bool = False
    compiled: bool = False
    openvino: bool = False
    gpu: tuple[str, ...] = ()
    settings: dict = field(default_factory=dict)
    run: str | None = None

    @property
    def weighs_by_class(self) -> bool:
        """Whether each class has weights of its own."""
        return any(member.class_weights for member in (*self.members, *self.outside))

    def device_name(self, requested: str) -> str:
        """Return the name of the device to serve on: "auto" is the CPU where OpenVINO computes."""
        return "cpu" if self.openvino and requested == "auto" else requested

    def factors(self, classes: int) -> "np.ndarray | None":
        """Return what the blended probabilities are multiplied by before rows are normalized: the
        class multipliers, ones where only the normalization is needed, or None for neither.
        """
        import numpy as np

        if self.class_multipliers:
            return np.array(self.class_multipliers)
        return np.ones(classes) if self.weighs_by_class else None

    def to_dict(self) -> dict:
        """Return plain values for JSON, without the fields that are not set."""
        optional = {
            "outside": [member.to_dict() for member in self.outside],
            "data": self.data,
            "sharpness": self.sharpness,
            "class_multipliers": list(self.class_multipliers),
            "half": self.half,
            "compiled": self.compiled,
            "openvino": self.openvino,
            "gpu": list(self.gpu),
            "settings": self.settings,
        }
        required = {
            "competition": self.competition,
            "precision": self.precision,
            "members": [member.to_dict() for member in self.members],
        }
        return required | {name: value for name, value in optional.items() if value}


def write_blend(folder: Path, blend: Blend) -> None:
    """Publish a blend as blend.json."""
    publish_json(folder / BLEND_FILE, blend.to_dict())


def read_blend(folder: Path) -> Blend:
    """Read blend.json. Raises IntegrityFault when it is missing, damaged or of another version."""
    path = folder / BLEND_FILE
    values = read_json(path, BLEND_SHAPE)
    _check_keys(path, values, BLEND_SHAPE)
    for member in values["members"]:
        _check_keys(path, member, MEMBER_SHAPE)
    for member in values.get("outside", []):
        _check_keys(path, member, OUTSIDE_SHAPE)

    entries = [*values["members"], *values.get("outside", [])]
    for member in entries:
        member["class_weights"] = tuple(member.get("class_weights", ()))
    if len({len(member["class_weights"]) for member in entries}) > 1:
        raise IntegrityFault(
            f"{path}: members have different numbers of class weights, so it is damaged; make the"
            " ensemble or the submission again"
        )
    members = tuple(BlendMember(**member) for member in values.pop("members"))
    outside = tuple(OutsideEntry(**member) for member in values.pop("outside", ()))
    multipliers = tuple(values.pop("class_multipliers", ()))
    switches = tuple(values.pop("gpu", ()))
    if unknown_switches := sorted(set(switches) - set(GPU_SWITCHES)):
        raise _unknown_names(path, "GPU switches", unknown_switches)
    return Blend(
        members=members, outside=outside, class_multipliers=multipliers, gpu=switches, **values
    )


def _check_keys(path: Path, values: dict, shape: dict) -> None:
    """Refuse keys that this version does not know: a setting must not be ignored."""
    known_keys = {key.removesuffix("?") for key in shape}
    if unknown_keys := sorted(values.keys() - known_keys):
        raise _unknown_names(path, "keys", unknown_keys)


def _unknown_names(path: Path, kind: str, names: list[str]) -> IntegrityFault:
    return IntegrityFault(
        f"{path} has unknown {kind} ({', '.join(names)}), so it is damaged or from another version"
        " of wbdc; make the ensemble or the submission again"
    )
