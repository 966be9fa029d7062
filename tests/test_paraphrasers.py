"""The unsupervised first stage: what it trains, what it writes, and what refuses to load."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from det_distill.adapters import AutoEncoder, Paraphraser
from det_distill.paraphrasers import ParaphraserTrainee, new_paraphraser, trained_paraphraser
from det_distill.teachers import RCNNTeacher
from tests.tiny import batch, build, detector_cfg, distill_cfg, save_teacher

SITES = ["backbone:p2", "backbone.bottom_up:res4"]


def pretrainer(tmp_path, **pair):
    node = {"METHOD": "FactorTransfer", "AT": SITES, **pair}
    cfg = distill_cfg(detector_cfg(), save_teacher(tmp_path, detector_cfg(width=8, fpn=24)), {"ft": node})
    cfg.MODEL.META_ARCHITECTURE = "ParaphraserPretrainer"
    return cfg


def test_a_config_trains_one_paraphraser_per_site_with_the_pairs_rate(tmp_path):
    model = build_model(pretrainer(tmp_path, RATE=0.25, BATCH_NORM=True)).train()
    losses = model(batch())
    assert set(losses) == {"loss_reconstruct_p2", "loss_reconstruct_res4"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.paraphrasers["backbone/bottom_up:res4"].factor_channels == 32
    assert not any(p.requires_grad for p in model._teacher.model.parameters())


def test_training_lowers_the_reconstruction_error(tmp_path):
    model = build_model(pretrainer(tmp_path)).train()
    data, optimizer = batch(), torch.optim.Adam(model.parameters(), 1e-3)
    first = sum(model(data).values())
    for _ in range(15):
        optimizer.zero_grad()
        sum(model(data).values()).backward()
        optimizer.step()
    assert sum(model(data).values()) < 0.95 * first


def test_in_eval_it_gives_the_raw_and_the_scaled_error(tmp_path):
    model = build_model(pretrainer(tmp_path)).train()
    raw = {k.removeprefix("loss_reconstruct_"): float(v.detach()) for k, v in model(batch()).items()}
    out = model.eval()(batch())
    assert {k: v[0] for k, v in out.items()} == pytest.approx(raw)
    assert all(0 < scaled < 2 for _, scaled in out.values())


def test_a_config_trains_the_kind_and_the_layers_that_the_pair_asks_for(tmp_path):
    model = build_model(pretrainer(tmp_path, PARAPHRASER_KIND="autoencoder", LAYERS=2)).train()
    losses = model(batch(((64, 96), (72, 56))))  # res4 has stride 16, and 72 pixels padded to 96 are 6 cells
    sum(losses.values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    module = model.paraphrasers["backbone/bottom_up:res4"]
    assert isinstance(module, AutoEncoder) and module.widths == (64, 32)
    model = build_model(pretrainer(tmp_path, LAYERS=1))
    assert model.paraphrasers["backbone:p2"].layers == 1


def test_pairs_without_a_paraphraser_need_no_first_stage(tmp_path):
    cfg = pretrainer(tmp_path, PARAPHRASER_KIND="none")
    with pytest.raises(ValueError, match="no FactorTransfer pair.*'none' needs none"):
        build_model(cfg)
    cfg.DISTILL.PAIRS.other = cfg.DISTILL.PAIRS.ft.clone()
    cfg.DISTILL.PAIRS.other.update({"PARAPHRASER_KIND": "paraphraser", "AT": ["backbone:p3"]})
    assert list(build_model(cfg).paraphrasers) == ["backbone:p3"]


def test_a_pair_of_another_teacher_does_not_say_where_this_ones_paraphrasers_are(tmp_path):
    cfg = pretrainer(tmp_path, TEACHER_NAMES=["big"])
    assert len(build_model(cfg).paraphrasers) == 2
    cfg.DISTILL.PAIRS.ft.TEACHER_NAMES = ["another"]
    with pytest.raises(ValueError, match="no FactorTransfer pair of teacher 'big'"):
        build_model(cfg)


def test_an_unknown_kind_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(
        ValueError, match="PARAPHRASER_KIND 'pca': choose 'paraphraser', 'autoencoder' or 'none'"
    ):
        build_model(pretrainer(tmp_path, PARAPHRASER_KIND="pca"))


def saved(tmp_path, **pair):
    cfg = pretrainer(tmp_path, **pair)
    model = build_model(cfg)
    torch.save({"model": model.state_dict()}, tmp_path / "paraphraser.pth")
    return str(tmp_path / "paraphraser.pth"), model, cfg


def test_a_trained_paraphraser_is_loaded_frozen(tmp_path):
    path, model, _ = saved(tmp_path)
    loaded = trained_paraphraser(path, "backbone.bottom_up:res4", 128, teacher=model._teacher.fingerprint)
    x = torch.randn(1, 128, 4, 4)
    assert torch.equal(loaded(x), model.paraphrasers["backbone/bottom_up:res4"].encode(x))
    assert not loaded.train().training and not any(p.requires_grad for p in loaded.parameters())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"path": ""}, ValueError, "needs a trained paraphraser"),
        ({"path": "none.pth"}, FileNotFoundError, "does not exist.*ParaphraserPretrainer"),
        ({"address": "backbone:p3"}, ValueError, "it has: backbone.bottom_up:res4, backbone:p2"),
        ({"rate": 0.75}, ValueError, "12 -> 12 channels.* asks for .*18 -> 18 channels"),
        ({"batch_norm": True}, ValueError, "without batch normalisation, the pair asks .* with batch"),
        ({"layers": 1}, ValueError, r"asks for a paraphraser of 1 layer \(24 -> 12 channels\)"),
        ({"kind": "autoencoder"}, ValueError, "holds a paraphraser .* asks for an autoencoder"),
        ({"teacher": "0" * 16}, ValueError, "was trained on teacher"),
    ],
)
def test_a_missing_or_mismatching_file_is_an_error(tmp_path, change, error, message):
    path, model, _ = saved(tmp_path)
    arguments = {
        "path": path,
        "address": "backbone:p2",
        "channels": 24,
        "teacher": model._teacher.fingerprint,
    }
    trained_paraphraser(**arguments)
    with pytest.raises(error, match=message):
        trained_paraphraser(**{**arguments, **change})


@pytest.mark.parametrize("layers", [1, 3])
def test_an_autoencoder_and_a_paraphraser_of_the_same_shapes_are_told_apart(tmp_path, layers):
    path, _, _ = saved(tmp_path, PARAPHRASER_KIND="autoencoder", RATE=1.0, LAYERS=layers)
    own = {"kind": "autoencoder", "rate": 1.0, "layers": layers}
    assert isinstance(trained_paraphraser(path, "backbone:p2", 24, **own), AutoEncoder)
    with pytest.raises(ValueError, match="holds an autoencoder .* asks for a paraphraser"):
        trained_paraphraser(path, "backbone:p2", 24, **{**own, "kind": "paraphraser"})


def test_more_than_ten_layers_are_described_in_their_order(tmp_path):
    model = torch.nn.Module()
    model.add_module("paraphrasers", torch.nn.ModuleDict({"x": new_paraphraser(4, layers=12)}))
    torch.save({"model": model.state_dict()}, tmp_path / "deep.pth")
    assert trained_paraphraser(str(tmp_path / "deep.pth"), "x", 4, layers=12).layers == 12
    with pytest.raises(ValueError, match=f"12 layers \\({'4 -> ' * 7}{'2 -> ' * 5}2 channels"):
        trained_paraphraser(str(tmp_path / "deep.pth"), "x", 4)


def test_the_student_takes_it_and_keeps_it_frozen_through_a_step(tmp_path):
    path, _, cfg = saved(tmp_path)
    cfg.MODEL.META_ARCHITECTURE = "Distiller"
    cfg.DISTILL.PAIRS.ft.PARAPHRASER = path
    model = build_model(cfg).train()
    before = {k: v.clone() for k, v in model.state_dict().items() if "teacher_adapter" in k}
    with EventStorage():
        losses = model(batch())
    (losses["distill_ft_p2"] + losses["distill_ft_res4"]).backward()
    assert before and all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())
    assert all(p.grad is None for n, p in model.named_parameters() if "teacher_adapter" in n)
    assert all(p.grad is not None for n, p in model.named_parameters() if "student_adapter" in n)


def test_sites_that_cannot_be_are_errors(tmp_path):
    teacher = RCNNTeacher(build(detector_cfg()))
    with pytest.raises(ValueError, match="whole image"):
        ParaphraserTrainee(teacher, {"roi_heads.box_head": Paraphraser(24)})
    with pytest.raises(ValueError, match="not on nothing"):
        ParaphraserTrainee(teacher, {})
    cfg = pretrainer(tmp_path)
    cfg.DISTILL.PAIRS.again = cfg.DISTILL.PAIRS.ft.clone()
    build_model(cfg)
    cfg.DISTILL.PAIRS.again.RATE = 1.0
    with pytest.raises(ValueError, match=r"PAIRS\.again.*different paraphraser"):
        build_model(cfg)
    del cfg.DISTILL.PAIRS["again"], cfg.DISTILL.PAIRS["ft"]
    with pytest.raises(ValueError, match="no FactorTransfer pair"):
        build_model(cfg)


def test_padding_does_not_enter_the_reconstruction_error():
    teacher = RCNNTeacher(build(detector_cfg()))
    model = ParaphraserTrainee(teacher, {"backbone:p2": Paraphraser(16)})
    seen = []
    module = model.paraphrasers["backbone:p2"]
    module.reconstruction_loss = lambda x, p, valid: seen.append(valid) or (x.mean(), x.mean())
    model(batch(((64, 96), (32, 48))))
    assert seen[0][1, 0].sum() == 8 * 12 and seen[0][0].all()
