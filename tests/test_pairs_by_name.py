"""Pairs by name without YAML: `Distiller` takes a mapping with the keys of ``DISTILL.PAIRS``."""

import pytest
import torch
from detectron2.config import LazyCall, instantiate
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from omegaconf import DictConfig, ListConfig, OmegaConf

from det_distill import Distiller, RCNNTeacher, Teachers
from det_distill.config import load_teacher
from tests.tiny import batch, build, detector_cfg, distill_cfg, save_teacher

PAIRS = {
    "fm": dict(METHOD="FeatureMimicking", AT=["roi_heads.box_head", "backbone:p3"], LSH=True, BIAS="zero"),
    "kd": dict(METHOD="SoftTarget", AT="roi_heads.box_predictor:0", TEMPERATURE=1, WEIGHT=0.5, WARMUP=4),
    "fsp": dict(METHOD="FSP", AT=[["backbone.bottom_up:res2", "backbone:p3"]], ADAPTER="linear"),
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return save_teacher(tmp_path_factory.mktemp("teacher"), detector_cfg(width=8, fpn=24))


def lazy(teacher, pairs=PAIRS):
    """The distiller as detectron2's LazyConfig describes it."""
    return LazyCall(Distiller)(
        student=LazyCall(build)(cfg=detector_cfg()),
        teachers=LazyCall(Teachers)(
            big=LazyCall(load_teacher)(config=teacher["CONFIG"], weights=teacher["WEIGHTS"])
        ),
        pairs=pairs,
    )


def losses(model):
    torch.manual_seed(3)
    with EventStorage():
        return model.train()(batch())


def test_a_lazy_config_gives_bit_equal_losses_to_yaml_under_one_seed(teacher):
    torch.manual_seed(0)
    from_yaml = build_model(distill_cfg(detector_cfg(), teacher, PAIRS))
    cfg = lazy(teacher)
    assert isinstance(cfg.pairs, DictConfig) and isinstance(cfg.pairs.fm.AT, ListConfig)
    from_lazy = instantiate(cfg)
    expected, found = losses(from_yaml), losses(from_lazy)
    assert {name for name in found if name.startswith("distill_")} == {
        *(f"distill_fm_{at}_{term}" for at in ("box_head", "p3") for term in ("l2", "lsh")),
        "distill_kd",
        "distill_fsp_res2_p3",
    }
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_override_of_a_lazy_config_reaches_its_pair(teacher):
    cfg = OmegaConf.merge(lazy(teacher, {"fm": PAIRS["fm"]}), {"pairs": {"fm": {"WEIGHT": 3, "LSH": False}}})
    model = instantiate(cfg)
    assert {p.weights["l2"] for p in model.distill.by_name().values()} == {3.0}
    assert {p.terms for p in model.distill.by_name().values()} == {("l2",)}


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_plain_dict_will_do_and_teachers_may_be_plain_modules(wrapped):
    student, big = build(detector_cfg()), build(detector_cfg(), 1)
    teachers = {"big": RCNNTeacher(big) if wrapped else big}
    state = torch.get_rng_state()
    model = Distiller(student, {"kd": PAIRS["kd"]}, teachers)
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(model.teachers["big"], RCNNTeacher) and losses(model)["distill_kd"] > 0


def test_the_mapping_is_not_changed():
    pairs = {"fm": {"METHOD": "FeatureMimicking", "AT": ["backbone:p3"]}}
    Distiller(build(detector_cfg()), pairs, {"big": build(detector_cfg(), 1)})
    assert pairs == {"fm": {"METHOD": "FeatureMimicking", "AT": ["backbone:p3"]}}


@pytest.mark.parametrize(
    ("node", "message"),
    [
        (
            {"METHOD": "FeatureMimicking", "WIEGHT": 1.0},
            r"pairs\.x: unknown key WIEGHT; valid are METHOD, AT",
        ),
        ({"METHOD": "Nothing"}, r"pairs\.x: METHOD 'Nothing' is unknown"),
        ({"AT": ["backbone:p3"]}, r"pairs\.x: needs METHOD"),
        (torch.nn.Identity(), r"pairs\.x: needs METHOD"),
        (
            {"METHOD": "FeatureMimicking", "AT": ["backbone:p3"], "WEIGHT": "much"},
            r"pairs\.x\.WEIGHT: 'much' is not a finite number",
        ),
        ({"METHOD": "FeatureMimicking", "AT": ["backbone:p9"]}, r"pairs\.x: .*p2, p3"),
        ({"METHOD": "FEED", "AT": "roi_heads.box_head"}, r"pairs\.x: FEED compares feature maps"),
    ],
)
def test_mistakes_are_told_by_the_pairs_name_as_in_yaml(node, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Distiller(build(detector_cfg()), {"x": node}, {"big": build(detector_cfg(), 1)})
