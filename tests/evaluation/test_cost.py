"""Parameters and multiply-adds counted by hand; what is measured, and that the model is left as it was."""

import time

import pytest
import torch
from torch import nn

from det_distill import Distiller, Pair, Pairs
from det_distill.adapters import Conv1x1
from det_distill.evaluation.cost import model_cost
from det_distill.losses import L2
from tests.tiny import build, detector_cfg


class OneConv(nn.Module):
    """3 -> 4 channels, 3x3, stride 2, then a linear layer 4 -> 5; notes what it was given, and rests."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1, bias=False).requires_grad_(False)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 5)
        self.seen = []

    def forward(self, batch):
        self.seen.append((batch[0]["image"], self.training, torch.is_grad_enabled()))
        time.sleep(0.02)
        x = self.conv(batch[0]["image"].float()[None])
        return {"logits": self.linear(x.mean((2, 3)))}


def test_parameters_count_frozen_ones_and_no_buffers():
    # conv 4*3*9 = 108 (frozen), norm 4 + 4, linear 4*5 + 5 = 25; the norm's statistics are buffers
    assert model_cost(OneConv(), 16, 8, seconds=0).parameters == 108 + 8 + 25


def test_multiply_adds_are_those_counted_by_hand():
    # conv: 8 x 4 outputs, 4 channels, 3*9 products each; linear: 4*5
    cost = model_cost(OneConv(), 16, 8, seconds=0)
    assert cost.giga_multiply_adds * 1e9 == pytest.approx(8 * 4 * 4 * 27 + 20)
    assert cost.row()["GFLOPs (1 = 1e9 multiply-adds)"] == cost.giga_multiply_adds


def test_images_per_second_is_one_over_the_median_time():
    cost = model_cost(OneConv(), 16, 8, seconds=0.1)
    assert 5 < cost.images_per_second < 50  # a forward pass sleeps 1/50 s
    assert (cost.threads, cost.device) == (torch.get_num_threads(), "cpu")


def test_the_model_runs_in_eval_mode_without_gradients_and_keeps_its_own_modes():
    model = OneConv().train()
    model.norm.eval()
    model_cost(model, 16, 8, seconds=0)
    assert all(not training and not grad for _, training, grad in model.seen)
    assert model.training and model.linear.training and not model.norm.training


def test_a_given_image_is_resized_and_used():
    model, image = OneConv(), torch.full((3, 4, 4), 7.0)
    model_cost(model, 16, 8, image=image, seconds=0)
    for seen, _, _ in model.seen:
        torch.testing.assert_close(seen, torch.full((3, 16, 8), 7.0))


def test_a_distiller_costs_what_its_student_costs():
    student = build(detector_cfg())
    pairs = Pairs(a=Pair("backbone:p3", "backbone:p3", L2(), student_adapter=Conv1x1(16, 24)))
    distiller = Distiller(student=student, pairs=pairs, teachers={"big": build(detector_cfg(fpn=24))})
    cost, plain = (model_cost(m, 64, 96, seconds=0) for m in (distiller, student))
    assert (cost.parameters, cost.giga_multiply_adds) == (plain.parameters, plain.giga_multiply_adds)
    assert cost.parameters == sum(p.numel() for p in student.parameters())


def test_a_detectors_heads_are_counted_per_proposal():
    # one more RoI costs the box head 3*3*16*24 multiply-adds and the predictor 24*(3 + 8)
    costs = []
    for proposals in (5, 6):
        cfg = detector_cfg()
        cfg.MODEL.RPN.POST_NMS_TOPK_TEST = proposals
        costs.append(model_cost(build(cfg), 64, 96, seconds=0).giga_multiply_adds * 1e9)
    assert costs[1] - costs[0] == pytest.approx(9 * 16 * 24 + 24 * 11)


def test_a_size_or_image_that_makes_no_sense_is_an_error():
    with pytest.raises(ValueError, match="0 x 8"):
        model_cost(OneConv(), 0, 8)
    with pytest.raises(ValueError, match=r"\(C, H, W\)"):
        model_cost(OneConv(), 16, 8, image=torch.zeros(1, 3, 4, 4))
