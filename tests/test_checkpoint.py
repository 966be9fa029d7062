"""Rule 2 and 3 in files: any student file loads into the student, a teacher's loads wholly or not at all."""

import pickle

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model

from det_distill.checkpoint import StudentCheckpointer, load_teacher_weights, read_weights
from tests.tiny import build, detector_cfg, distill_cfg, save_teacher

PAIRS = {"fm": {"METHOD": "FeatureMimicking", "AT": ["roi_heads.box_head"], "LSH": True, "BIAS": "zero"}}


@pytest.fixture(scope="module")
def cfg(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    return distill_cfg(detector_cfg(), save_teacher(folder, detector_cfg(width=8, fpn=24)), PAIRS)


def distilled(cfg, seed=4):
    torch.manual_seed(seed)
    return build_model(cfg)


def same(model, state):
    mine = model.student.state_dict()
    return all(torch.equal(v, state[k]) for k, v in mine.items())


def test_a_checkpoint_loads_strictly_into_the_plain_detector_and_default_predictor_runs_on_it(cfg, tmp_path):
    model = distilled(cfg)
    DetectionCheckpointer(model, str(tmp_path)).save("model_0000009", iteration=9)
    state = torch.load(tmp_path / "model_0000009.pth")["model"]
    plain = build(detector_cfg(), seed=8)
    plain.load_state_dict({k: v for k, v in state.items() if not k.startswith("distill.")}, strict=True)
    assert same(model, plain.state_dict())
    its = detector_cfg()
    its.MODEL.WEIGHTS = str(tmp_path / "model_0000009.pth")
    image = torch.randint(0, 255, (64, 64, 3)).byte().numpy()
    output = DefaultPredictor(its)(image)["instances"]
    model.eval()
    with torch.no_grad():
        expected = model([{"image": torch.as_tensor(image).permute(2, 0, 1), "height": 64, "width": 64}])
    assert torch.allclose(output.scores, expected[0]["instances"].scores)


def test_a_plain_pth_loads_into_the_student(cfg, tmp_path, caplog):
    plain = build(detector_cfg(), seed=8)
    torch.save({"model": plain.state_dict()}, tmp_path / "plain.pth")
    model = distilled(cfg)
    DetectionCheckpointer(model).load(str(tmp_path / "plain.pth"))
    assert same(model, plain.state_dict())
    assert "not found in the checkpoint" not in caplog.text


def test_its_own_file_loads_with_the_pairs(cfg, tmp_path):
    first, second = distilled(cfg, 4), distilled(cfg, 5)
    DetectionCheckpointer(first, str(tmp_path)).save("own")
    DetectionCheckpointer(second).load(str(tmp_path / "own.pth"))
    assert all(torch.equal(v, first.state_dict()[k]) for k, v in second.state_dict().items())


def test_a_zoo_pkl_with_caffe2_names_loads_into_the_students_backbone(cfg, tmp_path):
    """Detectron's ImageNet files name a residual unit ``res2_0_branch2a_w`` and its norm ``..._bn_s``/``_bn_b``."""
    source = build(detector_cfg(), seed=8).backbone.bottom_up
    branches = {"conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c", "shortcut": "branch1"}
    blobs = {
        "conv1_w": source.stem.conv1.weight.detach().numpy(),
        "res_conv1_bn_s": source.stem.conv1.norm.weight.numpy() * 3,
        "res_conv1_bn_b": source.stem.conv1.norm.bias.numpy() + 1,
    }
    for stage in ("res2", "res3", "res4", "res5"):
        for i, block in enumerate(getattr(source, stage)):
            for ours, theirs in branches.items():
                conv = getattr(block, ours, None)
                if conv is not None:
                    blobs[f"{stage}_{i}_{theirs}_w"] = conv.weight.detach().numpy()
                    blobs[f"{stage}_{i}_{theirs}_bn_s"] = conv.norm.weight.numpy() * 3
                    blobs[f"{stage}_{i}_{theirs}_bn_b"] = conv.norm.bias.numpy() + 1
    (tmp_path / "R-50.pkl").write_bytes(pickle.dumps(blobs))
    model = distilled(cfg)
    DetectionCheckpointer(model).load(str(tmp_path / "R-50.pkl"))
    loaded = model.student.backbone.bottom_up.state_dict()
    for key, tensor in source.state_dict().items():
        if key.endswith("norm.weight"):
            tensor = tensor * 3
        elif key.endswith("norm.bias"):
            tensor = tensor + 1
        if "running" not in key:
            assert torch.equal(loaded[key], tensor), key


def test_a_file_with_another_class_count_loads_but_for_the_classifier(cfg, tmp_path):
    other = build(detector_cfg(classes=7), seed=8)
    torch.save({"model": other.state_dict()}, tmp_path / "coco.pth")
    model = distilled(cfg)
    DetectionCheckpointer(model).load(str(tmp_path / "coco.pth"))
    assert torch.equal(model.student.backbone.fpn_lateral2.weight, other.backbone.fpn_lateral2.weight)
    assert model.student.roi_heads.box_predictor.cls_score.out_features == 3


def test_missing_keys_are_logged_by_their_plain_names(cfg, tmp_path, caplog):
    state = build(detector_cfg()).state_dict()
    del state["roi_heads.box_head.fc1.weight"]
    torch.save({"model": state}, tmp_path / "part.pth")
    DetectionCheckpointer(distilled(cfg)).load(str(tmp_path / "part.pth"))
    assert "roi_heads.box_head.fc1.weight" in caplog.text
    assert "student." not in caplog.text


def test_a_teacher_that_is_missing_half_matching_or_superfluous_is_an_error(tmp_path):
    model, state = build(detector_cfg()), build(detector_cfg(), 1).state_dict()
    with pytest.raises(FileNotFoundError, match="'big'"):
        load_teacher_weights(model, str(tmp_path / "none.pth"), name="big")
    with pytest.raises(ValueError, match="no WEIGHTS"):
        load_teacher_weights(model, "", name="big")
    for change, message in [
        (lambda s: s.pop("backbone.fpn_lateral2.weight"), "fpn_lateral2"),
        (lambda s: s.update({"mask_head.weight": torch.zeros(1)}), "mask_head.weight"),
        (lambda s: s.update({"backbone.fpn_lateral2.weight": torch.zeros(1)}), "other shapes"),
    ]:
        wrong = dict(state)
        change(wrong)
        torch.save(wrong, tmp_path / "wrong.pth")
        with pytest.raises(ValueError, match=message):
            load_teacher_weights(model, str(tmp_path / "wrong.pth"), name="big")
    torch.save({"model": {**state, "distill.ft.weight": torch.zeros(1)}}, tmp_path / "own.pth")
    load_teacher_weights(model, str(tmp_path / "own.pth"))
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_a_file_that_is_cut_short_is_an_error_for_people(tmp_path):
    torch.save({"model": {"a": torch.zeros(1000)}}, tmp_path / "a.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "a.pth").read_bytes()[:500])
    with pytest.raises(ValueError, match=r"cut\.pth is not a readable checkpoint"):
        read_weights(str(tmp_path / "cut.pth"))
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        load_teacher_weights(build(detector_cfg()), str(tmp_path / "cut.pth"))


def test_saving_is_atomic_and_resuming_takes_the_newest_readable_file(tmp_path, monkeypatch):
    model = torch.nn.Linear(2, 2)
    checkpointer = StudentCheckpointer(model, str(tmp_path))
    assert not checkpointer.has_checkpoint()
    checkpointer.save("model_0000001")
    checkpointer.save("model_0000002")
    assert checkpointer.get_checkpoint_file().endswith("model_0000002.pth")
    (tmp_path / "model_0000002.pth").write_bytes(b"PK half a file")
    assert checkpointer.get_checkpoint_file().endswith("model_0000001.pth")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpointer.save("model_0000003")
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "last_checkpoint",
        "model_0000001.pth",
        "model_0000002.pth",
    ]


def test_averaged_weights_are_no_checkpoint_to_resume_from(tmp_path):
    """They lie beside those of the iterations, and are the newest file."""
    checkpointer = StudentCheckpointer(torch.nn.Linear(2, 2), str(tmp_path))
    checkpointer.save("model_0000001")
    torch.save({"model": {}}, tmp_path / "model_ema.pth")
    (tmp_path / "last_checkpoint").unlink()
    assert checkpointer.get_checkpoint_file().endswith("model_0000001.pth")
    (tmp_path / "model_0000001.pth").unlink()
    assert not checkpointer.has_checkpoint()


def test_a_model_weights_that_is_cut_short_is_an_error_for_people(tmp_path):
    torch.save({"model": {"weight": torch.zeros(1000)}}, tmp_path / "cut.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "cut.pth").read_bytes()[:500])
    with pytest.raises(ValueError, match=r"cut\.pth is not a readable checkpoint"):
        StudentCheckpointer(torch.nn.Linear(2, 2)).load(str(tmp_path / "cut.pth"))
