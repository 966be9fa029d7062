"""`FocalGlobal` and `GlobalRelation`: numbers of the authors' code, weights of boxes by hand, a slow loop."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from det_distill.adapters import GlobalContext
from det_distill.losses import FocalGlobal, GlobalRelation, MaskedGeneration
from det_distill.losses.focal_global import box_weights, channel_attention, spatial_attention

# Recorded from yzd-v/FGD, mmdet/distillation/losses/fgd.py FeatureLoss; see the keys `*/meta`.
RECORDED = np.load(Path(__file__).parent / "reference" / "focal_global.npz")
NONE = torch.zeros(0, 4)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def recorded(key):
    return torch.from_numpy(np.asarray(RECORDED[key]))


def boxes_of(*rows):
    return torch.tensor(rows, dtype=torch.float32).view(-1, 4)


def close_to_the_authors(found, key):
    expected = recorded(key)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def test_the_focal_part_has_the_value_and_the_gradient_of_the_authors_code():
    loss = FocalGlobal(foreground=0.001, background=0.0005, attention=0.0007, temperature=0.5)
    student = recorded("fgd_focal/student").requires_grad_()
    boxes = [recorded(f"fgd_focal/boxes{i}") for i in range(2)]
    value = loss(student, recorded("fgd_focal/teacher"), boxes=boxes)
    value.backward()
    assert value.item() == pytest.approx(float(RECORDED["fgd_focal/value"]), rel=1e-5)
    close_to_the_authors(student.grad, "fgd_focal/grad_student")


def test_the_global_part_has_the_value_and_the_gradients_of_the_authors_code():
    contexts = {}
    for side in ("s", "t"):
        weights = {
            layer + key.partition(f"{layer}_{side}")[2]: recorded(key)
            for layer in ("conv_mask", "channel_add_conv")
            for key in RECORDED.files
            if f"weights/{layer}_{side}." in key
        }
        contexts[side] = GlobalContext(6)
        contexts[side].load_state_dict(weights)
    student = recorded("fgd_relation/student").requires_grad_()
    value = GlobalRelation(contexts["s"], contexts["t"])(student, recorded("fgd_relation/teacher"))
    value.backward()
    assert value.item() == pytest.approx(float(RECORDED["fgd_relation/value"]), rel=1e-5)
    close_to_the_authors(student.grad, "fgd_relation/grad_student")
    close_to_the_authors(contexts["t"].channel_add_conv[0].weight.grad, "fgd_relation/grad_teacher_block")


def test_the_cells_of_a_box_reach_from_the_floor_to_the_ceiling_both_included():
    # Columns 1 to 2, rows 0 to 3: eight cells. The other twelve of 4 x 5 are background.
    objects, background = box_weights([boxes_of([1, 0.5, 1.5, 3])], torch.zeros(1, 2, 4, 5))
    expected = torch.zeros(4, 5)
    expected[0:4, 1:3] = 1 / 8
    assert torch.equal(objects[0, 0], expected)
    torch.testing.assert_close(background[0, 0], (expected == 0) / 12)


def test_where_boxes_overlap_the_smaller_one_counts_whatever_their_order():
    large, small = [0, 0, 3, 3], [1, 1, 2, 2]  # 16 cells, 4 cells
    expected = torch.full((4, 4), 1 / 16)
    expected[1:3, 1:3] = 1 / 4
    for boxes in (boxes_of(large, small), boxes_of(small, large)):
        assert torch.equal(box_weights([boxes], torch.zeros(1, 1, 4, 4))[0][0, 0], expected)


def test_the_part_of_a_box_outside_of_the_map_counts_in_its_number_of_cells():
    objects, _ = box_weights(
        [boxes_of([-2, 2, 0, 3])], torch.zeros(1, 1, 3, 3)
    )  # columns -2 to 0, rows 2 to 3
    expected = torch.zeros(3, 3)
    expected[2, 0] = 1 / 6
    torch.testing.assert_close(objects[0, 0], expected)


def test_without_boxes_everything_is_background_and_a_box_over_everything_leaves_none():
    feature = torch.zeros(2, 1, 2, 3)
    objects, background = box_weights([NONE, boxes_of([0, 0, 2, 1])], feature)
    assert not objects[0].any() and (background[0] == 1 / 6).all()
    assert (objects[1] == 1 / 6).all() and not background[1].any()


def test_padded_cells_are_neither_object_nor_background():
    valid = torch.ones(1, 1, 2, 4, dtype=torch.bool)
    valid[..., 3] = False
    objects, background = box_weights([boxes_of([2, 0, 3, 0])], torch.zeros(1, 1, 2, 4), valid)
    assert objects[0, 0].tolist() == [[0, 0, 0.5, 0], [0, 0, 0, 0]]
    torch.testing.assert_close(background[0, 0], torch.tensor([[0.2, 0.2, 0, 0], [0.2, 0.2, 0.2, 0]]))


def test_attention_by_hand():
    # |F| = ((1 - x, 1 + x), (1 + x, 1 + 3 x)) of two channels and two cells with x = log(3) / 4: the means are 1 and
    # 1 + 2 x over channels as over cells. With T = 1/2 the softmax is (1, 3) / 4, times two cells or channels.
    x = math.log(3) / 4
    feature = torch.tensor([[[[1 - x, -1 - x]], [[-1 - x, 1 + 3 * x]]]])
    torch.testing.assert_close(spatial_attention(feature, 0.5).flatten(), torch.tensor([0.5, 1.5]))
    torch.testing.assert_close(channel_attention(feature, 0.5).flatten(), torch.tensor([0.5, 1.5]))


def test_three_terms_by_hand():
    # |F| is 1 everywhere on both sides, so that all attention is 1 and its term 0; (F_s - F_t)^2 is 4 in one cell of
    # a box of four cells and in one of twelve background cells, in both channels: 2 * 4 / 4 and 2 * 4 / 12.
    teacher = torch.ones(1, 2, 4, 4)
    student = teacher.clone()
    student[0, :, 0, 0] = student[0, :, 3, 3] = -1
    loss = FocalGlobal(foreground=3, background=5, attention=7)
    assert loss(student, teacher, boxes=[boxes_of([0, 0, 1, 1])]).item() == pytest.approx(3 * 2 + 5 * 8 / 12)
    # One channel and two cells, |F_t| = (1, 1), |F_s| = (1, 1 + log 3 / 2): spatial attention (1, 1) and (1/2, 3/2).
    student = torch.tensor([[[[1.0, 1 + math.log(3) / 2]]]])
    loss = FocalGlobal(foreground=0, background=0, attention=7)
    assert loss(student, torch.ones(1, 1, 1, 2), boxes=[NONE]).item() == pytest.approx(7 * (0.5 + 0.5))


def by_loops(student, teacher, boxes, foreground, background, attention, temperature):
    """The loss of one image (C, H, W) with plain Python numbers."""
    channels, height, width = student.shape
    s, t = student.tolist(), teacher.tolist()
    cells = [(i, j) for i in range(height) for j in range(width)]

    def softmax(values, count):
        powers = [math.exp(v) for v in values]
        return [count * p / sum(powers) for p in powers]

    def attentions(f):
        spatial = [sum(abs(f[k][i][j]) for k in range(channels)) / channels for i, j in cells]
        channel = [sum(abs(f[k][i][j]) for i, j in cells) / len(cells) for k in range(channels)]
        return (
            dict(zip(cells, softmax([v / temperature for v in spatial], len(cells)), strict=True)),
            softmax([v / temperature for v in channel], channels),
        )

    (where_s, what_s), (where_t, what_t) = attentions(s), attentions(t)
    weight = dict.fromkeys(cells, 0.0)
    for x0, y0, x1, y1 in boxes.tolist():
        own_rows, own_columns = (
            range(math.floor(y0), math.ceil(y1) + 1),
            range(math.floor(x0), math.ceil(x1) + 1),
        )
        for i, j in cells:
            if i in own_rows and j in own_columns:
                weight[i, j] = max(weight[i, j], 1 / (len(own_rows) * len(own_columns)))
    outside = [cell for cell in cells if not weight[cell]]
    value = 0.0
    for i, j in cells:
        e = where_t[i, j] * sum(what_t[k] * (s[k][i][j] - t[k][i][j]) ** 2 for k in range(channels))
        value += foreground * weight[i, j] * e + (background * e / len(outside) if not weight[i, j] else 0)
    value += attention * sum(abs(where_s[c] - where_t[c]) for c in cells)
    return value + attention * sum(abs(a - b) for a, b in zip(what_s, what_t, strict=True))


def test_a_slow_loop_over_images_cropped_out_of_their_padding_gives_the_same():
    student, teacher = torch.randn(3, 4, 6, 7), torch.randn(3, 4, 6, 7)
    sizes = [(6, 7), (4, 5), (3, 7)]
    valid = torch.zeros(3, 1, 6, 7, dtype=torch.bool)
    for mask, (h, w) in zip(valid, sizes, strict=True):
        mask[:, :h, :w] = True
    boxes = [boxes_of([0.3, 1.2, 2.7, 3.1], [1, 1, 6.5, 5.9]), boxes_of([1, 1, 9, 9]), NONE]
    options = {"foreground": 2.0, "background": 0.5, "attention": 0.3, "temperature": 0.8}
    expected = [
        by_loops(s[:, :h, :w], t[:, :h, :w], b, **options)
        for s, t, b, (h, w) in zip(student, teacher, boxes, sizes, strict=True)
    ]
    found = FocalGlobal(**options)(student, teacher, valid, boxes=boxes)
    assert found.item() == pytest.approx(sum(expected) / 3, rel=1e-5)


def test_the_order_of_channels_and_of_boxes_and_turning_the_map_over_change_nothing():
    loss = FocalGlobal(foreground=1, background=1, attention=1)
    student, teacher = torch.randn(1, 4, 5, 7), torch.randn(1, 4, 5, 7)
    boxes = boxes_of([0, 1, 2.5, 3], [2, 2, 6, 4])
    value = loss(student, teacher, boxes=[boxes])
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(loss(student[:, order], teacher[:, order], boxes=[boxes.flip(0)]), value)
    turned = loss(student.mT, teacher.mT, boxes=[boxes[:, [1, 0, 3, 2]]])
    torch.testing.assert_close(turned, value)


def test_boxes_in_double_or_half_precision_mean_the_same():
    loss, feature = FocalGlobal(foreground=1), torch.randn(1, 2, 4, 4)
    box = boxes_of([0.5, 0, 2.5, 1])
    value = loss(feature, feature + 1, boxes=[box])
    for kind in (torch.float64, torch.float16):
        assert loss(feature, feature + 1, boxes=[box.to(kind)]) == value


@pytest.mark.parametrize("boxes", [[NONE], [NONE, torch.zeros(4)], [NONE, torch.zeros(2, 5)]])
def test_boxes_that_are_not_one_table_for_each_image_are_refused(boxes):
    feature = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"one \(n, 4\) for each of the 2 images"):
        FocalGlobal()(feature, feature, boxes=boxes)


def test_vectors_are_refused():
    with pytest.raises(ValueError, match="FGD compares maps"):
        FocalGlobal()(torch.zeros(2, 3), torch.zeros(2, 3), boxes=[NONE, NONE])
    with pytest.raises(ValueError, match="FGD compares maps"):
        GlobalRelation()(torch.zeros(2, 3), torch.zeros(2, 3))


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="temperature above 0"):
        FocalGlobal(temperature=0)


def test_the_relation_is_a_sum_per_image_that_new_contexts_leave_as_it_is():
    student, teacher = torch.randn(2, 4, 3, 5), torch.randn(2, 4, 3, 5)
    expected = MaskedGeneration("sum")(student, teacher)
    torch.testing.assert_close(GlobalRelation()(student, teacher), expected)
    contexts = GlobalContext(4), GlobalContext(4)
    torch.testing.assert_close(GlobalRelation(*contexts)(student, teacher), expected)


def trained_context(channels):
    context = GlobalContext(channels)
    for parameter in context.parameters():
        torch.nn.init.normal_(parameter)
    return context


def test_both_contexts_train_and_the_teachers_map_does_not():
    loss = GlobalRelation(trained_context(4), trained_context(4))
    student, teacher = (
        torch.randn(2, 4, 3, 5, requires_grad=True),
        torch.randn(2, 4, 3, 5, requires_grad=True),
    )
    loss(student, teacher).backward()
    # The bias of the attention's logits moves all of them alike: no gradient but rounding.
    assert all(p.grad.any() for n, p in loss.named_parameters() if not n.endswith("conv_mask.bias"))
    assert student.grad.any() and teacher.grad is None


def test_the_contexts_see_each_image_as_cropped_out_of_its_padding():
    loss = GlobalRelation(trained_context(4), trained_context(4))
    student, teacher = torch.randn(2, 4, 5, 6), torch.randn(2, 4, 5, 6)
    valid = torch.ones(2, 1, 5, 6, dtype=torch.bool)
    valid[1, :, 3:] = valid[1, :, :, 4:] = False
    cropped = loss(student[:1], teacher[:1]) + loss(student[1:, :, :3, :4], teacher[1:, :, :3, :4])
    torch.testing.assert_close(loss(student, teacher, valid), cropped / 2)


def test_the_relation_is_finite_where_no_cell_is_valid():
    loss = GlobalRelation(trained_context(4), trained_context(4))
    student = torch.randn(1, 4, 2, 2, requires_grad=True)
    value = loss(student, torch.randn(1, 4, 2, 2), torch.zeros(1, 1, 2, 2, dtype=torch.bool))
    value.backward()
    assert value == 0 and not student.grad.any()
    assert all(p.grad.isfinite().all() for p in loss.parameters())
