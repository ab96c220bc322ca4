"""What features mean, in words a biologist reads: the groups of every head, and the sentence of each."""

from __future__ import annotations

import math
from collections.abc import Mapping

from overseg.model.across import ACROSS
from overseg.model.explain import Group
from overseg.model.features import DISTANCES, FULL, MOMENTS, PAPER
from overseg.model.touching import TOUCHING

Values = Mapping[str, float]


def _of(names: tuple[str, ...], *starts: str, but: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Names that are, or start with, one of some."""
    return tuple(name for name in names if name.startswith(starts) and not name.startswith(but or ("-",)))


def _percent(value: float) -> str:
    return f"{100 * value:.0f}%"


def _times(ratio: float) -> str:
    """How many times as much, said so that it can stand before "as"."""
    if 0.95 <= ratio < 1.05:
        return "as much"
    return f"{ratio:.0f}x as much" if ratio >= 9.5 else f"{ratio:.1f}x as much"


def _ratio(log: float) -> str:
    value = math.exp(log)
    return f"{value:.0f}x" if value >= 9.5 else f"{value:.1f}x" if value >= 1.95 else f"{value:.2f}x"


def _layers(n: float) -> str:
    return f"{n:.0f} layer" + ("" if round(n) == 1 else "s")


def _both(low: str, high: str) -> str:
    """Two values, or one where they read the same."""
    return f"{low} and {high}" if low != high else f"{low} each"


# ------------------------------------------------------------------ gaps


def _through(v: Values) -> str:
    """A gap of no layers is where two parts of a chain meet."""
    return "through the gap" if v.get("gap_layers", 1) else "from one part to the other"


def _comparable(v: Values) -> bool:
    """Whether a part has two layers that lie as far apart as the two faces."""
    return round(math.exp(v["layers_high"])) > v["gap_layers"] + 1


#: A change that fewer layers within the volume's cells exceed is worth a word.
_RARE = 0.1


def _overlap(v: Values) -> str:
    said = f"the facing masks overlap by {_percent(1 - v['loss_gap'])}"
    rare = 1 - v["loss_usual_rank"]
    usual = (
        f"; only {_percent(rare)} of such layers in this volume's cells overlap less" if rare < _RARE else ""
    )
    if not _comparable(v):
        return f"{said} (the parts are too short to compare with{usual})"
    return f"{said} (layers as far apart within the cells: {_percent(1 - v['loss_median_high'])}{usual})"


def _drift(v: Values) -> str:
    said = f"the centre moves by {v['drift_gap']:.2f} radii {_through(v)}"
    if not _comparable(v):
        return said
    return f"{said}, {_times(math.exp(v['drift_excess']))} as within the cells"


def _outline(v: Values) -> str:
    if not _comparable(v):
        return f"the outline changes by {v['shape_gap']:.2f} radii {_through(v)}"
    return f"the outline changes {_times(math.exp(v['shape_excess']))} {_through(v)} as within the cells"


def _area(v: Values) -> str:
    said = f"one facing mask has {_ratio(v['growth_gap'])} the area of the other"
    return f"{said} (within the cells: {_ratio(v['growth_median_high'])})" if _comparable(v) else said


def _ends(v: Values) -> str:
    if v["face_low"] > 0.97:
        return "both parts end at their full width"
    ends = _both(_percent(v["face_low"]), _percent(v["face_high"]))
    return f"the facing masks are {ends} as large as their part's largest layer"


def _lengths(v: Values) -> str:
    low, high = (round(math.exp(v[f"layers_{side}"])) for side in ("low", "high"))
    parts = f"both {_layers(low)} long" if low == high else f"{low} and {_layers(high)} long"
    missing = _layers(v["gap_layers"]) if v["gap_layers"] else "none"
    return f"the parts are {parts}, {missing} missing between them"


def _course(v: Values) -> str:
    if v["short_profile"]:
        return "the joined cell has too few layers to see how its area runs"
    if v["area_smooth"]:
        return "the area of the joined cell runs smoothly from end to end"
    fit = max(v["area_linear"], v["area_quadratic"])
    return f"the area of the joined cell goes up and down (a smooth curve explains {_percent(fit)} of it)"


def _distance(v: Values) -> str:
    if not _comparable(v):
        return f"the mask changes by {v['emd_gap']:.2f} radii {_through(v)}"
    return f"the mask {_through(v)} changes {_times(math.exp(v['emd_excess']))} as within the cells"


_PROFILE = _of(MOMENTS, "area_linear", "area_quadratic", "area_smooth", "loss_linear", "loss_quadratic")
_PROFILE += _of(MOMENTS, "loss_smooth", "short_profile")
_SIZES = ("gap_layers", "layers_low", "layers_high", "short_one", "short_both", "size_ratio")

_GAPS = (
    Group("overlap", (*_of(MOMENTS, "loss_", but=_PROFILE), "apart"), _overlap),
    Group("drift", _of(MOMENTS, "drift_", "path_miss"), _drift),
    Group("outline", _of(MOMENTS, "shape_"), _outline),
    Group("area", _of(MOMENTS, "growth_", "area_miss"), _area),
    Group("ends", _of(MOMENTS, "taper", "tip", "face"), _ends),
    Group("lengths", _SIZES, _lengths),
    Group("course", _PROFILE, _course),
)

# ------------------------------------------------------------------ the published twelve


def _published_gap(v: Values) -> str:
    said = f"the mask changes by {v['w1_gap']:.1f} pixels from one part to the other"
    within = max(v["w1_a_median"], v["w1_b_median"])
    return f"{said}, {_times(v['w1_gap'] / within)} as within the cells" if within > 0 else said


def _published_within(v: Values) -> str:
    one, two = sorted((v["w1_a_median"], v["w1_b_median"]))
    return f"within the cells masks change by {_both(f'{one:.1f}', f'{two:.1f}')} pixels a layer"


def _published_index(v: Values) -> str:
    return f"a smooth curve explains {_percent(v['shape_index'])} of how the joined cell's area runs"


_PUBLISHED = (
    Group("gap", ("w1_gap",), _published_gap),
    Group("within", _of(PAPER, "w1_a", "w1_b"), _published_within),
    Group("course", ("shape_index",), _published_index),
)

# ------------------------------------------------------------------ contacts, by tables


def _contact(v: Values) -> str:
    share = _percent(max(math.exp(v["area_over_section"]), 0.0))
    return f"the contact is {share} of the joined cell's cross-section there"


def _flat(v: Values) -> str:
    return f"the contact strays from a plane by {_percent(v['thickness'])} of its width"


def _shape(v: Values) -> str:
    alone = _both(_percent(v["fill_low"]), _percent(v["fill_high"]))
    return f"joined, the parts fill {_percent(v['fill'])} of a smooth ellipsoid, alone {alone}"


def _place(v: Values) -> str:
    angle = math.degrees(math.acos(min(v["along_line"], 1.0)))
    return f"the contact is tilted by {angle:.0f} degrees against the line between the two centres"


def _ring(v: Values) -> str:
    if not v["ring"]:
        return "no neighbour touches both parts"
    n = f"{v['ring']:.0f}" + (" or more" if v["ring"] >= 20 else "")
    who = "the neighbour that touches" if v["ring"] == 1 else f"the {n} neighbours that touch"
    bend = math.degrees(math.acos(max(min(v["ring_cosine"], 1.0), -1.0)))
    return f"the surface towards {who} both parts bends by {bend:.0f} degrees at the contact"


def _volumes(v: Values) -> str:
    low, high = (f"{math.exp(v[f'{side}_over_neighbours']):.1f}x" for side in ("smaller", "larger"))
    said = f"joined, the cell is {math.exp(v['joined_over_neighbours']):.1f}x the volume of its neighbours"
    cut = (
        ", both cut by the border" if v["edges_low"] else ", one cut by the border" if v["edges_high"] else ""
    )
    return f"{said}, the parts {_both(low, high)}{cut}"


_ANGLES = ("offset", "reach_low", "reach_high", "along_line", "along_axis")
_TOUCH = (
    Group("contact", _of(TOUCHING, "area_over", "over_", "contact_faces", "rank", "spread"), _contact),
    Group("flatness", ("flatness", "thickness", "roundness", "compactness"), _flat),
    Group(
        "shape",
        _of(TOUCHING, "fill", "sphericity", "long", "flat", "elongation", "bare", but=("flatness",)),
        _shape,
    ),
    Group("place", _of(TOUCHING, *_ANGLES, "lateral", "distance"), _place),
    Group("ring", _of(TOUCHING, "ring", "neighbours"), _ring),
    Group("volumes", _of(TOUCHING, "ratio", "smaller", "joined_over", "larger_over", "edges"), _volumes),
)

# ------------------------------------------------------------------ contacts, across


def _groove(v: Values) -> str:
    seen = next((reach for reach in ("50", "30", "15") if not v[f"missing_{reach}"]), None)
    if seen is None:
        return "too little is seen around the contact to look for a groove"
    depth = v[f"rim_{seen}"]
    if depth < 0.005:
        return "no groove runs around the contact"
    return f"a groove {_percent(depth)} of the contact's radius deep runs around it"


def _neck(v: Values) -> str:
    if not v["contact_share"]:
        return "the cross-section at the contact is not seen"
    low, high = (_percent(math.exp(v[f"neck_{side}"])) for side in ("low", "high"))
    return f"the cross-section at the contact is {_both(low, high)} of those on either side"


def _sections(v: Values) -> str:
    if v["short_both"]:
        return "the parts are too short to compare their cross-sections"
    return (
        f"cross-sections change {_times(math.exp(v['loss_excess']))} through the contact as within the parts"
    )


def _solid(v: Values) -> str:
    if v["solid_missing"]:
        return "the pair is too flat to tell whether it is convex"
    alone = v["solid"] + v["solid_gain"]
    return f"joined, the parts fill {_percent(v['solid'])} of their convex hull, alone {_percent(alone)}"


_SEEN = (
    Group("groove", _of(ACROSS, "rim", "groove", "linear", "missing"), _groove),
    Group("neck", _of(ACROSS, "neck", "contact_share"), _neck),
    Group("sections", _of(ACROSS, "loss", "shape", "short"), _sections),
    Group("convexity", _of(ACROSS, "solid"), _solid),
)

#: Groups of the features of each head.
GROUPS: dict[str, tuple[Group, ...]] = {
    "moments": _GAPS,
    "full": (*_GAPS, Group("change", _of(FULL, *DISTANCES), _distance)),
    "paper": _PUBLISHED,
    "touching": _TOUCH,
    "across": (*_TOUCH, *_SEEN),
}
