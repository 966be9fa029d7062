"""One step: parts that sum to the whole, mixed precision on the CPU, and every method's losses in it."""

import copy
import itertools

import pytest
import torch
from detectron2.engine import SimpleTrainer
from detectron2.layers import ROIAlign
from detectron2.modeling import build_model
from detectron2.solver.build import maybe_add_gradient_clipping
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from torch import nn

from det_distill.gradient_share import GradientShare
from det_distill.methods import METHODS
from det_distill.train_step import TrainStep, autocast
from tests.tiny import batch, build, classifier_cfg, detector_cfg, distill_cfg, save_teacher


def amp(cfg, precision="bfloat16"):
    cfg = cfg.clone()
    cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.PRECISION = True, precision
    return cfg


def images(count=4, size=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=g, dtype=torch.uint8)
    return [
        {"image_id": i, "image": p, "label": i % 2, "height": size, "width": size}
        for i, p in enumerate(pixels)
    ]


class Scale(nn.Module):
    """The mean over samples of a weight times the sample; an infinite sample has an infinite gradient."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1.0))
        self.calls = []

    def forward(self, samples):
        self.calls.append(list(samples))
        return {
            "loss_a": self.weight * sum(samples) / len(samples),
            "loss_b": torch.tensor(float(samples[0])),
        }


def step(model, samples, *, rate=0.5, kind=torch.optim.SGD, steps=1, trainer=TrainStep, **options):
    made = trainer(model, [samples] * steps, kind(model.parameters(), lr=rate), **options)
    made.train(0, steps)
    return made


def logged(trainer):
    return {k: v.latest() for k, v in trainer.storage.histories().items()}


def test_parts_are_computed_in_turn_and_their_gradients_and_logged_losses_are_means():
    model = Scale()
    trainer = step(model, [1.0, 2.0, 3.0, 6.0], parts=2)
    assert model.calls == [[1.0, 2.0], [3.0, 6.0]]
    assert model.weight.item() == 1 - 0.5 * 3
    found = logged(trainer)
    assert found["loss_a"] == 3.0 and found["loss_b"] == 2.0 and found["total_loss"] == 5.0
    assert found["data_time"] >= 0


def test_gradients_of_an_earlier_step_are_gone():
    model = Scale()
    step(model, [1.0, 2.0, 3.0, 6.0], parts=4, steps=2)
    assert model.weight.item() == 1 - 0.5 * 3 * 2


def test_the_step_in_parts_is_that_of_the_whole_batch():
    whole = build(classifier_cfg()).eval()  # batch normalisation would see the parts
    models = [whole, copy.deepcopy(whole)]
    for parts, model in zip((1, 4), models, strict=True):
        model.train = lambda mode=True, model=model: model
        model.training = True
        step(model, images(), rate=0.1, parts=parts)
    for (name, one), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("distilled", [False, True])
def test_alone_it_is_bitwise_detectron2s_step(tmp_path, distilled):
    cfg = detector_cfg(norm="BN")
    if distilled:
        pairs = {"fm": {"METHOD": "FeatureMimicking", "AT": ["backbone:p3"]}}
        cfg = distill_cfg(cfg, save_teacher(tmp_path, detector_cfg()), pairs)
    states = []
    for kind in (SimpleTrainer, TrainStep):
        torch.manual_seed(0)
        model = build_model(cfg)
        trainer = step(model, batch(), rate=1e-3, steps=2, trainer=kind)
        states.append((model.state_dict(), logged(trainer)))
    assert all(torch.equal(v, states[1][0][k]) for k, v in states[0][0].items())
    (_, theirs), (_, ours) = states
    assert {k: v for k, v in ours.items() if "time" not in k} == {
        k: v for k, v in theirs.items() if "time" not in k
    }


@pytest.fixture
def group(tmp_path):
    """A process group of one."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_processes_exchange_gradients_once_a_step_and_those_of_all_parts(group):
    model = nn.parallel.DistributedDataParallel(Scale())
    exchanged = []

    def exchange(_, bucket):
        exchanged.append(bucket.buffer().item())
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    model.register_comm_hook(None, exchange)
    step(model, [1.0, 2.0, 3.0, 6.0], parts=4, steps=2)
    assert exchanged == [3.0, 3.0] and model.module.weight.item() == 1 - 0.5 * 3 * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ACCUMULATE": 0}, "SOLVER.ACCUMULATE 0: .* at least 1 part"),
        (
            {"ACCUMULATE": 3},
            r"SOLVER.ACCUMULATE 3: 4 images \(4 in 1 process\) .* 3 equal parts; .* multiple of 3$",
        ),
        ({"AMP.ENABLED": True}, "'float16' needs a GPU, but MODEL.DEVICE is 'cpu'.*'bfloat16'"),
        (
            {"AMP.ENABLED": True, "AMP.PRECISION": "fp16"},
            "'fp16' is unknown: choose one of float16, bfloat16",
        ),
    ],
)
def test_what_cannot_be_done_is_told_when_the_step_is_built(changes, message):
    cfg = classifier_cfg()
    cfg.merge_from_list(list(itertools.chain(*((f"SOLVER.{k}", v) for k, v in changes.items()))))
    model = Scale()
    with pytest.raises(ValueError, match=message):
        TrainStep.from_config(cfg, model, [], torch.optim.SGD(model.parameters(), 0.1))


def test_a_batch_that_cannot_be_split_is_an_error():
    with pytest.raises(ValueError, match="a batch of 3 images cannot be split into SOLVER.ACCUMULATE 2"):
        step(Scale(), [1.0, 2.0, 3.0], parts=2)


def test_a_loss_that_is_not_finite_ends_the_training_before_the_weights_are_touched():
    model = Scale()
    with pytest.raises(FloatingPointError, match="infinite or NaN"):
        step(model, [1.0, float("inf")], parts=2)
    assert model.weight.item() == 1.0


class Clip:
    """Enough of SOLVER for gradients that are clipped at 1."""

    class SOLVER:
        class CLIP_GRADIENTS:
            ENABLED, CLIP_TYPE, CLIP_VALUE, NORM_TYPE = True, "value", 1.0, 2.0


def test_scaled_gradients_are_unscaled_before_they_are_clipped_and_the_scaler_is_resumed():
    def scaled(state=None, steps=1):
        model = Scale()
        sgd = maybe_add_gradient_clipping(Clip, torch.optim.SGD)
        trainer = TrainStep(model, [[0.25]] * 2, sgd(model.parameters(), lr=1.0))
        trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
        if state is not None:
            trainer.load_state_dict(state)
        trainer.train(0, steps)
        return model.weight.item(), trainer.state_dict()

    weight, state = scaled()
    assert weight == 0.75 and state["grad_scaler"]["scale"] == 1024.0
    assert scaled(state)[1]["grad_scaler"]["scale"] == 2048.0  # its second step in a row
    del state["grad_scaler"]  # saved by a run in float32
    assert scaled(state)[1]["grad_scaler"]["scale"] == 1024.0


def test_a_scaled_step_whose_gradient_overflows_is_skipped():
    model = Scale()
    model.weight.register_hook(lambda gradient: gradient * float("inf"))
    trainer = TrainStep(model, [[1.0]], torch.optim.SGD(model.parameters(), lr=1.0))
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer.train(0, 1)
    assert model.weight.item() == 1.0 and trainer.grad_scaler.get_scale() == 512.0


def test_the_report_of_gradient_shares_looks_at_the_first_part_and_changes_nothing():
    weights = []
    for hooks in ([], [GradientShare(1, "inner")]):
        model = nn.Module()
        model.inner = Scale()
        model.forward = model.inner.forward
        trainer = TrainStep(model, [[1.0, 3.0]], torch.optim.SGD(model.parameters(), 0.5), parts=2)
        trainer.register_hooks(hooks)
        trainer.train(0, 1)
        weights.append(model.inner.weight.item())
    assert weights == [0.0, 0.0] and logged(trainer)["gradient/loss_a"] == 1.0


def test_without_mixed_precision_the_context_has_no_effect():
    with autocast(classifier_cfg()):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with autocast(amp(classifier_cfg())):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


LOGITS, MAPS = ["classifier"], ["backbone:res3"]
TWO_MAPS = ["backbone:res2", "backbone:res3"]
PIXELS = ["classifier", "backbone@input"]
CLASSIFIER_PAIRS = {
    "DecoupledTarget": LOGITS,
    "LogitRegression": LOGITS,
    "SoftTarget": LOGITS,
    "AttentionTransfer": MAPS,
    "ChannelWise": MAPS,
    "DarkRank": ["embedding"],
    "FEED": MAPS,
    "FactorTransfer": MAPS,
    "FSP": [TWO_MAPS],
    "FeatureMimicking": ["embedding"],
    "FitNets": MAPS,
    "FlipSymmetry": [PIXELS],
    "GradientAttention": [PIXELS],
    "Pearson": MAPS,
    "MaskedGeneration": MAPS,
    "ReviewFusion": [TWO_MAPS],
}
DETECTOR_PAIRS = {
    "BoxRegression": ["roi_heads.box_predictor:1"],
    "FocalGlobal": ["backbone:p3"],
    "SoftTarget": ["roi_heads.box_predictor:0"],
    "FeatureMimicking": ["roi_heads.box_head"],
    "AttentionTransfer": ["backbone:p3"],
}
OPTIONS = {
    "FeatureMimicking": {"LSH": True, "HASHES": 16, "BIAS": "zero"},
}


def test_every_method_is_tried_in_mixed_precision():
    assert {*CLASSIFIER_PAIRS, *DETECTOR_PAIRS} == set(METHODS)


def finite_step(cfg, samples):
    """One step in bfloat16; the losses beside those in float32, and every parameter with its gradient."""
    torch.manual_seed(0)
    model = build_model(cfg).train()
    torch.manual_seed(1)
    with EventStorage(), torch.no_grad() if not _double(model) else torch.enable_grad():
        expected = {k: v.item() for k, v in copy.deepcopy(model)(samples).items()}
    dtypes = {}
    for teacher in model.teachers.values():
        for name, module in teacher.model.named_modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda m, i, o, name=name: dtypes.update({name: o.dtype}))
    found = []
    model.register_forward_hook(lambda m, i, losses: found.append(losses))
    torch.manual_seed(1)
    step(model, samples, rate=1e-3, cfg=amp(cfg))
    return model, expected, found[0], set(dtypes.values())


def _double(model):
    return any(pair.differentiates_input for pair in model.distill.by_name().values())


def save_paraphraser(cfg, folder):
    """Train a paraphraser for a step in bfloat16, and write it."""
    cfg = cfg.clone()
    cfg.MODEL.META_ARCHITECTURE = "ParaphraserPretrainer"
    model = build_model(cfg)
    trainer = step(model, images(), rate=1e-3, cfg=amp(cfg))
    assert 0 < logged(trainer)["total_loss"] < float("inf")
    torch.save({"model": model.state_dict()}, folder / "paraphraser.pth")
    return str(folder / "paraphraser.pth")


@pytest.mark.parametrize("method", CLASSIFIER_PAIRS)
def test_a_classifier_learns_by_every_method_in_bfloat16(tmp_path, method):
    """Losses are float32 and near those of a float32 step, gradients finite, and the teacher runs in bfloat16 too."""
    student, teacher = classifier_cfg(depth=8), classifier_cfg(depth=14)
    node = {"METHOD": method, "AT": CLASSIFIER_PAIRS[method], **OPTIONS.get(method, {})}
    cfg = distill_cfg(student, save_teacher(tmp_path, teacher), {"pair": node})
    if method == "FlipSymmetry":
        del cfg.DISTILL.TEACHERS["big"]
    if method == "FactorTransfer":
        cfg.DISTILL.PAIRS.pair.PARAPHRASER = save_paraphraser(cfg, tmp_path)
    model, expected, losses, dtypes = finite_step(cfg, images())
    assert {k: v.dtype for k, v in losses.items()} == dict.fromkeys(expected, torch.float32)
    for name, value in losses.items():
        assert value.isfinite()
        assert value.item() == pytest.approx(expected[name], rel=0.2, abs=0.05)
    trained = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert trained and all(g.isfinite().all() for g in trained.values())
    assert any(g.any() for n, g in trained.items() if "backbone" in n)
    assert dtypes <= {torch.bfloat16}


@pytest.mark.parametrize("method", DETECTOR_PAIRS)
def test_a_detector_learns_in_bfloat16(tmp_path, method):
    node = {"METHOD": method, "AT": DETECTOR_PAIRS[method], **OPTIONS.get(method, {})}
    model, expected, losses, dtypes = finite_step(
        distill_cfg(detector_cfg(norm="BN"), save_teacher(tmp_path, detector_cfg()), {"pair": node}), batch()
    )
    assert {k: v.dtype for k, v in losses.items()} == dict.fromkeys(expected, torch.float32)
    assert all(v.isfinite() for v in losses.values())
    trained = [p.grad for p in model.student.parameters() if p.grad is not None]
    assert trained and all(g.isfinite().all() for g in trained) and dtypes <= {torch.bfloat16}


def test_boxes_are_not_rounded_to_bfloat16_where_they_pool(tmp_path):
    """A box at 1001 pixels would be pooled at 1000; in the student and in the teacher."""
    pairs = {"pair": {"METHOD": "FeatureMimicking", "AT": ["roi_heads.box_head"]}}
    cfg = amp(distill_cfg(detector_cfg(norm="BN"), save_teacher(tmp_path, detector_cfg()), pairs))
    model = build_model(cfg)
    seen = []
    for whole in (model, model.teachers["big"].model):
        for module in whole.modules():
            if isinstance(module, ROIAlign):
                module.register_forward_pre_hook(lambda m, arguments: seen.append(arguments))
    step(model, batch(), rate=1e-4, cfg=cfg)
    assert len(seen) == 2 * 4 and {maps.dtype for maps, _ in seen} == {torch.float32}
    pooler = model.student.roi_heads.box_pooler
    maps = [torch.rand(1, 16, 512 // 2**i, 512 // 2**i).bfloat16() for i in range(4)]
    boxes = [Boxes(torch.tensor([[1001.0, 701.0, 1051.0, 753.0]]))]
    with autocast(cfg):
        found = pooler(maps, boxes)
    assert torch.equal(found, pooler([x.float() for x in maps], boxes))
