"""The 3x3 neighbourhoods of a map's cells, and feature mimicking of RetinaNet's tower maps with them."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from det_distill.adapters import Conv1x1, Neighbourhood
from det_distill.hooks import calibrate_hashes
from tests.tiny import batch, detector_cfg, distill_cfg, save_teacher

LEVELS = [f"head.cls_subnet#{n}" for n in range(2)]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_by_hand_the_cells_of_a_small_map_see_each_other_and_zeros_outside():
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2)
    around = Neighbourhood()(x)
    assert around[0, :, 0, 0].tolist() == [0, 0, 0, 0, 1, 2, 0, 3, 4]
    assert around[0, :, 1, 0].tolist() == [0, 1, 2, 0, 3, 4, 0, 0, 0]


def test_a_slow_loop_gathers_the_same_cells():
    x = torch.randn(2, 3, 4, 5)
    padded = torch.zeros(2, 3, 6, 7)
    padded[:, :, 1:-1, 1:-1] = x
    slow = torch.empty(2, 27, 4, 5)
    for row in range(4):
        for column in range(5):
            slow[:, :, row, column] = padded[:, :, row : row + 3, column : column + 3].flatten(1)
    assert torch.equal(Neighbourhood()(x), slow)


def test_a_flattened_3x3_weight_times_the_neighbourhood_is_the_convolution():
    x, weight = torch.randn(2, 3, 4, 5), torch.randn(6, 3, 3, 3)
    products = torch.einsum("nd,bdhw->bnhw", weight.flatten(1), Neighbourhood()(x))
    torch.testing.assert_close(products, F.conv2d(x, weight, padding=1), rtol=1e-4, atol=1e-5)


def test_a_1x1_map_before_the_neighbourhood_acts_on_every_neighbour_alike():
    """That is why the channel adapter comes first; outside the map there are zeros, not the adapter's bias."""
    conv, x = Conv1x1(3, 2), torch.randn(1, 3, 4, 4)
    around = Neighbourhood()(conv(x)).unflatten(1, (2, 3, 3))
    expected = conv(x)
    assert torch.equal(around[:, :, 1, 1], expected)
    assert torch.equal(around[:, :, 0, 2, 1:, :-1], expected[:, :, :-1, 1:])
    assert not around[:, :, 0, :, 0].any()


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0)])
def test_empty_maps_stay_empty_and_attached(shape):
    x = torch.randn(shape, requires_grad=True)
    around = Neighbourhood()(x)
    around.sum().backward()
    assert around.shape == (shape[0], 27, *shape[2:]) and x.grad is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_kept(dtype):
    x = torch.randn(1, 3, 4, 5).to(dtype)
    assert torch.equal(Neighbourhood()(x), Neighbourhood()(x.float()).to(dtype))


def test_gradients_are_those_of_copies():
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(Neighbourhood(), x)
    Neighbourhood()(x).sum().backward()
    assert x.grad[0, 0].tolist() == [[4, 6, 4], [6, 9, 6], [4, 6, 4]]  # in so many neighbourhoods a cell is


def test_vectors_have_no_neighbours():
    with pytest.raises(ValueError, match=r"\(7, 24\).*NEIGHBOURHOOD"):
        Neighbourhood()(torch.zeros(7, 24))


def retinanet_cfg(width=4, fpn=16):
    cfg = detector_cfg(width=width, fpn=fpn)
    cfg.MODEL.META_ARCHITECTURE = cfg.DISTILL.STUDENT_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.RETINANET.NUM_CLASSES = 2
    cfg.MODEL.RETINANET.NUM_CONVS = 1
    return cfg


def mimicking(tmp_path, **options):
    teacher = save_teacher(tmp_path, retinanet_cfg(8, 24))
    node = {"METHOD": "FeatureMimicking", "AT": LEVELS, "NEIGHBOURHOOD": True, **options}
    return build_model(distill_cfg(retinanet_cfg(), teacher, {"fm": node})).train()


def losses(model, data):
    with EventStorage():
        return {k: v for k, v in model(data).items() if k.startswith("distill_")}


def test_a_retinanet_mimics_the_neighbourhoods_of_its_towers_cells_level_by_level(tmp_path):
    model, data = (
        mimicking(tmp_path),
        batch(((64, 96), (64, 96))),
    )  # a size of which 32 is a divisor: no padding
    values = losses(model, data)
    assert set(values) == {"distill_fm_cls_subnet_0_l2", "distill_fm_cls_subnet_1_l2"}
    sum(values.values()).backward()
    with EventStorage():
        _, student, teachers = model.observe(data)
    for level, pair in zip(LEVELS, model.distill.values(), strict=True):
        conv = pair.student_adapter[0]
        assert conv.weight.shape == (24, 16, 1, 1) and conv.weight.grad.any()
        own, its = (
            F.unfold(conv(student[level]), 3, padding=1),
            F.unfold(teachers["big"][level], 3, padding=1),
        )
        name = f"distill_fm_cls_subnet_{level[-1]}_l2"
        assert values[name].item() == pytest.approx((own - its).square().mean().item(), rel=1e-5)


def test_hashes_have_nine_times_the_width_and_the_spread_of_the_3x3_classifier(tmp_path):
    model = mimicking(tmp_path, LSH=True, L2=False)
    teacher = model.teachers["big"].model
    for pair in model.distill.values():
        lsh = pair.losses["lsh"]
        assert lsh.weight.shape == (16 * 24, 9 * 24)
        spread = teacher.head.cls_score.weight.std().item()
        assert lsh.weight.std().item() == pytest.approx(spread, rel=0.02)
        assert lsh.needs_calibration
    calibrate_hashes(model, [batch(), batch(seed=1)])
    assert all(v > 0 and v.isfinite() for v in losses(model, batch()).values())


def test_without_an_adapter_the_neighbourhood_stands_alone(tmp_path):
    teacher = save_teacher(tmp_path, retinanet_cfg(8, 16))
    node = {"METHOD": "FeatureMimicking", "AT": LEVELS, "NEIGHBOURHOOD": True, "HASHES": 5, "LSH": True}
    pair = next(iter(build_model(distill_cfg(retinanet_cfg(), teacher, {"fm": node})).distill.values()))
    assert [type(m) for m in pair.student_adapter] == [Neighbourhood]
    assert isinstance(pair.teacher_adapter, Neighbourhood) and pair.losses["lsh"].weight.shape == (5, 9 * 16)
    assert not any(isinstance(m, nn.Conv2d) for m in pair.modules())


def test_unequal_channels_without_an_adapter_are_told_when_it_is_built(tmp_path):
    with pytest.raises(ValueError, match="144 channels.*216"):
        mimicking(tmp_path, ADAPTER="none")
